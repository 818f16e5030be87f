"""The tests as a question: outcomes and failures are those of pytest's report, an early end is not hidden."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import suite
from benchmarks.measure import Unmeasured

FILE = """
import pytest

def test_good(): pass
def test_bad(): assert 1 == 2, "one is not two"
def test_left(): pytest.skip("no reason")
@pytest.fixture
def broken(): raise RuntimeError("no fixture")
def test_broken(broken): pass
"""


def test_outcomes_and_reasons_become_a_row(tmp_path) -> None:
    (tmp_path / "test_some.py").write_text(FILE)
    (tmp_path / "test_unreadable.py").write_text("import nothing_of_this_name\n")
    how = ["-q", "-p", "no:cacheprovider", "--continue-on-collection-errors", "--junitxml=report.xml"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *how], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 1
    row = suite.outcomes(tmp_path / "report.xml")
    assert (row["passed"], row["failed"], row["skipped"]) == (1, 3, 1)
    failures = {text.partition(":: ")[0] if "::" not in text else text.split("::")[1].split(":")[0]: text
                for text in row["failures"]}  # fmt: skip
    assert "one is not two" in failures["test_bad"]
    assert "no fixture" in failures["test_broken"]
    assert any("nothing_of_this_name" in text for text in row["failures"])
    assert "test_some::test_good" in row["slowest"]


@pytest.mark.parametrize(("code", "complete"), [(0, True), (1, True), (2, False)])
def test_an_early_end_and_failures_are_said(code: int, complete: bool, monkeypatch) -> None:
    def run(arguments: list[str]) -> int:
        assert set(suite.SMALL) < set(arguments)
        (report,) = (text.partition("=")[2] for text in arguments if text.startswith("--junitxml="))
        Path(report).write_text("<testsuites><testsuite skipped='0' time='1.5'/></testsuites>")
        return code

    monkeypatch.setattr(suite.pytest, "main", run)
    monkeypatch.chdir(suite.ROOT)
    found = suite.measured(suite.options(["--small", "--workers", "1"]))
    row = next(found)
    assert (row["complete"], row["passed"], row["seconds"]) == (complete, 0, 1.5)
    if code:
        with pytest.raises(Unmeasured, match=f"code {code}"):
            next(found)
