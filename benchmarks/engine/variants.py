"""The attack done otherwise, same images out: an engine of the product enters, one with another forward pass leaves.

Each is what an attempt (`attempts.py`) measures. They change `engine.attack_engine` alone, before its first step; the
update, the k steps and their arithmetic on images stay the product's. The paper's network only, without normalisation.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.engine.fused_norm import Saved, masked_sum, norm_backward, norm_forward
from srat_fast.attacks.engine import AttackEngine
from srat_fast.attacks.pgd import cross_entropy, pgd
from srat_fast.attacks.shadow import Shadow
from srat_fast.models.resnet import ResNet18
from srat_fast.training.step import FastEngine

#: Channels that tensor cores take in bf16 without padding of their own.
ALIGNED = 8


def with_shadow(engine: FastEngine, kind: type[Shadow], compiled: bool) -> FastEngine:
    """`engine` with another shadow.

    Args:
        engine: before its first step; returned.
        kind: of the shadow.
        compiled: compile it where the engine compiles.
    """
    old = engine.attack_engine.shadow
    dtype = old.network.conv1.weight.dtype
    shadow = kind(engine.model, dtype=dtype, bn=engine.recipe.attack.bn)
    forward: Callable[[Tensor], Tensor] = shadow
    if compiled and engine.recipe.run.compile == "on":
        forward = torch.compile(shadow, fullgraph=True, dynamic=False)
    engine.attack_engine.shadow, engine.attack_engine._forward = shadow, forward
    return engine


class PaddedStem(Shadow):
    """The first convolution with 8 input channels: 3 of the image, 5 of zeros, weights likewise."""

    def __init__(self, model: ResNet18, *, dtype: torch.dtype, bn: str) -> None:
        super().__init__(model, dtype=dtype, bn=bn)
        assert not self.network.normalize, "zeros would have to be put in after the normalisation"
        stem = self.network.conv1
        source = stem.weight
        self._zeros = ALIGNED - source.shape[1]
        shape = (source.shape[0], ALIGNED, *source.shape[2:])
        weight = torch.zeros(shape, dtype=dtype, device=source.device)
        stem.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
        stem.in_channels = ALIGNED
        # what `refresh` writes to
        self._convolutions[0] = SimpleNamespace(weight=stem.weight[:, : source.shape[1]], bias=stem.bias)
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

    def __init__(self, model: ResNet18, *, dtype: torch.dtype, bn: str) -> None:
        super().__init__(model, dtype=dtype, bn=bn)
        self.network.conv1 = _Stem(self.network.conv1)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        super().refresh()
        if isinstance(self.network.conv1, _Stem):
            self.network.conv1.turn()


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

    def __init__(self, model: ResNet18, *, dtype: torch.dtype, bn: str) -> None:
        super().__init__(model, dtype=dtype, bn=bn)
        assert bn == "batch", "with running statistics there is no BatchNorm left"
        assert not self.network.normalize, "the paper's network only"
        device = model.conv1.weight.device
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                counter = torch.zeros(module.num_features // 64 + 1, dtype=torch.int32, device=device)
                module.register_buffer("counter", counter, persistent=False)

    def run(self, images: Tensor) -> tuple[Tensor, list[Any]]:
        def step(x: Tensor, module: Any, **options: Any) -> Saved:
            return norm_forward(x, module, module.counter, **options)

        network = self.network
        pixels = images.to(network.conv1.weight.dtype)
        stem = step(network.conv1(pixels), network.bn1)
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
        return _to_input(inner, pixels, network.conv1)


class FusedConvolution(ByHand):
    """attack_bn running: bias, sum and ReLU inside of cuDNN's convolution; nothing is compiled."""

    def __init__(self, model: ResNet18, *, dtype: torch.dtype, bn: str) -> None:
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
        pixels = images.to(network.conv1.weight.dtype)
        x = _convolution_relu(pixels, network.conv1, network.conv1.bias)
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
        return _to_input(masked_sum(gradient, stem, other), pixels, network.conv1)


def _convolution_relu(x: Tensor, convolution: nn.Conv2d, bias: Tensor, other: Tensor | None = None) -> Tensor:
    """relu( convolution(x) + bias + other ): one cuDNN call on a GPU, the formula elsewhere."""
    weight, stride, padding = convolution.weight, convolution.stride, convolution.padding
    if not x.is_cuda:
        y = functional.conv2d(x, weight, bias, stride, padding)
        return functional.relu(y if other is None else y + other)
    if other is None:
        return torch.cudnn_convolution_relu(x, weight, bias, stride, padding, [1, 1], 1)
    return torch.cudnn_convolution_add_relu(x, weight, other, 1.0, bias, stride, padding, [1, 1], 1)


def _blocks(network: ResNet18) -> list[Any]:
    return [b for stage in (network.layer1, network.layer2, network.layer3, network.layer4) for b in stage]


class LossInside(AttackEngine):
    """The loss compiled together with the network: its forward and backward are part of the neighbouring kernels."""

    def __call__(self, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
        if options.pop("eager", False):
            return super().__call__(images, labels, **options, eager=True)
        assert options.pop("loss") is cross_entropy, "the paper's attack"
        self.shadow.refresh()
        self.shadow.count(options["steps"])
        return pgd(lambda x: self._climbed(x, labels), images, labels, loss=lambda value, _: value, **options)


def loss_inside(engine: FastEngine) -> FastEngine:
    """`engine` with `LossInside`.

    Args:
        engine: before its first step; returned.
    """
    attack, recipe = engine.attack_engine, engine.recipe
    attack.__class__ = LossInside

    def climbed(x: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(attack.shadow(x), labels)

    on = recipe.run.compile == "on"
    attack._climbed = torch.compile(climbed, fullgraph=True, dynamic=False) if on else climbed
    return engine


class Halves(AttackEngine):
    """Two halves of the batch on two streams: where one half leaves multiprocessors idle, the other runs.

    With running statistics images have nothing to do with each other, and the sign of a gradient does not see that the
    mean is over half as many.
    """

    def __call__(self, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
        start = images if options.get("start") is None else options["start"]
        forward = self.shadow if options.get("eager", False) else self._forward
        assert options.get("loss", cross_entropy) is cross_entropy, (
            "a weighted mean would tie the halves together"
        )
        self.shadow.refresh()
        kept = {name: options[name] for name in ("ball", "steps", "step_size")}
        middle, found = len(images) // 2, []
        counters = [[options.get("nonfinite"), options.get("zero")] for _ in range(2)]
        counters[1] = [None if c is None else torch.zeros_like(c) for c in counters[1]]
        side = torch.cuda.Stream() if images.is_cuda else None
        if side is not None:
            side.wait_stream(torch.cuda.current_stream())
        for number, part in enumerate((slice(middle, None), slice(0, middle))):
            with torch.cuda.stream(side if number == 0 else None):  # None: where we are
                bad, zero = counters[1 - number]
                x = pgd(
                    forward, images[part], labels[part], start=start[part], nonfinite=bad, zero=zero, **kept
                )
                found.append(x)
        if side is not None:
            torch.cuda.current_stream().wait_stream(side)
        for own, other in zip(*counters, strict=True):
            if own is not None:
                own += other
        return torch.cat(found[::-1]).contiguous(memory_format=torch.channels_last)


def halves(engine: FastEngine) -> FastEngine:
    """`engine` with `Halves`.

    Args:
        engine: with running statistics, before its first step; returned.
    """
    assert engine.recipe.attack.bn == "running", "batch statistics are of the whole batch"
    engine.attack_engine.__class__ = Halves
    return engine
