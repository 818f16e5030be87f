"""A run that hangs is ended with its stacks on disk; one that is only slow is not."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from srat_fast.training.stops import HANG_CODE, STACKS, Watchdog
from tests.training.short_runs import SHORT, record

#: The Python API with a loader that blocks in its second epoch, for good; holding Python's lock or not.
HANGING = """
import ctypes, dataclasses, sys, threading
from srat_fast import build_recipe, train
from srat_fast.training import trainer

def blocked(loader, number, start):
    for batch in type(loader).epoch(loader, number, start):
        if number == 1:
            where_it_hangs()
        yield batch

def where_it_hangs():
    threading.Event().wait()

class Blocked:
    def __init__(self, loader):
        self.loader, self.batch_size, self.images_per_epoch = loader, loader.batch_size, loader.images_per_epoch
    def __len__(self): return len(self.loader)
    def epoch(self, number=0, start=0): return blocked(self.loader, number, start)
    def close(self): self.loader.close()

real = trainer.prepare
def prepare(*arguments):
    setup = real(*arguments)
    return dataclasses.replace(setup, loader=Blocked(setup.loader))
trainer.prepare = prepare
train(build_recipe(None, eval(sys.argv[1])), sys.argv[2])
"""


def test_a_hang_is_ended_with_stacks_and_on_record(tmp_path) -> None:
    out = tmp_path / "run"
    recipe = SHORT | {"run.watchdog_seconds": 2.0, "run.checkpoint_epochs": 1}
    ended = subprocess.run(
        [sys.executable, "-c", HANGING, repr(recipe), str(out)], capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert ended.returncode == HANG_CODE == 124, ended.stderr
    assert "where_it_hangs" in (out / STACKS).read_text()
    assert "where_it_hangs" in ended.stderr
    assert record(out)["status"] == "failed"
    assert record(out)["problem"].startswith("hang: no step ended for 2 s")
    assert record(out)["failure"] == "hang"
    assert list((out / "checkpoint").glob("000001-*")), "the last checkpoint stays"


STUCK = """
import ctypes, sys
from pathlib import Path
from srat_fast.training import stops
stops._LAST_RESORT = 1.0
def holds_pythons_lock():
    ctypes.PyDLL(None).pause()  # PyDLL keeps the interpreter's lock: no Python thread runs any more
with stops.Watchdog(1.0, Path(sys.argv[1]), lambda problem: None) as dog:
    dog.beat()
    import time
    time.sleep(0.6)
    holds_pythons_lock()
"""


def test_a_hang_that_stops_python_itself_is_ended_too(tmp_path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", STUCK, str(tmp_path)], capture_output=True, timeout=120, check=False
    )
    assert ended.returncode == 1
    assert "holds_pythons_lock" in (tmp_path / STACKS).read_text()


PAUSED = """
import sys, time
from pathlib import Path
from srat_fast.training import stops
stops._STOPPED = 1.0
with stops.Watchdog(2.0, Path(sys.argv[1]), lambda problem: None) as dog:
    dog.beat()
    print("ready", flush=True)
    time.sleep(1.5)  # less than the limit, with the pause more than it
"""


def test_a_process_that_was_stopped_from_outside_did_not_hang(tmp_path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PAUSED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(3)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_progress_and_allowances_keep_it_quiet(tmp_path) -> None:
    problems = []
    with Watchdog(1.0, tmp_path, problems.append) as dog:
        for _ in range(8):
            dog.beat()
            time.sleep(0.2)
        dog.beat(allowance=60)
        time.sleep(1.6)
    assert problems == []
    assert not (tmp_path / STACKS).exists()


def test_off_is_off(tmp_path) -> None:
    with Watchdog(0.0, tmp_path, pytest.fail) as dog:
        dog.beat()
    assert list(tmp_path.iterdir()) == []
