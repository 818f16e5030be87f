"""What a checkpoint costs, in seconds and bytes of saves and loads: `python benchmarks/checkpoints.py [--place DIR]`.

A whole state (weights, momentum, moving average, best weights) of the digits recipe's network, of width 16 and of the
paper's 64; the median of five saves, each to a new name, after a load has shown that what was saved comes back.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.measure import parsed, parser, record
from benchmarks.rows import Row
from srat_fast import build_recipe
from srat_fast.models.files import save_model
from srat_fast.progress import ProgressView
from srat_fast.record import BEST, RunDirectory
from srat_fast.training import resume
from srat_fast.training.checkpoint import Checkpoints
from srat_fast.training.fit import EpochRunner
from srat_fast.training.setup import prepare, resolve_hardware
from srat_fast.training.step import StepGuard

REPEATS = 5


def measure(width: int, place: Path) -> dict[str, float]:
    """Median seconds of collecting, writing and loading a state, and of what the guard adds to a step; bytes."""
    recipe = build_recipe(None, {"data.name": "digits", "model.width": width, "optim.ema_decay": 0.999})
    setup = prepare(*resolve_hardware(recipe.resolve()))
    run = RunDirectory.create(place / f"run-{width}")
    runner = EpochRunner(setup, ProgressView("", Console(quiet=True)), [1], run.path)
    save_model(run.path / BEST, setup.engine.model, {})
    checkpoints = Checkpoints(run.path / "checkpoint")
    collect, write, load = [], [], []
    size = 0
    for number in range(REPEATS):
        started = time.perf_counter()
        files = resume.snapshot(setup, runner, run, {"best": {}}, {})
        collect.append(time.perf_counter() - started)
        saved = checkpoints.save(f"{number:03}", files, {})
        write.append(saved.seconds)
        size = saved.bytes
        started = time.perf_counter()
        found, problems = checkpoints.newest()
        assert found is not None
        assert not problems
        resume.restore(setup, runner, run, found.files)
        load.append(time.perf_counter() - started)
        assert files == found.files
    run.release()
    return {
        "collect": statistics.median(collect),
        "write": statistics.median(write),
        "load": statistics.median(load),
        "bytes": size,
        "guard": _guard_seconds(setup),
    }


def _guard_seconds(setup: object) -> float:
    """Seconds that keeping the running statistics, the gradient's norm and the verdict take, once a step."""
    model = setup.engine.model
    guard, total = StepGuard(model), torch.ones(())
    gradients = [torch.ones_like(p) for p in model.parameters()]
    seconds = []
    for _ in range(30):
        started = time.perf_counter()
        guard.before_step()
        guard.check(total, torch.nn.utils.get_total_norm(gradients))
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    made = parser(__doc__)
    made.add_argument(
        "--place", type=Path, help="folder on the disk that is measured; the temporary one without"
    )
    return parsed(made, arguments)


def measured(found: argparse.Namespace) -> Iterator[Row]:
    """A row a width."""
    with tempfile.TemporaryDirectory(dir=found.place) as directory:
        for width in (2,) if found.small else (16, 64):
            yield {"op": "checkpoint", "width": width, **measure(width, Path(directory))}


if __name__ == "__main__":
    chosen = options()
    record(measured(chosen), chosen.out)
