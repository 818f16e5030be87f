"""A test run that is killed anywhere leaves no process and no mount; one whose worker dies says which test and why."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.leftovers import own_mounts

ROOT = Path(__file__).resolve().parents[1]
KILLED = """
import os, subprocess, sys, time
from pathlib import Path
from tests.leftovers import end_children_with, mount_tmpfs

end_children_with(os.getpid())
place = Path(sys.argv[1])
assert mount_tmpfs(place, "64k") == "", "a tmpfs"
(place / "file").touch()
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""


def alive(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def test_processes_and_mounts_end_with_a_killed_test_process(tmp_path) -> None:
    if reason := own_mounts():
        pytest.skip(f"no mounts of one's own: {reason}")
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert alive(child)
        assert not tmp_path.is_mount()
        assert list(tmp_path.iterdir()) == []
        process.send_signal(signal.SIGKILL)
    until = time.monotonic() + 20
    while alive(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive(child)


def test_a_worker_that_dies_is_one_line_with_test_and_signal(tmp_path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import os, signal\ndef test_crash(): os.kill(os.getpid(), signal.SIGSEGV)\ndef test_other(): pass\n"
    )
    options = ["-n", "1", "-p", "tests.leftovers", "-p", "no:cacheprovider", "-c", os.devnull]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    line = "test_it.py::test_crash: its worker process was ended by signal 11 (Segmentation fault)"
    assert line in done.stdout, done.stdout
    assert "1 failed, 1 passed" in done.stdout
