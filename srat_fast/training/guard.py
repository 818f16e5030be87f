"""Guard of a step: loss and gradient enter; whether they are finite decides, on the device, if the update happens.

Nothing here waits for the device, so it can be part of a captured graph. The first step that is not finite is
latched: it and all later ones leave weights and momentum as they are, and the running statistics before it are kept.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from srat_fast.errors import TrainingFailure


class NotFinite(TrainingFailure):
    """A loss or gradient that is not finite.

    Args:
        problem: which, in which step.
    """


class StepGuard:
    """Keeps a model at its last finite state.

    Args:
        model: on its device; its floating-point and integer buffers are kept from before each step.
    """

    def __init__(self, model: nn.Module) -> None:
        buffers = list(model.buffers())
        device = buffers[0].device
        floats = [b for b in buffers if b.is_floating_point()]
        self._groups = [
            group for group in (floats, [b for b in buffers if not b.is_floating_point()]) if group
        ]
        self._kept = [_flat(group).clone() for group in self._groups]
        #: steps begun in this epoch; the first that was not finite, or 0; its loss; 1.0 from that step on.
        self.steps, self.bad = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))
        self.loss, self.found = (torch.zeros(1, dtype=torch.float32, device=device) for _ in range(2))

    def tensors(self) -> list[Tensor]:
        """What a step changes in place.

        Returns:
            The guard's own tensors.
        """
        return [self.steps, self.bad, self.loss, self.found, *self._kept]

    def before_step(self) -> None:
        """Keep the running statistics, unless a step was not finite."""
        for kept, group in zip(self._kept, self._groups, strict=True):
            kept.copy_(torch.where(self.bad > 0, kept, _flat(group)))

    def check(self, total: Tensor, norm: Tensor) -> None:
        """Decide on the update that follows; `found` is what a fused optimiser takes as `found_inf`.

        Args:
            total: the loss, scalar.
            norm: of the gradient, scalar.
        """
        self.steps += 1
        finite = torch.isfinite(total) & torch.isfinite(norm)
        first = ~finite & (self.bad == 0)
        self.bad += first * self.steps
        self.loss.copy_(torch.where(first, total.detach().float(), self.loss))
        self.found.copy_(self.bad > 0)

    def settle(self) -> None:
        """Put the running statistics back to those before the step that was not finite."""
        for kept, group in zip(self._kept, self._groups, strict=True):
            for buffer, old in zip(group, kept.split([b.numel() for b in group]), strict=True):
                buffer.copy_(old.view_as(buffer))


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


class LateReader:
    """Reads a device's integer without waiting for it: on a GPU as it was some steps ago.

    Args:
        source: [1] int64.
    """

    def __init__(self, source: Tensor) -> None:
        self._source = source
        self._event: torch.cuda.Event | None = None
        self._copy = torch.zeros(1, dtype=torch.int64, pin_memory=True) if source.is_cuda else source

    def poll(self) -> int:
        """The value as of some steps ago; on a CPU as of now.

        Returns:
            The integer.
        """
        if not self._source.is_cuda:
            return int(self._source)
        if self._event is not None and not self._event.query():
            return 0
        value = 0 if self._event is None else int(self._copy)
        self._copy.copy_(self._source, non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record()
        return value

    def now(self) -> int:
        """The value as of now; waits for the device.

        Returns:
            The integer.
        """
        return int(self._source)
