"""A moving average of the weights: a model in training enters, its average leaves. Never waits for the device."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from srat_fast.models.resnet import ResNet18


class MovingAverage:
    """Exponential moving average of a model's parameters; BatchNorm statistics are those of the model.

    Args:
        model: in training.
        decay: share of the old average that stays at each update.
    """

    def __init__(self, model: ResNet18, decay: float) -> None:
        self.module = copy.deepcopy(model).requires_grad_(False)
        self._decay = decay
        self._average: list[Tensor] = list(self.module.parameters())
        self._source: list[Tensor] = list(model.parameters())
        pairs = list(zip(self.module.buffers(), model.buffers(), strict=True))
        self._buffers = [  # by type: copies of one type are one launch
            (
                [own for own, _ in pairs if own.dtype == kind],
                [source for _, source in pairs if source.dtype == kind],
            )
            for kind in {own.dtype for own, _ in pairs}
        ]

    @torch.no_grad()
    def update(self, frozen: Tensor | None = None) -> None:
        """Average in the model's present weights; once a step.

        Args:
            frozen: [1], 1.0 on the device where nothing is to be averaged in any more, else 0.0.
        """
        if frozen is None:
            torch._foreach_lerp_(self._average, self._source, 1.0 - self._decay)
        else:  # the share is known to the device only
            share = ((1.0 - frozen) * (1.0 - self._decay)).squeeze()
            difference = torch._foreach_sub(self._source, self._average)
            torch._foreach_mul_(difference, share)
            torch._foreach_add_(self._average, difference)
        self.copy_statistics()

    @torch.no_grad()
    def copy_statistics(self) -> None:
        """Take over the model's BatchNorm statistics."""
        for own, source in self._buffers:
            torch._foreach_copy_(own, source)
