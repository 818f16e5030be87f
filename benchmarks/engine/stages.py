"""The stages of a measurement, most important first: a stage enters, its rows leave one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks.engine.cases import ONE_TRICK, PARTS, build, rows, training_case
from benchmarks.engine.ladder import PRODUCT, RUNGS
from benchmarks.engine.network import network_row
from benchmarks.engine.profiling import profile_row
from benchmarks.engine.serving import EVALUATION_STEPS, evaluation_case, loader_case
from benchmarks.engine.work import BATCHES, ON_GPU, PRECISIONS, Work

#: Beside the reference engine: the same step with vectorised losses, the fairer yardstick (NOTES.md).
BASELINES = ("reference", "eager")
#: What the product is held against where nothing but the step is measured: (a), (b) and (c) of the shares table.
YARDSTICKS = ("eager", *ONE_TRICK)
#: Stages that are no part of training.
OTHERS = ("profile", "network", "loader", "evaluation")
#: The ladder without what compiles: compiling takes about a minute a rung on a CPU.
UNCOMPILED = ("reference", "eager", "autocast-only", "input-gradients", "autocast", "shadow")
#: The ladder of a GPU; compile modes are another stage. The product is compiled before what shares its code, so
#: that its row says what compiling it takes.
LADDER = (*(rung for rung in RUNGS if rung not in ("compiled", "captured-max")), "compiled")
MAIN = PRECISIONS[0]  # bf16 where the device computes in it


class Stage(NamedTuple):
    """A part of the measurement.

    Attributes:
        name: unique.
        work: its size.
        rungs: of the ladder; empty for stages of another kind.
        parts: of `cases.PARTS`, or one of `OTHERS`.
        seconds: that it should take at most on a GPU, compilation included.
    """

    name: str
    work: Work
    rungs: tuple[str, ...] = (*BASELINES, PRODUCT)
    parts: tuple[str, ...] = PARTS
    seconds: float = 120


def _work(batch: int, bn: str, precision: str = MAIN, method: str = "srat-ldam") -> Work:
    return Work(method, batch, bn, precision)


def stages() -> list[Stage]:
    """Every stage of this machine, those of the performance goals first."""
    return _gpu_stages() if ON_GPU else _cpu_stages()


def _cpu_stages() -> list[Stage]:
    return [
        Stage("ladder", _work(32, "batch"), UNCOMPILED),
        Stage("running-32", _work(32, "running")),
        Stage("fp32-batch-32", _work(32, "batch", "fp32")),
        *(Stage(name, _work(32, "batch"), (), (name,)) for name in OTHERS),
    ]


def _gpu_stages() -> list[Stage]:
    """First each figure of a goal, then what explains it, then the other sizes."""
    step, rest = ("step",), ("attack", "update", "epoch")
    first = [
        Stage("ladder", _work(128, "batch"), LADDER, step, 280),
        Stage("running-128", _work(128, "running"), ("eager", "autocast-only", PRODUCT), step, 150),
        Stage("running-512", _work(512, "running"), ("eager", "autocast-only", PRODUCT), step, 150),
        Stage("profile", _work(128, "batch"), (), ("profile",), 120),
        Stage("network", _work(128, "batch"), (), ("network",), 240),
        Stage("evaluation", _work(512, "batch"), (), ("evaluation",), 90),
        Stage("loader", _work(128, "batch"), (), ("loader",), 90),
        Stage("parts-128", _work(128, "batch"), ("eager", PRODUCT), rest, 150),
        Stage("batch-512", _work(512, "batch"), (*YARDSTICKS, PRODUCT), step, 200),
        Stage("network-512", _work(512, "batch"), (), ("network",), 240),
        Stage("parts-running-512", _work(512, "running"), ("eager", PRODUCT), rest, 150),
        Stage("profile-running-512", _work(512, "running"), (), ("profile",), 120),
        # last of these: the search tries 10 to 17 kernels for each shape of a convolution, which takes minutes
        Stage("modes", _work(128, "batch"), ("eager", PRODUCT, "captured-max"), step, 400),
    ]
    others = [
        Stage(
            f"{precision}-{bn}-{batch}{'-ce' if method == 'ce' else ''}",
            _work(batch, bn, precision, method),
            ("eager", PRODUCT),
            step,
        )
        for precision in PRECISIONS
        for batch in BATCHES
        for bn in ("running", "batch")
        for method in (("srat-ldam", "ce") if batch > 256 else ("srat-ldam",))
    ]
    measured = {stage.work for stage in first if stage.parts == step}
    return [*first, *(stage for stage in others if stage.work not in measured)]


def quick_stages() -> list[Stage]:
    """What shows within a minute or two that everything works: the smallest batch, whole steps only."""
    names = ("ladder", f"running-{BATCHES[0]}", *OTHERS)
    few = [stage for stage in stages() if stage.name in names]
    return [
        s._replace(parts=("step",), rungs=("eager", "autocast-only", PRODUCT)) if s.rungs else s for s in few
    ]


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
    if stage.parts == ("profile",):
        yield profile_row(stage.work)
    elif stage.parts == ("network",):
        yield network_row(stage.work, rounds, block / 6)
    elif stage.parts == ("loader",):
        yield from rows(loader_case(stage.work.batch), rounds, block)
    elif stage.parts == ("evaluation",):
        for attack in (None, EVALUATION_STEPS):
            yield from rows(evaluation_case(stage.work, attack), rounds, block)
    else:
        built = build(stage.work, stage.rungs)
        for part in sorted(stage.parts, key=("step", "attack", "update", "epoch").index):
            yield from rows(training_case(built, part, stage.rungs), rounds, block)
