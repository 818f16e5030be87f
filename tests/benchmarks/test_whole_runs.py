"""Whole runs and packing: real processes, small; the arithmetic of their rows; what is said of those that fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import packing, run
from benchmarks.measure import Unmeasured, machine, record
from benchmarks.packing import Pace, paced, row_of
from benchmarks.rows import path_for, read
from benchmarks.run import write_images

ROOT = Path(__file__).resolve().parents[2]


def script(name: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / name), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)


def test_images_are_learnable_and_the_same_for_a_seed(tmp_path) -> None:
    first, second = (np.load(write_images(tmp_path / f"{k}.npz", 6, 3)) for k in "ab")
    assert first["train_images"].shape == (60, 32, 32, 3)
    assert first["test_images"].dtype == np.uint8
    assert (first["train_images"] == second["train_images"]).all()
    means = {
        part: first[f"{part}_images"].reshape(10, -1, 32, 32, 3).mean(axis=1) for part in ("train", "test")
    }
    apart = np.abs(means["train"][:, None] - means["test"][None]).mean(axis=(2, 3, 4))
    assert (apart.argmin(axis=1) == np.arange(10)).all(), "a class is nearest to itself"


@pytest.mark.slow
def test_a_whole_run_is_measured_from_start_to_end(tmp_path) -> None:
    done = script("run.py", "--small", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (row,) = read(path_for(tmp_path, machine()["device"]))
    assert row["complete"]
    assert row["epochs_done"] == run.SMALL_EPOCHS
    assert row["test_images"] == 100
    parts = ("compile", "training", "evaluation", "other")
    assert sum(row[f"{part}_seconds"] for part in parts) == pytest.approx(row["wall_seconds"], abs=0.05)
    assert all(row[f"{part}_seconds"] >= 0 for part in parts)
    assert 0 <= row["robust"]["overall"] <= row["standard"]["overall"] <= 1


def test_a_run_that_fails_leaves_no_row(tmp_path) -> None:
    (tmp_path / "train").mkdir()
    out = tmp_path / "out"
    found = run.options(["--small", "--data-root", str(tmp_path), "--out", str(out)])
    with pytest.raises(SystemExit, match=r"data\.root"):
        record(run.measured(found), found.out)
    assert not out.exists()


def test_a_run_that_ends_by_itself_is_told_with_its_last_words(tmp_path) -> None:
    with pytest.raises(Unmeasured, match=r"the run ended with code 2:\n.*gone"):
        run.timed(tmp_path, ["--method", "gone"], 60)


def test_a_run_that_takes_too_long_leaves_how_far_it_came(tmp_path) -> None:
    lines = [{"images_per_second": speed} for speed in (1.0, 9.0, 8.0)]
    assert run.partial(lines, 12.34) == {
        "complete": False, "epochs_done": 3, "wall_seconds": 12.34, "images_per_second": 8.0
    }  # fmt: skip
    row = run.timed(tmp_path, ["--dataset", "digits"], 0.5)
    assert (row["complete"], row["epochs_done"], row["images_per_second"]) == (False, 0, None)


class Endless:
    """A stand-in for a run: epochs pass with the calls."""

    def __init__(self, pace: int, code: int | None = None) -> None:
        self.calls, self.pace, self.ended, self.code = 0, pace, False, code
        self.process = self

    def poll(self) -> int | None:
        return self.code

    def epochs(self) -> int:
        self.calls += 1
        return self.calls // self.pace

    def metrics(self) -> list[dict[str, int]]:
        return [{"peak_memory_bytes": 7}]

    def output(self) -> str:
        return "its last words"

    def end(self) -> None:
        self.ended = True


def test_speed_is_counted_in_whole_epochs_of_all_trials(monkeypatch) -> None:
    ticks = iter(range(10**6))
    monkeypatch.setattr(packing.time, "perf_counter", lambda: float(next(ticks)))
    monkeypatch.setattr(packing.time, "sleep", lambda seconds: None)
    runs = [Endless(4), Endless(8)]
    found = paced(lambda number: runs[number], 2, 1000, window=60, limit=10_000)
    assert all(run.ended for run in runs)
    assert found.peak_bytes == 14
    # polls of both runs alternate and a clock tick lies between: the second has half the speed of the first
    assert found.slowest == pytest.approx(found.images_per_second / 3, rel=0.15)


def test_a_trial_that_ends_by_itself_is_no_result(monkeypatch) -> None:
    monkeypatch.setattr(packing.time, "sleep", lambda seconds: None)
    runs = [Endless(4), Endless(4, code=1)]
    with pytest.raises(Unmeasured, match="a trial ended by itself:\nits last words"):
        paced(lambda number: runs[number], 2, 1000, window=1, limit=5)
    assert all(run.ended for run in runs)
    with pytest.raises(Unmeasured, match="no window within 0 s"):
        paced(lambda number: Endless(10**9), 1, 1000, window=1, limit=0)


def test_packing_is_held_against_one_before_and_after() -> None:
    row = row_of(4, Pace(300.0, 70.0, 5, 9.0), (Pace(100.0, 100.0, 1, 1.0), Pace(120.0, 120.0, 1, 1.0)))
    assert row["ratio"] == {"median": 2.75, "quartiles": [2.5, 3.0]}
    assert row["reference_images_per_second"] == 110.0


@pytest.mark.slow
def test_packing_runs_trials_side_by_side(tmp_path) -> None:
    done = script("packing.py", "--small", "--trials", "2", "--window", "1", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (row,) = read(path_for(tmp_path, machine()["device"]))
    assert (row["trials"], row["mps"], row["op"]) == (2, False, "packing")
    assert row["slowest_images_per_second"] <= row["images_per_second"] / 2 + 1
    assert row["ratio"]["median"] > 0


def test_numbers_of_trials_are_checked(capsys) -> None:
    with pytest.raises(SystemExit):
        packing.options(["--trials", "2,x"])
    assert "--trials = '2,x': integers >= 2, separated by commas" in capsys.readouterr().err
