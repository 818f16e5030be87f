"""What is fast and has to stay so, in the same run as what it is held against: `pytest benchmarks/ --benchmark-only`.

Each benchmark's gate comes first; `extra_info["ratios"]` is measured in turns, A B A B, by medians.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks import kernels
from benchmarks.evaluation import evaluation_case
from benchmarks.ladder import PRODUCT
from benchmarks.loaders import HAS_FFCV, folder_case, synthetic
from benchmarks.measure import ON_GPU, Case, captured, machine, microseconds, peak_bytes, rows, spread
from benchmarks.step import PARTS, Engines, build, training_case
from benchmarks.work import BATCHES, PRECISIONS, Work
from srat_fast.sweep import process
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.sweep.driver import Options
from srat_fast.sweep.local import LocalEngine, Slot
from srat_fast.sweep.spec import Spec, spec_from_tree
from srat_fast.sweep.status import SweepView, read_status

ROUNDS, BLOCK = (5, 0.3) if ON_GPU else (3, 0.0)


def timed(
    benchmark: Any, case: Case, implementation: str, rounds: int = ROUNDS, block: float = BLOCK
) -> None:
    """The ratios first, then the implementation alone under pytest-benchmark's clock."""
    found = [row for row in rows(case, rounds, block) if row["implementation"] == implementation]
    benchmark.group = case.op
    benchmark.extra_info.update(machine(), rows=found)
    benchmark.extra_info["ratios"] = {row["reference"]: row["ratio"]["median"] for row in found}
    benchmark.pedantic(case.functions[implementation], rounds=rounds, iterations=1)


@lru_cache(maxsize=1)  # the parts of one size follow each other
def engines(work: Work) -> Engines:
    return build(work, ("reference", "eager", PRODUCT))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("bn", ["batch", "running"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("batch", BATCHES)
def test_training(benchmark: Any, batch: int, precision: str, bn: str, part: str) -> None:
    # on a CPU "eager" and the reference take the same time (NOTES.md): one of them is enough for the parts
    rungs = ("reference", "eager", PRODUCT) if ON_GPU or part == "step" else ("reference", PRODUCT)
    built = engines(Work("srat-ldam", batch, bn, precision))
    timed(benchmark, training_case(built, part, rungs), PRODUCT)


@pytest.mark.parametrize("batch", BATCHES)
def test_evaluation(benchmark: Any, batch: int) -> None:
    timed(benchmark, evaluation_case(Work("srat-ldam", batch, "batch", PRECISIONS[0])), "product")


@pytest.mark.parametrize("implementation", kernels.IMPLEMENTATIONS)
@pytest.mark.parametrize("case", list(kernels.all_sizes()), ids=lambda case: kernels.name_of(*case))
def test_kernel(benchmark: Any, case: tuple[str, str, kernels.Size], implementation: str) -> None:
    """pytest-benchmark's own clock sees how long the host is busy; the figures in `extra_info` are the GPU's."""
    function = kernels.build(*case)[implementation]
    benchmark.group = kernels.name_of(*case)
    benchmark.extra_info.update(machine(), implementation=implementation)
    if ON_GPU:
        replay = captured(function)
        benchmark.extra_info["gpu_microseconds"] = spread([microseconds(function, 20) for _ in range(10)])
        benchmark.extra_info["graph_microseconds"] = spread([microseconds(replay, 20) for _ in range(10)])
        benchmark.extra_info["peak_bytes"] = peak_bytes(function)
    benchmark.pedantic(function, rounds=10, iterations=3, warmup_rounds=1)


@pytest.mark.parametrize("implementation", ["memory", "ffcv"])
@pytest.mark.parametrize(
    ("stored", "size", "images", "augment", "storage"),
    [
        (32, 32, 20000 if ON_GPU else 512, "crop", "raw"),
        (128, 64, 2000 if ON_GPU else 96, "resized-crop", "jpeg"),
    ],
    ids=["small-raw", "large-jpeg"],
)
def test_folder_loaders(
    benchmark: Any, tmp_path: Path, monkeypatch: Any, stored: int, size: int, images: int, augment: str,
    storage: str, implementation: str,
) -> None:  # fmt: skip
    if implementation == "ffcv" and not HAS_FFCV:
        pytest.skip("bash .ci/ffcv installs ffcv")
    monkeypatch.setenv("SRAT_FAST_CACHE", str(tmp_path / "cache"))
    case = folder_case(synthetic(tmp_path / "images", stored, images), size, stored, 64, augment, storage)
    timed(benchmark, case, implementation, 3, 0.0)


def test_help(benchmark: Any) -> None:
    """How long `srat-fast --help` takes: a whole process, from its start to its end."""
    benchmark(subprocess.run, [sys.executable, "-m", "srat_fast", "--help"], capture_output=True, check=True)


RUNS = 10_000
#: Seconds of processor time that planning `RUNS` trials, their status, and a trial of a driver may take.
PLAN, STATUS, TRIAL = 3.0, 3.0, 0.1
GRID = """
seeds = 10
[base]
dataset = "cifar10"
[axes]
method = ["ce", "ldam", "srat-ce", "srat-focal", "srat-ldam"]
ratio = [10, 20, 50, 100]
loss.separation_weight = [0, 1, 2, 3, 4, 5, 6, 7, 8, 10]
loss.temperature = [0.05, 0.07, 0.1, 0.2, 0.5]
"""
TRIAL_SCRIPT = """#!/bin/sh
while [ "$1" != --out ]; do shift; done
mkdir -p "$2"
echo '{"status": "finished", "images_per_second": 1, "seconds": {"total": 1}}' > "$2/record.json"
"""


def spec(text: str, path: Path) -> Spec:
    return spec_from_tree(tomllib.loads(text), path, "benchmark")


@pytest.mark.benchmark(timer=time.process_time)  # the bound holds beside other work, too
def test_planning(benchmark, tmp_path) -> None:
    count = iter(range(1000))

    def plan() -> SweepDirectory:
        return SweepDirectory.create(tmp_path / str(next(count)), spec(GRID, tmp_path), "spec.toml")

    sweep = benchmark.pedantic(plan, rounds=5)
    assert len(sweep.plan.trials) == RUNS
    assert benchmark.stats.stats.median < PLAN


@pytest.fixture
def large(tmp_path) -> Path:
    sweep = SweepDirectory.create(tmp_path / "s", spec(GRID, tmp_path), "spec.toml")
    state = {"status": "done", "seconds": 300.0, "images_per_second": 1e4, "attempts": [{"kind": "finished"}]}
    for trial in sweep.plan.trials:
        sweep.run(trial).mkdir()
        (sweep.run(trial) / "record.json").write_text("{}")
        sweep.state_path(trial).write_text(json.dumps(state))
    return sweep.path


@pytest.mark.benchmark(timer=time.process_time)  # the bound holds beside other work, too
def test_status(benchmark, large) -> None:
    status = benchmark.pedantic(lambda: read_status(SweepDirectory.open(large)), rounds=5)
    assert status.counts["done"] == RUNS
    assert benchmark.stats.stats.median < STATUS


def test_a_trial(benchmark, tmp_path, monkeypatch) -> None:
    """Wall time a trial of a driver with one slot, whose trials end at once."""
    program = tmp_path / "trial.sh"
    program.write_text(TRIAL_SCRIPT)
    monkeypatch.setattr(process, "CHILD", ["/bin/sh", str(program)])
    trials, count = 100, iter(range(1000))

    def run() -> int:
        text = f"seeds = {trials}\n[base]\ndataset = 'digits'\ndevice = 'cpu'"
        sweep = SweepDirectory.create(tmp_path / str(next(count)), spec(text, tmp_path), "spec.toml")
        with SweepView("benchmark", Console(quiet=True)) as view:
            return LocalEngine(sweep, [Slot(None, 1, 1, "cpu")], view, Options(min_free=0)).run()

    assert benchmark.pedantic(run, rounds=3) == 0
    benchmark.extra_info["milliseconds_a_trial"] = 1000 * benchmark.stats.stats.median / trials
    assert benchmark.stats.stats.median / trials < TRIAL
