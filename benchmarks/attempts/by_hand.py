"""Shadows that know their own way back: the product's logits and gradients, by fewer and larger kernels.

Nothing of them is compiled. The paper's network only, without normalisation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.attempts.fused_norm import Saved, masked_sum, norm_backward, norm_forward
from srat_fast.attacks.shadow import Shadow
from srat_fast.models.classifier import Classifier


class _ByHand(torch.autograd.Function):
    """A shadow that knows its own way back, as one node of autograd's graph."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, shadow: Any) -> Tensor:
        logits, ctx.tape = shadow.run(images)
        ctx.shadow, ctx.dtype = shadow, images.dtype
        return logits

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        return ctx.shadow.back(upstream, ctx.tape).to(ctx.dtype), None


class ByHand(Shadow):
    """Base of shadows whose gradient of the images is written out: a block's two gradients meet inside of a kernel."""

    def forward(self, images: Tensor) -> Tensor:
        return _ByHand.apply(images, self)

    def _head(self, x: Tensor) -> Tensor:
        linear = self.network.linear
        return linear(x.to(linear.weight.dtype).mean(dim=(2, 3)))

    def _head_back(self, upstream: Tensor, x: Tensor) -> Tensor:
        gradient = upstream @ self.network.linear.weight / (x.shape[2] * x.shape[3])
        return torch.empty_like(x).copy_(gradient[:, :, None, None])


def _to_input(gradient: Tensor, x: Tensor, convolution: nn.Conv2d) -> Tensor:
    """The gradient of a convolution's input."""
    return torch.ops.aten.convolution_backward(
        gradient, x, convolution.weight, None, convolution.stride, convolution.padding, [1, 1], False, [0, 0], 1,
        [True, False, False],
    )[0]  # fmt: skip


class FusedNorm(ByHand):
    """attack_bn batch: BatchNorm, sum and ReLU by the two kernels of `norm_kernels.py`; nothing is compiled."""

    def __init__(self, model: Classifier, *, dtype: torch.dtype, bn: str) -> None:
        super().__init__(model, dtype=dtype, bn=bn)
        assert bn == "batch", "with running statistics there is no BatchNorm left"
        assert not self.network.normalize, "the paper's network only"
        device = model.backbone.conv1.weight.device
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                counter = torch.zeros(module.num_features // 64 + 1, dtype=torch.int32, device=device)
                module.register_buffer("counter", counter, persistent=False)

    def run(self, images: Tensor) -> tuple[Tensor, list[Any]]:
        def step(x: Tensor, module: Any, **options: Any) -> Saved:
            return norm_forward(x, module, module.counter, **options)

        network = self.network
        pixels = images.to(network.backbone.conv1.weight.dtype)
        stem = step(network.backbone.conv1(pixels), network.backbone.bn1)
        tape: list[Any] = [(pixels, stem)]
        x = stem.y
        for block in _blocks(network):
            first = step(block.conv1(x), block.bn1)
            short = step(block.shortcut[0](x), block.shortcut[1], relu=False) if block.shortcut else None
            second = step(block.conv2(first.y), block.bn2, residual=x if short is None else short.y)
            tape.append((x, first, short, second))
            x = second.y
        return self._head(x), tape

    def back(self, upstream: Tensor, tape: list[Any]) -> Tensor:
        network = self.network
        gradient, other = self._head_back(upstream, tape[-1][-1].y), None
        for block, (x, first, short, second) in zip(_blocks(network)[::-1], tape[:0:-1], strict=True):
            inner, other = norm_backward(second, gradient, other=other, branch=True)
            inner, _ = norm_backward(first, _to_input(inner, first.y, block.conv2))
            gradient = _to_input(inner, x, block.conv1)
            if short is not None:
                inner, _ = norm_backward(short, other)
                other = _to_input(inner, x, block.shortcut[0])
        pixels, stem = tape[0]
        inner, _ = norm_backward(stem, gradient, other=other)
        return _to_input(inner, pixels, network.backbone.conv1)


class FusedConvolution(ByHand):
    """attack_bn running: bias, sum and ReLU inside of cuDNN's convolution; nothing is compiled."""

    def __init__(self, model: Classifier, *, dtype: torch.dtype, bn: str) -> None:
        super().__init__(model, dtype=dtype, bn=bn)
        assert bn == "running", "batch statistics lie between convolution and bias"
        assert not self.network.normalize, "the paper's network only"
        for block in _blocks(self.network):
            bias = torch.zeros_like(block.conv2.bias)
            block.register_buffer("both", bias, persistent=False)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        super().refresh()
        for block in _blocks(self.network):
            if hasattr(block, "both"):  # not yet so while the base class makes itself
                block.both.copy_(block.conv2.bias)
                if block.shortcut:  # its bias ends in the same sum
                    block.both.add_(block.shortcut[0].bias)

    def run(self, images: Tensor) -> tuple[Tensor, list[Any]]:
        network = self.network
        pixels = images.to(network.backbone.conv1.weight.dtype)
        x = _convolution_relu(pixels, network.backbone.conv1, network.backbone.conv1.bias)
        tape: list[Any] = [(pixels, x)]
        for block in _blocks(network):
            first = _convolution_relu(x, block.conv1, block.conv1.bias)
            short = x
            if block.shortcut:
                short = functional.conv2d(x, block.shortcut[0].weight, None, block.shortcut[0].stride)
            tape.append((x, first, y := _convolution_relu(first, block.conv2, block.both, short)))
            x = y
        return self._head(x), tape

    def back(self, upstream: Tensor, tape: list[Any]) -> Tensor:
        network = self.network
        gradient, other = self._head_back(upstream, tape[-1][-1]), None
        for block, (x, first, y) in zip(_blocks(network)[::-1], tape[:0:-1], strict=True):
            other = masked_sum(gradient, y, other)
            inner = masked_sum(_to_input(other, first, block.conv2), first)
            gradient = _to_input(inner, x, block.conv1)
            if block.shortcut:
                other = _to_input(other, x, block.shortcut[0])
        pixels, stem = tape[0]
        return _to_input(masked_sum(gradient, stem, other), pixels, network.backbone.conv1)


def _convolution_relu(x: Tensor, convolution: nn.Conv2d, bias: Tensor, other: Tensor | None = None) -> Tensor:
    """relu( convolution(x) + bias + other ): one cuDNN call on a GPU, the formula elsewhere."""
    weight, stride, padding = convolution.weight, convolution.stride, convolution.padding
    if not x.is_cuda:
        y = functional.conv2d(x, weight, bias, stride, padding)
        return functional.relu(y if other is None else y + other)
    if other is None:
        return torch.cudnn_convolution_relu(x, weight, bias, stride, padding, [1, 1], 1)
    return torch.cudnn_convolution_add_relu(x, weight, other, 1.0, bias, stride, padding, [1, 1], 1)


def _blocks(network: Classifier) -> list[Any]:
    body = network.backbone
    return [b for stage in (body.layer1, body.layer2, body.layer3, body.layer4) for b in stage]
