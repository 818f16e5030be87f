"""The attack done otherwise, same images out: an engine of the product enters; it leaves with another attack.

They change `engine.attack_engine` alone, before its first step; the update, the k steps and their arithmetic on images
stay the product's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from srat_fast.attacks.engine import AttackEngine
from srat_fast.attacks.inner import ce
from srat_fast.attacks.pgd import pgd
from srat_fast.attacks.shadow import Shadow
from srat_fast.training.step import FastEngine


def with_shadow(engine: FastEngine, kind: type[Shadow], compiled: bool) -> FastEngine:
    """`engine` with another shadow.

    Args:
        engine: before its first step; returned.
        kind: of the shadow.
        compiled: compile it where the engine compiles.
    """
    old = engine.attack_engine.shadow
    dtype = old.network.backbone.conv1.weight.dtype
    shadow = kind(engine.model, dtype=dtype, bn=engine.recipe.attack.bn)
    forward: Callable[[Tensor], Tensor] = shadow
    if compiled and engine.recipe.run.compile == "on":
        forward = torch.compile(shadow, fullgraph=True, dynamic=False)
    engine.attack_engine.shadow, engine.attack_engine._forward = shadow, forward
    return engine


class LossInside(AttackEngine):
    """The loss compiled together with the network: its forward and backward are part of the neighbouring kernels."""

    def __call__(self, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
        if options.pop("eager", False):
            return super().__call__(images, labels, **options, eager=True)
        assert options.pop("loss") is ce, "the paper's attack"
        self.shadow.refresh()
        self.shadow.count(options["steps"])
        return pgd(
            lambda x: self._climbed(x, labels), images, labels, loss=lambda batch: batch.logits, **options
        )


def loss_inside(engine: FastEngine) -> FastEngine:
    """`engine` with `LossInside`.

    Args:
        engine: before its first step; returned.
    """
    attack, recipe = engine.attack_engine, engine.recipe
    attack.__class__ = LossInside

    def climbed(x: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(attack.shadow(x), labels)

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
        assert options.get("loss", ce) is ce, "a weighted mean would tie the halves together"
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
