"""The tests as a stage: outcomes are counted as they come, failures named, an early end is not hidden."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.measure import machine
from benchmarks.rows import path_for, read

ROOT = Path(__file__).resolve().parents[2]
FILE = """
import warnings
import pytest

def test_good(): pass
def test_bad(): assert 1 == 2, "one is not two"
def test_left(): pytest.skip("no reason")
@pytest.fixture
def broken(): raise RuntimeError("no fixture")
def test_broken(broken): pass
@pytest.mark.slow
def test_slow(): raise AssertionError("is left out")
"""


def suite(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    script = [sys.executable, str(ROOT / "benchmarks" / "suite.py"), "--out", str(folder), *options]
    return subprocess.run(script, capture_output=True, text=True, check=False)


def test_outcomes_and_reasons_become_a_row(tmp_path) -> None:
    (tmp_path / "test_some.py").write_text(FILE)
    done = suite(tmp_path, "--workers", "2", str(tmp_path / "test_some.py"))
    assert done.returncode == 1
    (row,) = read(path_for(tmp_path, machine()["device"]))
    assert (row["passed"], row["failed"], row["skipped"]) == (1, 2, 1)
    assert row["complete"]
    failures = {text.partition("::")[2].partition(":")[0]: text for text in row["failures"]}
    assert "one is not two" in failures["test_bad"]
    assert "no fixture" in failures["test_broken"]
    assert len(row["slowest"]) == 4


def test_a_file_that_cannot_be_read_is_a_failure(tmp_path) -> None:
    (tmp_path / "test_unreadable.py").write_text("import nothing_of_this_name\n")
    assert suite(tmp_path, "--workers", "1", str(tmp_path)).returncode == 2
    (row,) = read(path_for(tmp_path, machine()["device"]))
    assert (row["passed"], row["failed"], row["complete"]) == (0, 1, False)
    assert "test_unreadable.py" in row["failures"][0]
