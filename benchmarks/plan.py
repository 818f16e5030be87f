"""What is measured on a GPU, in which order: nothing but choices enters; stages as commands leave.

The order is that of a lease which may end at any time: the tests, then each figure of a goal, then what explains it,
then other sizes. The seconds are what each may take at most on an H200, compilation included.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from benchmarks.lease import Task
from benchmarks.rows import Row, latest

#: Kernels of the goals; --only takes part of a name.
KERNELS = (
    "srat_loss forward+backward B=128 D=128 C=10",
    "srat_loss forward+backward B=4096 D=512 C=10",
    "linf_step",
)
#: Engine stages that come before the whole run; the first is the table of each trick's share.
BEFORE_THE_RUN = ("ladder", "running-128", "running-512", "profile")
#: Engine stages of other sizes, which come last.
PRECISIONS = ("bf16-", "fp32-")
#: The other compile mode is taken where it is so much faster, and its compilation does not take longer than this.
FASTER, SEARCH_SECONDS = 1.02, 150.0
MODES = {"captured": "default", "captured-max": "max-autotune"}


class Choices(NamedTuple):
    """How it is measured.

    Attributes:
        out: folder of the results.
        quick: few sizes and turns.
        cpu: small sizes.
        data_root: folder of real images of CIFAR-10; None for random ones.
    """

    out: Path
    quick: bool = False
    cpu: bool = False
    data_root: Path | None = None


def tasks(choices: Choices) -> list[Task]:
    """Every stage, most important first.

    Args:
        choices: see `Choices`.
    """
    out = ["--out", str(choices.out)]
    rounds = ["--rounds", "3"] if choices.quick else []
    quick = ["--quick"] if choices.quick else []
    workers = ["--workers", str(min(10, os.cpu_count() or 1))]
    tests = _task("tests", "suite.py", [*out, *quick, *workers], 240)
    engine = {task.name: task for task in _engine(choices, [*out, *rounds])}
    first = [engine.pop(name) for name in BEFORE_THE_RUN if name in engine]
    kernels = [
        _task(f"kernel {case}", "kernels/run.py", ["--only", case, *out, *rounds], 75)
        for case in KERNELS[: 1 if choices.quick else None]
    ]
    few = ["--images", "500", "--large-images", "100"] if choices.quick else []
    loaders = _task("loaders", "loaders/run.py", [*out, *rounds, *few, *_root(choices)], 200)
    run, packing, later = _runs(choices, out)
    middle = [engine.pop(name) for name in ("network", "evaluation") if name in engine]
    sizes = [engine.pop(name) for name in list(engine) if name.startswith(PRECISIONS)]
    # variants of the step, for the distances that are left; they are for a GPU, and stop by themselves
    attempts = [_task("attempts", "attempts/run.py", ["--minutes", "5", *out], 330)]
    middle += [] if choices.quick else attempts
    return [tests, *first, *run, *kernels, *packing, *middle, loaders, *engine.values(), *later, *sizes]


def _task(name: str, script: str, options: Iterable[str], seconds: float) -> Task:
    return Task(name, [sys.executable, f"benchmarks/{script}", *options], seconds)


def _root(choices: Choices) -> list[str]:
    return [] if choices.data_root is None else ["--data-root", str(choices.data_root)]


def _engine(choices: Choices, options: list[str]) -> list[Task]:
    from benchmarks.engine.stages import quick_stages, stages  # asks for the device

    def command(rungs: tuple[str, ...], parts: tuple[str, ...], name: str) -> list[str]:
        chosen = ["--rungs", ",".join(rungs)] if rungs else []
        return [*options, *chosen, "--parts", ",".join(parts), name]

    return [
        _task(s.name, "engine/run.py", command(s.rungs, s.parts, s.name), s.seconds)
        for s in (quick_stages() if choices.quick else stages())
    ]


def _runs(choices: Choices, out: list[str]) -> tuple[list[Task], list[Task], list[Task]]:
    """Whole runs and packing: those of the goals, and variants."""
    root = _root(choices)
    if choices.cpu:
        run = _task("run", "runs/whole.py", [*out, "--small"], 120)
        return [run], [_task("packing", "runs/packing.py", [*out, "--small", *_TWO], 120)], []
    if choices.quick:
        run = _task("run", "runs/whole.py", [*out, "--epochs", "3", *root], 150)
        return [run], [_task("packing", "runs/packing.py", [*out, *_TWO], 150)], []
    # a part of a run is little worth: it is begun where 310 seconds are left
    run = _task("run", "runs/whole.py", [*out, "--seconds", "420", *root], 440)._replace(share=0.7)
    running = [*out, "--attack-bn", "running", "--seconds", "420", *root]
    return (
        [run],
        [_task("packing", "runs/packing.py", out, 330)],
        [
            _task("packing-mps", "runs/packing.py", [*out, "--mps"], 330),
            _task("run-running", "runs/whole.py", running, 440)._replace(share=0.6),
        ],
    )


_TWO = ("--trials", "2", "--window", "3")


def chosen_mode(rows: Iterable[Row]) -> str | None:
    """The compile mode that was measured to be worth it.

    Args:
        rows: of the same device and source.

    Returns:
        A value of `run.compile_mode`; None where the two were not measured beside each other.
    """
    steps = {
        row["implementation"]: row
        for row in latest(rows)
        if row["op"] == "step" and row["implementation"] in MODES and row["reference"] == "eager"
        and (row["batch"], row["bn"]) == (128, "batch")
    }  # fmt: skip
    if len(steps) < len(MODES):
        return None
    short, searched = steps["captured"], steps["captured-max"]
    gain = searched["images_per_second"] / short["images_per_second"]
    worth = gain >= FASTER and searched["compile_seconds"] <= SEARCH_SECONDS
    return MODES["captured-max" if worth else "captured"]
