"""How long `srat-fast --help` takes: a whole process, from its start to its end."""

from __future__ import annotations

import subprocess
import sys


def test_help(benchmark) -> None:
    benchmark(subprocess.run, [sys.executable, "-m", "srat_fast", "--help"], capture_output=True, check=True)
