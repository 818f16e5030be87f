"""Mounts and processes of a killed test run end with the process that made them; a dead worker is one line."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
import uuid
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

MARK = "SRAT_FAST_TEST_PROCESS"
_CLONE_NEWNS, _MS_REC, _MS_PRIVATE = 0x20000, 0x4000, 0x40000


@cache
def own_mounts() -> str:
    """Give this process mounts of its own, which the kernel removes with it; empty, or why that is not possible."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        done = libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
    except (OSError, AttributeError) as error:  # not Linux
        return str(error)
    return os.strerror(ctypes.get_errno()) if done else ""


def mount_tmpfs(place: Path, size: str) -> str:
    """A file system of `size` at an existing folder; empty, or why not. Only this process and its children see it."""
    reason = own_mounts()
    if reason:
        return reason
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr.strip()


def end_children_with(process: int) -> None:
    """Start a watcher: when `process` is gone, whatever it started, however deep, is killed."""
    mark = os.environ[MARK] = uuid.uuid4().hex
    environment = {name: value for name, value in os.environ.items() if name != MARK}
    command = [sys.executable, "-S", __file__, str(process), mark]
    # in a session of its own: the Ctrl-C that ends a test run must not end it first
    os.posix_spawn(sys.executable, command, environment, setsid=True)


def pytest_handlecrashitem(crashitem: str, report: pytest.TestReport) -> None:
    """A worker process that dies is one line: the test and the signal."""
    process = report.node.gateway._io.popen  # type: ignore[attr-defined]  # xdist's own handle on it
    try:
        code = process.wait(timeout=10)
        cause = f"signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"exit code {code}"
    except subprocess.TimeoutExpired:
        cause = "a closed connection"
    report.longrepr = f"{crashitem}: its worker process was ended by {cause}"


def _watch(process: int, mark: str) -> None:
    while os.getppid() == process:
        time.sleep(0.2)
    wanted = f"{MARK}={mark}".encode()
    for _ in range(3):  # a process may be starting another one
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)
            except OSError:
                continue
        time.sleep(0.1)


if __name__ == "__main__":
    _watch(int(sys.argv[1]), sys.argv[2])
