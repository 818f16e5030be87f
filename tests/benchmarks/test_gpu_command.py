"""`python benchmarks/gpu.py`: what it refuses, in which order it works, what a failure leaves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.rows import read

ROOT = Path(__file__).resolve().parents[2]


def command(*options: str) -> subprocess.CompletedProcess[str]:
    script = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), *options]
    return subprocess.run(script, capture_output=True, text=True, check=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line() -> None:
    done = command()
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "benchmarks/gpu.py needs a CUDA device; --quick --cpu runs small sizes on a CPU"
    ]


def test_the_cpu_is_for_quick_runs() -> None:
    assert "--cpu goes with --quick" in command("--cpu").stderr


def stages(monkeypatch, *pairs: tuple[str, str]) -> None:
    """Replaces every stage by a line of Python."""
    fake = [(name, [sys.executable, "-c", code]) for name, code in pairs]
    monkeypatch.setattr(gpu, "commands", lambda out, quick: fake)


def statuses(folder: Path) -> dict[str, str]:
    (path,) = folder.glob("*.jsonl")
    return {row["name"]: row["status"] for row in read(path)}


def test_red_tests_end_it_and_are_recorded(tmp_path, monkeypatch) -> None:
    stages(monkeypatch, ("tests", "raise SystemExit(1)"), ("bf16", "pass"))
    assert gpu.measure(tmp_path, float("inf"), quick=True) == 1
    assert statuses(tmp_path) == {"tests": "failed: exit 1"}


def test_a_failing_stage_does_not_stop_the_next(tmp_path, monkeypatch, capsys) -> None:
    stages(monkeypatch, ("tests", "pass"), ("a", "raise SystemExit(3)"), ("b", "pass"))
    assert gpu.measure(tmp_path, float("inf"), quick=True) == 1
    assert statuses(tmp_path) == {"tests": "ok", "a": "failed: exit 3", "b": "ok"}
    assert "not measured" in capsys.readouterr().out


def test_a_stage_that_hangs_is_ended() -> None:
    assert gpu.timed_out_or([sys.executable, "-c", "import time; time.sleep(60)"], 0.5) == "timed out"


def test_stages_without_time_are_marked(tmp_path, monkeypatch) -> None:
    stages(monkeypatch, ("tests", "pass"), ("a", "pass"))
    ticks = iter([0.0, 0.0, 0.0, 0.0, 95.0, 95.0, 95.0, 95.0])
    monkeypatch.setattr(gpu.time, "monotonic", lambda: next(ticks))
    assert gpu.measure(tmp_path, 100.0, quick=True) == 0
    assert statuses(tmp_path) == {"tests": "ok", "a": "skipped: no time left"}


@pytest.mark.parametrize("quick", [True, False])
def test_tests_come_first_and_every_name_is_a_stage(tmp_path, quick: bool) -> None:
    names = [name for name, _ in gpu.commands(tmp_path, quick)]
    assert names[0] == "tests"
    assert len(names) == len(set(names))
    assert any(name.startswith("kernel srat_loss forward+backward B=128 D=128") for name in names)
