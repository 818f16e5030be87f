"""`python benchmarks/gpu.py`: what it refuses, in which order it works, what is passed over, what it leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.lease import Task
from benchmarks.measure import COMMIT, COMPILE_MODE, machine
from benchmarks.plan import Choices, chosen_mode, tasks
from benchmarks.rows import append, path_for, read

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


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--cpu"], "--cpu goes with --quick"),
        (["--any-source"], "--any-source goes with --resume"),
        (["--minutes", "0"], "--minutes = 0: more than 0"),
        (["--data-root", "nowhere"], "--data-root = nowhere: a folder that holds train/ and test/"),
        (["--compile-mode", "turbo"], "argument --compile-mode: invalid choice"),
    ],
)
def test_bad_options_are_refused(options, problem, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu.options(options)
    assert ended.value.code == 2
    assert problem in capsys.readouterr().err


def test_an_unknown_stage_is_refused_before_anything_runs(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu.main(["--quick", "--cpu", "--out", str(tmp_path), "--stages", "run,gone"]) == 2
    assert "--stages = gone: no such stage; there are tests, ladder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_list_is_in_order_of_importance(monkeypatch, capsys) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu.main(["--quick", "--cpu", "--list"]) == 0
    names = [line.split("  ")[0].strip() for line in capsys.readouterr().out.splitlines()]
    assert names[:4] == ["tests", "ladder", "profile", "run"]
    assert {"packing", "network", "evaluation", "loaders"} < set(names)


@pytest.mark.parametrize("quick", [True, False])
def test_every_stage_is_named_once_and_its_script_exists(tmp_path, quick: bool) -> None:
    there = tasks(Choices(tmp_path, quick=quick, data_root=tmp_path))
    names = [task.name for task in there]
    assert names[0] == "tests"
    assert len(names) == len(set(names))
    for task in there:
        assert (ROOT / task.command[1]).is_file(), task
        assert str(tmp_path) in task.command, f"{task.name} writes elsewhere"
    by_name = {task.name: task.command for task in there}
    assert "--data-root" in by_name["run"]
    assert "--data-root" in by_name["loaders"]


@pytest.fixture
def measure(tmp_path, monkeypatch):
    """Runs lines of Python as stages; returns the exit status."""
    for name in (COMMIT, COMPILE_MODE, "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "PYTHONPATH"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # put back afterwards
        monkeypatch.delenv(name)

    def run(stages: dict[str, str], *options: str, out: Path = tmp_path) -> int:
        there = [Task(name, [sys.executable, "-c", code], 30) for name, code in stages.items()]
        return gpu.measure(gpu.options(["--out", str(out), *options]), there, float("inf"))

    return run


def statuses(folder: Path) -> dict[str, str]:
    return {row["name"]: row["status"] for row in read(path_for(folder, machine()["device"]))}


def test_red_tests_end_nothing_else(measure, tmp_path, capsys) -> None:
    """Each benchmark has a gate of its own; the row of the tests says what is wrong."""
    assert measure({"tests": "raise SystemExit(1)", "ladder": "pass"}) == 1
    assert statuses(tmp_path) == {"tests": "failed: exit 1", "ladder": "ok"}
    assert "not measured" in capsys.readouterr().out


def test_what_this_source_has_measured_is_passed_over(measure, tmp_path) -> None:
    other = tmp_path / "second"
    assert measure({"a": "pass", "b": "raise SystemExit(1)"}) == 1
    assert (
        measure({"a": "raise SystemExit(5)", "b": "pass", "c": "pass"}, "--resume", str(tmp_path), out=other)
        == 0
    )
    assert statuses(other) == {"b": "ok", "c": "ok"}
    assert measure({"a": "pass"}, "--resume", out=other) == 0  # its own results know nothing of a
    assert statuses(other)["a"] == "ok"


def test_another_source_is_measured_anew(measure, tmp_path) -> None:
    row = machine() | {"op": "stage", "name": "a", "status": "ok", "source": "0123456789ab"}
    append(path_for(tmp_path, row["device"]), row)
    assert measure({"a": "raise SystemExit(1)"}, "--resume") == 1
    append(path_for(tmp_path, row["device"]), row)
    assert measure({"a": "raise SystemExit(1)"}, "--resume", "--any-source") == 0


def test_summary_log_and_commit(measure, tmp_path, capsys) -> None:
    code = (
        "import os, sys; print('a long story'); sys.exit('the end of it: ' + os.environ['BENCHMARK_COMMIT'])"
    )
    options = ["--summary", str(tmp_path / "s" / "summary.md"), "--log", str(tmp_path / "log.txt")]
    assert measure({"a": code}, *options, "--commit", "v1.2") == 1
    assert "| a | failed: exit 1 |" in (tmp_path / "s" / "summary.md").read_text()
    assert (tmp_path / "log.txt").read_text() == "== a\na long story\nthe end of it: v1.2\n"
    assert "   the end of it: v1.2" in capsys.readouterr().err
    (row,) = read(path_for(tmp_path, machine()["device"]))
    assert row["commit"] == "v1.2"


def test_stages_find_the_package_where_it_is_not_installed(measure, tmp_path) -> None:
    code = "import os; paths = os.environ['PYTHONPATH'].split(os.pathsep); assert paths[:2] == %r, paths"
    assert measure({"a": code % [str(ROOT), str(ROOT / "kernels")]}) == 0


def step(implementation: str, rate: float, seconds: float) -> dict[str, object]:
    return {
        "op": "step", "implementation": implementation, "reference": "eager", "batch": 128, "bn": "batch",
        "images_per_second": rate, "compile_seconds": seconds,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rate", "seconds", "mode"),
    [(1030.0, 100.0, "max-autotune"), (1010.0, 100.0, "default"), (1100.0, 400.0, "default")],
)
def test_the_search_for_kernels_has_to_be_worth_it(rate, seconds, mode) -> None:
    assert chosen_mode([step("captured", 1000.0, 50.0), step("captured-max", rate, seconds)]) == mode
    assert chosen_mode([step("captured", 1000.0, 50.0)]) is None


def test_stages_follow_the_mode_that_was_measured(measure, tmp_path) -> None:
    rows = [step("captured", 1000.0, 50.0), step("captured-max", 1100.0, 90.0)]
    writes = f"""
import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "kernels")!r}]
from pathlib import Path
from benchmarks.measure import machine
from benchmarks.rows import append, path_for
for row in {rows!r}:
    append(path_for(Path({str(tmp_path)!r}), machine()["device"]), row | machine())
"""
    look = f"import os, sys; sys.exit(os.environ[{COMPILE_MODE!r}] != %r)"
    assert measure({"a": look % "default", "modes": writes, "b": look % "max-autotune"}) == 0
    assert measure({"c": look % "default"}, "--compile-mode", "default") == 0
    assert measure({"d": look % "max-autotune"}, "--resume") == 0
