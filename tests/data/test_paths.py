from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from srat_fast.data.paths import cache_directory, exclusive
from srat_fast.errors import UserError

HOLD = """
import sys, time
from pathlib import Path
from srat_fast.data.paths import exclusive
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
            target.write_text("made")
        assert waited == [True]
        assert process.wait() == 0
    assert [p.name for p in target.parent.iterdir()] == ["set.npz"]


def test_a_killed_holder_gives_the_lock_back(tmp_path) -> None:
    target, waited = tmp_path / "set.npz", []
    with hold(target, 600) as process:
        process.kill()
        process.wait()
    with exclusive(target, lambda: waited.append(True)):
        assert waited == []


def test_who_waits_outlives_a_holder_that_fails_and_takes_its_directory_along(tmp_path) -> None:
    target, waiting, done = tmp_path / "new" / "set.npz", threading.Event(), []

    def second() -> None:
        with exclusive(target, waiting.set):
            target.write_text("made")
        done.append(True)

    thread = threading.Thread(target=second)

    def fail() -> None:
        with exclusive(target):
            thread.start()
            assert waiting.wait(10)
            time.sleep(0.05)  # between its message and its wait
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    thread.join(10)
    assert done == [True]
    assert [p.name for p in target.parent.iterdir()] == ["set.npz"]


COUNT = """
import sys, time
from pathlib import Path
from srat_fast.data.paths import exclusive
inside = Path(sys.argv[2])
for _ in range(40):
    with exclusive(Path(sys.argv[1])):
        inside.mkdir()  # fails if another process is inside
        time.sleep(0.001)
        inside.rmdir()
"""


def test_never_two_at_once_though_the_lock_file_comes_and_goes(tmp_path) -> None:
    command = [sys.executable, "-c", COUNT, str(tmp_path / "set"), str(tmp_path / "inside")]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait(timeout=120) for process in processes] == [0] * 4
    assert list(tmp_path.iterdir()) == []


def test_what_fails_leaves_no_directory(tmp_path) -> None:
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path / "a" / "b" / "set"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"SRAT_FAST_CACHE = .*: cannot be written"),
        exclusive(tmp_path / "file" / "set"),
    ):
        pass


def test_the_directory_follows_the_environment_and_the_home(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("SRAT_FAST_CACHE", raising=False)
    assert cache_directory() == tmp_path / ".cache" / "srat-fast"
    monkeypatch.setenv("SRAT_FAST_CACHE", "~/kept")  # as a container's file may set it, which no shell reads
    assert cache_directory() == tmp_path / "kept"
    monkeypatch.setenv("SRAT_FAST_CACHE", "~nobody-here/kept")
    with pytest.raises(UserError, match="there is no such home directory"):
        cache_directory()
