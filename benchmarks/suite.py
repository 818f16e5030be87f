"""Whether the tests of the fast path pass on this device: `python benchmarks/suite.py [PATH ...]`.

Warnings are errors only with the versions of constraints.txt: what other versions warn of says nothing about a device.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.measure import Unmeasured, parsed, parser, record
from benchmarks.rows import ROOT, Row

#: Kernels, engine, the equivalence ladder, resume; the slow ones compile for other devices or kill for minutes.
PATHS = ("tests/kernels", "tests/attacks", "tests/equivalence", "tests/training")
SMALL = ("tests/attacks/test_pgd.py", "tests/kernels/test_linf.py")
#: Failed tests that a row names, and tests whose seconds it gives.
NAMED, SLOWEST = 40, 12


def outcomes(report: Path) -> Row:
    """What pytest's JUnit file says."""
    suite = next(ElementTree.parse(report).iter("testsuite"))
    cases = [(f"{case.get('classname')}::{case.get('name')}", case) for case in suite.iter("testcase")]
    bad = [(name, part) for name, case in cases for part in case if part.tag in ("failure", "error")]

    def reason(part: ElementTree.Element) -> str:
        message = part.get("message") or ""
        if message == "collection failure":  # says nothing
            message = (part.text or "").strip().splitlines()[-1]
        return " ".join(message.split())[:200]

    slow = sorted(cases, key=lambda one: -float(one[1].get("time", 0)))[:SLOWEST]
    failed, skipped = len(bad), int(suite.get("skipped", 0))
    return {
        "passed": len(cases) - failed - skipped,
        "failed": failed,
        "skipped": skipped,
        "seconds": round(float(suite.get("time", 0)), 1),
        "failures": [f"{name}: {reason(part)}" for name, part in bad[:NAMED]],
        "slowest": {name: round(float(case.get("time", 0)), 1) for name, case in slow},
    }


def pinned() -> bool:
    """Whether torch is the one of constraints.txt."""
    found = re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    return found is not None and torch.__version__.split("+")[0] == found[1]


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    made = parser(__doc__)
    made.add_argument("paths", nargs="*", help="of tests; those that guard the fast path without")
    made.add_argument("--workers", type=int, default=min(10, os.cpu_count() or 1))
    found = parsed(made, arguments)
    found.paths = found.paths or list(SMALL if found.small else PATHS)
    return found


def measured(found: argparse.Namespace) -> Iterator[Row]:
    """One row, also of tests that were interrupted."""
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as name:
        report = Path(name) / "report.xml"
        how = ["-q", "-m", "not slow", f"--junitxml={report}", *([] if pinned() else ["-W", "default"])]
        workers = ["-n", str(found.workers)] if found.workers > 1 else []
        code = int(pytest.main([*how, *workers, *found.paths]))
        row = outcomes(report)
    yield {"op": "tests", **row, "complete": code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)}
    if code:
        raise Unmeasured(f"pytest ended with code {code}")


if __name__ == "__main__":
    chosen = options()
    record(measured(chosen), chosen.out)
