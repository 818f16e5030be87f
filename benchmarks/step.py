"""How fast a training step is, and what each trick is worth: `python benchmarks/step.py [--batch 128] [--bn running]`.

Parts of training: "attack" alone, "update" alone, "step" (both) on one resident batch, "epoch" (steps fed by the
memory loader, whole batches only: a partial one is another compilation and says nothing about speed).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.ladder import EAGER, PRODUCT, RUNGS, check, layout, make_engine, precision_of, warm
from benchmarks.measure import ON_GPU, Case, parsed, parser, peak_bytes, record, rows
from benchmarks.rows import Row
from benchmarks.work import (
    Work,
    batch_of,
    image_set,
    memory_loader,
    searched,
    with_search,
    with_size,
    work_of,
)
from srat_fast.data.memory import MemoryLoader
from srat_fast.models.build import forward_flops, training_flops
from srat_fast.training.step import FastEngine

#: What others are compared with: the whole baselines by every rung, those with one trick by the product.
ONE_TRICK = ("autocast-only", "compile-only")
REFERENCES = ("reference", "eager", *ONE_TRICK)
PARTS = ("step", "attack", "update", "epoch")
EPOCH_BATCHES = 16 if ON_GPU else 2
#: Rungs without compilation, which takes about a minute a rung on a CPU.
UNCOMPILED = ("reference", *(rung for rung in EAGER if not EAGER[rung].compiled), "shadow")


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
    """One part of training, by `rungs`; the `REFERENCES` among them are what the others are compared with."""
    work = built.work
    if (
        part == "epoch" and ON_GPU
    ):  # B^2 label comparisons in Python, each waiting for the GPU, times 16 batches
        rungs = tuple(rung for rung in rungs if rung != "reference")
    loader = memory_loader(image_set(EPOCH_BATCHES * work.batch), work.batch) if part == "epoch" else None
    functions = {rung: _call(built, part, rung, loader) for rung in rungs}
    model = built.engines[rungs[-1]].model
    forward, recipe = forward_flops(model, 32), work.recipe()
    whole = training_flops(forward, recipe)
    flops = {"attack": whole - 3 * forward, "update": 3 * forward}.get(part, whole)
    about = {name: getattr(work, name) for name in ("batch", "width", "steps", "bn")} | searched()
    references = tuple(rung for rung in REFERENCES if rung in rungs)
    images = work.batch * (EPOCH_BATCHES if part == "epoch" else 1)
    pairs = [(a, b) for a in rungs for b in references if a != b and compared(a, b, references)]
    return Case(part, about, functions, pairs, {rung: built.own[rung] for rung in rungs}, images, flops)


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


def compared(name: str, reference: str, references: tuple[str, ...]) -> bool:
    """Whether there is a row of the two: references among each other in order, one trick with the product only."""
    if reference in ONE_TRICK:
        return name.startswith(PRODUCT)
    return name not in references or references.index(reference) < references.index(name)


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    made = with_search(with_size(parser(__doc__)))
    made.add_argument(
        "--rungs", default=",".join(("reference", "eager", PRODUCT)), help=f"of {', '.join(RUNGS)}"
    )
    made.add_argument("--parts", default="step", help=f"of {', '.join(PARTS)}")
    found = parsed(made, arguments)
    for name, known in (("rungs", RUNGS), ("parts", PARTS)):
        chosen = tuple(getattr(found, name).split(","))
        if unknown := [each for each in chosen if each not in known]:
            made.error(f"--{name} = {','.join(unknown)}: of {', '.join(known)}")
        setattr(found, name, chosen)  # in their order: what is compiled first says what compiling takes
    if found.small:
        found.rungs = tuple(dict.fromkeys(r if r in UNCOMPILED else "shadow" for r in found.rungs))
    return found


def measured(found: argparse.Namespace) -> Iterator[Row]:
    """A row an implementation and reference, part by part."""
    torch.backends.cudnn.benchmark = found.search
    built = build(work_of(found), found.rungs)
    for part in found.parts:
        yield from rows(training_case(built, part, found.rungs), found.rounds, found.block)


if __name__ == "__main__":
    chosen = options()
    record(measured(chosen), chosen.out)
