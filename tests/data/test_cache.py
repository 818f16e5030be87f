from __future__ import annotations

import subprocess
import sys
import time

from srat_fast.data.cache import exclusive

HOLD = """
import sys, time
from pathlib import Path
from srat_fast.data.cache import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(target, seconds: float) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(target), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_waits_for_the_first(tmp_path) -> None:
    target, waited = tmp_path / "made" / "set.npz", []
    with hold(target, 1.0) as process:
        started = time.monotonic()
        with exclusive(target, lambda: waited.append(True)):
            assert time.monotonic() - started > 0.5
        assert waited == [True]
        assert process.wait() == 0


def test_a_killed_holder_gives_the_lock_back(tmp_path) -> None:
    target, waited = tmp_path / "set.npz", []
    with hold(target, 600) as process:
        process.kill()
        process.wait()
    with exclusive(target, lambda: waited.append(True)):
        assert waited == []
