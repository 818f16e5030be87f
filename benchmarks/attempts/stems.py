"""The first convolution done otherwise: a shadow of the product enters, one with the same logits and gradients leaves.

Its three input channels are what tensor cores take badly. The paper's network only, without normalisation.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from srat_fast.attacks.shadow import Shadow
from srat_fast.models.classifier import Classifier

#: Channels that tensor cores take in bf16 without padding of their own.
ALIGNED = 8


class PaddedStem(Shadow):
    """The first convolution with 8 input channels: 3 of the image, 5 of zeros, weights likewise."""

    def __init__(self, model: Classifier, *, dtype: torch.dtype, bn: str) -> None:
        super().__init__(model, dtype=dtype, bn=bn)
        assert not self.network.normalize, "zeros would have to be put in after the normalisation"
        stem = self.network.backbone.conv1
        source = stem.weight
        self._zeros = ALIGNED - source.shape[1]
        shape = (source.shape[0], ALIGNED, *source.shape[2:])
        weight = torch.zeros(shape, dtype=dtype, device=source.device)
        stem.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
        stem.in_channels = ALIGNED
        # what `refresh` writes to
        part = stem.weight[:, : source.shape[1]]
        if self._folded:
            self._folded[0] = SimpleNamespace(weight=part, bias=stem.bias)
        elif self._casts:
            self._casts[0] = part
        else:
            self._casts, self._sources = [part], [model.backbone.conv1.weight]
        self.refresh()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(functional.pad(images, (0, 0, 0, 0, 0, self._zeros)))


class _StemByForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, turned: Tensor) -> Tensor:
        ctx.save_for_backward(turned)
        ctx.channels = x.shape[1]
        return functional.conv2d(x, weight, padding=1)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (turned,) = ctx.saved_tensors
        return functional.conv2d(upstream, turned, padding=1)[:, : ctx.channels], None, None


class _Stem(nn.Module):
    """A 3x3 convolution whose input's gradient is a convolution too, with turned weights and 8 output channels."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        outputs = self.weight.shape[0]
        turned = torch.zeros((ALIGNED, outputs, 3, 3), dtype=self.weight.dtype, device=self.weight.device)
        self.register_buffer("turned", turned.contiguous(memory_format=torch.channels_last))

    def turn(self) -> None:
        self.turned[: self.weight.shape[1]].copy_(self.weight.flip(2, 3).transpose(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = _StemByForward.apply(x, self.weight, self.turned)
        return y if self.bias is None else y + self.bias.view(1, -1, 1, 1)


class TurnedStem(Shadow):
    """The gradient of the images as a forward convolution 64 -> 8: for 3 channels cuDNN has few kernels."""

    def __init__(self, model: Classifier, *, dtype: torch.dtype, bn: str) -> None:
        super().__init__(model, dtype=dtype, bn=bn)
        self.network.backbone.conv1 = _Stem(self.network.backbone.conv1)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        super().refresh()
        if isinstance(self.network.backbone.conv1, _Stem):
            self.network.backbone.conv1.turn()
