"""The stages of a measurement, most important first: a stage enters, its rows leave one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks.engine.cases import PARTS, build, rows, training_case
from benchmarks.engine.ladder import PRODUCT, RUNGS
from benchmarks.engine.profiling import host_row
from benchmarks.engine.serving import evaluation_case, loader_case
from benchmarks.engine.work import BATCHES, ON_GPU, PRECISIONS, Work

#: Beside the reference engine: the same step with vectorised losses, the fairer yardstick (NOTES.md).
BASELINES = ("reference", "eager")
#: The ladder without what compiles: compiling takes about a minute a rung on a CPU.
UNCOMPILED = ("reference", "eager", "input-gradients", "autocast", "shadow")
MAIN = PRECISIONS[0]  # bf16 where the device computes in it


class Stage(NamedTuple):
    """A part of the measurement.

    Attributes:
        name: unique.
        work: its size.
        rungs: of the ladder; empty for stages of another kind.
        parts: of `cases.PARTS`.
    """

    name: str
    work: Work
    rungs: tuple[str, ...] = (*BASELINES, PRODUCT)
    parts: tuple[str, ...] = PARTS


def _work(batch: int, bn: str, precision: str = MAIN, method: str = "srat-ldam") -> Work:
    return Work(method, batch, bn, precision)


def stages() -> list[Stage]:
    """Every stage of this machine, those of the performance goals first."""
    if not ON_GPU:
        return [
            Stage("ladder", _work(32, "batch"), UNCOMPILED),
            Stage("running-32", _work(32, "running")),
            Stage("fp32-batch-32", _work(32, "batch", "fp32")),
            Stage("host", _work(32, "batch"), (), ("host",)),
            Stage("loader", _work(32, "batch"), (), ("loader",)),
            Stage("evaluation", _work(32, "batch"), (), ("evaluation",)),
        ]
    others = [
        Stage(
            f"{precision}-{bn}-{batch}{'-ce' if method == 'ce' else ''}", _work(batch, bn, precision, method)
        )
        for precision in PRECISIONS
        for batch in BATCHES
        for bn in ("running", "batch")
        for method in (("srat-ldam", "ce") if batch > 256 else ("srat-ldam",))
    ]
    main = [f"{MAIN}-batch-128", f"{MAIN}-running-128", f"{MAIN}-running-512", f"{MAIN}-running-512-ce"]
    first = [stage for name in main for stage in others if stage.name == name]
    small = [
        Stage("host", _work(128, "batch"), (), ("host",)),
        Stage("loader", _work(128, "batch"), (), ("loader",)),
        Stage("evaluation", _work(512, "batch"), (), ("evaluation",)),
    ]
    ladder = Stage("ladder", _work(128, "batch"), RUNGS, ("step",))
    return [*first, *small, ladder, *(stage for stage in others if stage not in first)]


def quick_stages() -> list[Stage]:
    """What shows within a minute or two that everything works: the smallest batch, whole steps only."""
    few = [s for s in stages() if s.work[1:4] in ((BATCHES[0], bn, MAIN) for bn in ("batch", "running"))]
    few = [s for s in few if not (ON_GPU and s.name == "ladder")]
    return [s._replace(parts=("step",)) if s.rungs else s for s in few]


def run(stage: Stage, rounds: int, block: float) -> Iterator[dict[str, Any]]:
    """Measure a stage.

    Args:
        stage: see `Stage`.
        rounds: turns of each implementation.
        block: seconds a turn.

    Yields:
        Rows as they are measured.

    Raises:
        AssertionError: a gate failed; what it guards has no row.
    """
    if stage.parts == ("host",):
        yield host_row(stage.work)
    elif stage.parts == ("loader",):
        yield from rows(loader_case(stage.work.batch), rounds, block)
    elif stage.parts == ("evaluation",):
        yield from rows(evaluation_case(stage.work), rounds, block)
    else:
        built = build(stage.work, stage.rungs)
        for part in sorted(stage.parts, key=("step", "attack", "update", "epoch").index):
            yield from rows(training_case(built, part, stage.rungs), rounds, block)
