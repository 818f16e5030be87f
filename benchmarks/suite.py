"""The tests that guard the fast path, as one result row: paths of tests enter; their counts and failures leave.

`python benchmarks/suite.py [--out DIR] [PATH ...]`. Warnings are errors only with the versions of constraints.txt: what
other versions warn of says nothing about a device. A run that is ended before its end leaves what it has.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from benchmarks.measure import machine  # noqa: E402
from benchmarks.rows import RESULTS, append, path_for  # noqa: E402

#: Kernels, engine, the equivalence ladder, resume; the slow ones compile for other devices or kill for minutes.
PATHS = ("tests/kernels", "tests/attacks", "tests/equivalence", "tests/training")
#: Some of seconds, to see that this works.
QUICK_PATHS = ("tests/attacks/test_pgd.py", "tests/kernels/test_linf.py")
#: Failed tests that a row names, and tests whose seconds it gives.
NAMED, SLOWEST = 40, 12


class Recorder:
    """Counts outcomes as they come, from worker processes too."""

    def __init__(self) -> None:
        self.outcomes = {"passed": 0, "failed": 0, "skipped": 0}
        self.failures: list[str] = []
        self.seconds: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One part of a test has ended."""
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self._failed(report)
        elif report.when == "call" or report.skipped:
            self.outcomes[report.outcome] += 1

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file was read; one that cannot be imported is a failure."""
        if report.failed:
            self._failed(report)

    def _failed(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        self.outcomes["failed"] += 1
        crash = getattr(report.longrepr, "reprcrash", None)
        reason = str(crash.message if crash else report.longrepr).strip().splitlines()
        self.failures.append(f"{report.nodeid}: {reason[0][:200] if reason else 'no reason'}")

    def row(self, code: int | None, began: float) -> dict[str, Any]:
        """What was found.

        Args:
            code: pytest's; None where it did not come to its end.
            began: `time.perf_counter` of the start.
        """
        slowest = sorted(self.seconds.items(), key=lambda entry: -entry[1])[:SLOWEST]
        return {
            "op": "tests",
            **self.outcomes,
            "complete": code is not None,
            "seconds": round(time.perf_counter() - began, 1),
            "failures": self.failures[:NAMED],
            "slowest": {name: round(seconds, 1) for name, seconds in slowest},
        }


def pinned() -> bool:
    """Whether torch is the one of constraints.txt."""
    import torch

    found = re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    return found is not None and torch.__version__.split("+")[0] == found[1]


def main() -> int:
    """Test, append a row.

    Returns:
        pytest's exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", help="of tests; those that guard the fast path without")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument("--quick", action="store_true", help="some tests of a few seconds")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    paths = arguments.paths or (QUICK_PATHS if arguments.quick else PATHS)
    options = ["-q", "-m", "not slow", *([] if pinned() else ["-W", "default"]), *paths]
    if arguments.workers > 1:
        options += ["-n", str(arguments.workers)]

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt  # pytest ends in order, its workers too

    signal.signal(signal.SIGTERM, interrupt)
    recorder, began, code = Recorder(), time.perf_counter(), None
    try:
        code = int(pytest.main(options, plugins=[recorder]))
    finally:
        ended = code if code != pytest.ExitCode.INTERRUPTED else None
        about = machine()
        append(path_for(arguments.out, about["device"]), recorder.row(ended, began) | about)
    return code


if __name__ == "__main__":
    sys.exit(main())
