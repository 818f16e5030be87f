"""What is timed: a size enters; cases leave, each with one callable per implementation, all past their gate.

Parts of training: "attack" alone, "update" alone, "step" (both) on one resident batch, "epoch" (steps fed by the
memory loader, whole batches only: a partial one is another compilation and says nothing about speed).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.engine.ladder import PRODUCT, check, layout, make_engine, precision_of, warm
from benchmarks.engine.work import DEVICE, ON_GPU, Work, batch_of, image_set, memory_loader
from benchmarks.measure import peak_bytes, spread, take_turns
from srat_fast.data.memory import MemoryLoader
from srat_fast.hardware import peak_flops
from srat_fast.models.build import forward_flops, training_flops
from srat_fast.training.step import FastEngine

#: What others are compared with: the whole baselines by every rung, those with one trick by the product.
ONE_TRICK = ("autocast-only", "compile-only")
REFERENCES = ("reference", "eager", *ONE_TRICK)
PARTS = ("attack", "update", "step", "epoch")
EPOCH_BATCHES = 16 if ON_GPU else 2


class Case(NamedTuple):
    """Callables that do the same work, and what a row says about them.

    Attributes:
        op: what is timed.
        about: fields of every row of the case.
        functions: implementation -> one call.
        references: the implementations that others are compared with.
        images: of one call.
        flops: of one image (performance.md), whatever an implementation spends beyond; None where it has no meaning.
        own: implementation -> its fields: method, precision, peak_bytes, compile_seconds.
    """

    op: str
    about: dict[str, Any]
    functions: dict[str, Callable[[], object]]
    references: tuple[str, ...]
    images: int
    flops: float | None
    own: dict[str, dict[str, Any]]

    def __str__(self) -> str:
        return " ".join([self.op, *(f"{name}={value}" for name, value in self.about.items())])


class Engines(NamedTuple):
    """Engines of one size, warm and checked: rung -> engine, and what rows say of each."""

    work: Work
    images: Tensor
    labels: Tensor
    engines: dict[str, Any]
    own: dict[str, dict[str, Any]]


def build(work: Work, rungs: tuple[str, ...]) -> Engines:
    """Engines for `rungs`, past the gate.

    The oracle is the reference engine; where its separation loss is too slow (`LARGEST_SEPARATION`) it is the eager
    rung, which the gate compares with the reference at smaller batches.

    Args:
        work: the size.
        rungs: of `ladder.RUNGS`.

    Raises:
        AssertionError: an engine failed the gate.
    """
    images, labels = batch_of(work)
    engines: dict[str, Any] = {}
    own: dict[str, dict[str, Any]] = {}
    for rung in rungs:
        method = work.reference_method if rung == "reference" else work.method

        before = _cache_counts()

        # dynamo runs one engine with what it compiled for another of the same mode, whose row would say that compiling
        # takes nothing; those before it compile again in their check, from the cache on disk
        torch.compiler.reset()

        def start(rung: str = rung, method: str = method) -> None:
            engine = make_engine(rung, work._replace(method=method))
            batch = layout(rung, images)
            warm(engine, batch, labels)
            engine.step(batch, labels)
            engines[rung] = engine

        # from nothing to the first step: weights, start-up check and capture included, for all alike
        memory = peak_bytes(start)
        own[rung] = {
            "method": method,
            "precision": precision_of(rung, work),
            "peak_bytes": memory,
            **_compilation(rung, engines[rung], before),
        }
    oracle = make_engine("reference" if work.reference_method == work.method else "eager", work)
    yardstick = make_engine("autocast", work)
    for helper in (oracle, yardstick):
        warm(helper, images, labels)
    for rung in rungs:
        if own[rung]["method"] == work.method:
            check(rung, engines[rung], oracle, yardstick, work, images, labels)
    return Engines(work, images, labels, engines, own)


def _compilation(rung: str, engine: Any, before: dict[str, int]) -> dict[str, Any]:
    """What compiling took; none of it where nothing was compiled."""
    if not isinstance(engine, FastEngine) or engine.recipe.run.compile == "off":
        return {"compile_seconds": round(getattr(engine, "compile_seconds", 0.0), 2)}
    found = {name: count - before[name] for name, count in _cache_counts().items()}
    mode = engine.recipe.run.compile_mode
    return {"compile_seconds": round(engine.compile_seconds, 2), "compile_mode": mode, **found}


def _cache_counts() -> dict[str, int]:
    """Graphs that inductor has taken from its cache on disk, and that it had to compile, so far."""
    if "torch._dynamo" not in sys.modules:  # nothing has been compiled, and importing it takes seconds
        return {"cache_hits": 0, "cache_misses": 0}
    counts = torch._dynamo.utils.counters
    hits = counts["inductor"]["fxgraph_cache_hit"] + counts["aot_autograd"]["autograd_cache_hit"]
    return {"cache_hits": hits, "cache_misses": counts["inductor"]["fxgraph_cache_miss"]}


def training_case(built: Engines, part: str, rungs: tuple[str, ...]) -> Case:
    """One part of training.

    Args:
        built: engines for `rungs` at least.
        part: of `PARTS`.
        rungs: `REFERENCES` among them are what the others are compared with. A GPU's epoch leaves the
            reference out: B^2 label comparisons in Python, each waiting for the GPU, times 16 batches.
    """
    work = built.work
    if part == "epoch" and ON_GPU:
        rungs = tuple(rung for rung in rungs if rung != "reference")
    loader = memory_loader(image_set(EPOCH_BATCHES * work.batch), work.batch) if part == "epoch" else None
    functions = {rung: _call(built, part, rung, loader) for rung in rungs}
    model = built.engines[rungs[-1]].model
    forward, recipe = forward_flops(model, 32), work.recipe()
    whole = training_flops(forward, recipe)
    flops = {"attack": whole - 3 * forward, "update": 3 * forward}.get(part, whole)
    about = {name: getattr(work, name) for name in ("batch", "width", "steps", "bn")}
    references = tuple(rung for rung in REFERENCES if rung in rungs)
    images = work.batch * (EPOCH_BATCHES if part == "epoch" else 1)
    return Case(part, about, functions, references, images, flops, {rung: built.own[rung] for rung in rungs})


def _call(built: Engines, part: str, rung: str, loader: MemoryLoader | None) -> Callable[[], object]:
    engine, labels = built.engines[rung], built.labels
    if loader is None:
        images = layout(rung, built.images)
        function = getattr(engine, part)
        return lambda: function(images, labels)

    def epoch() -> None:
        engine.start_epoch(0)
        for batch in loader.epoch(0):
            engine.step(*batch)

    return epoch


def rows(case: Case, rounds: int, block: float) -> Iterator[dict[str, Any]]:
    """Time all implementations in turns.

    Args:
        case: past its gate.
        rounds: turns of each implementation, at least 2.
        block: seconds a turn; one call at least.

    Yields:
        A row per implementation and reference; ratio > 1 means faster than the reference.
    """
    times = take_turns(case.functions, rounds, block, warmup=1)
    for name, taken in times.items():
        for reference in case.references:
            if not compared(name, reference, case.references):
                continue
            ratios = [theirs / ours for ours, theirs in zip(taken, times[reference], strict=True)]
            yield {
                "op": case.op,
                **case.about,
                "implementation": name,
                "reference": reference,
                **case.own[name],
                "microseconds": spread(taken),
                "reference_microseconds": spread(times[reference]),
                "ratio": spread(ratios),
                "images_per_second": _rate(case, taken),
                "mfu": _mfu(case, name, taken),
                **{f"reference_{key}": value for key, value in case.own[reference].items()},
                "reference_images_per_second": _rate(case, times[reference]),
                "reference_mfu": _mfu(case, reference, times[reference]),
            }


def compared(name: str, reference: str, references: tuple[str, ...]) -> bool:
    """Whether there is a row of the two: references among each other in order, one trick with the product only."""
    if reference in ONE_TRICK:
        return name.startswith(PRODUCT)
    return name not in references or references.index(reference) < references.index(name)


def _rate(case: Case, taken: list[float]) -> float:
    return round(case.images / spread(taken)["median"] * 1e6, 2)


def _mfu(case: Case, name: str, taken: list[float]) -> float | None:
    """Share of the device's matrix-product rate in the implementation's precision; None where no rate is known."""
    peak = peak_flops(DEVICE, case.own[name].get("precision", "fp32"))
    return None if peak is None or case.flops is None else round(_rate(case, taken) * case.flops / peak, 4)
