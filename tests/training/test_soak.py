"""Soak: one run is killed again and again at random moments, saves included, and ends with the weights of the run that
was left in peace.

Six kills in the short form; `SRAT_FAST_SOAK_KILLS=50` is the long one (a few minutes).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.training.short_runs import SHORT, assert_equal_runs, command, finish, record

KILLS = int(os.environ.get("SRAT_FAST_SOAK_KILLS", "6"))
#: A save after nearly every step: about half of the kills fall into one.
RECIPE = SHORT | {"run.checkpoint_minutes": 0.0005, "run.tensorboard": False, "optim.epochs": max(8, KILLS)}


def newest(out: Path) -> str:
    """Name of the newest checkpoint, "" where there is none."""
    names = sorted(p.name for p in (out / "checkpoint").glob("0*")) if (out / "checkpoint").is_dir() else []
    return names[-1] if names else ""


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(tmp_path) -> None:
    moments = random.Random(20)
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert finish(whole, recipe=RECIPE).returncode == 0
    killed, during_saves, before_any = 0, 0, 0
    while killed < KILLS:
        # mostly some steps after the run was taken up again, now and then while it starts
        while_starting = moments.random() < 0.1
        delay = moments.random() * (3.0 if while_starting else 0.15)
        before = newest(out)
        process = subprocess.Popen(
            command(out, "--resume", "auto", recipe=RECIPE), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        started = time.monotonic()
        while not while_starting and newest(out) == before and process.poll() is None:
            assert time.monotonic() - started < 300
            time.sleep(0.002)
        time.sleep(delay)
        if process.poll() is not None:
            break  # finished before its kill: a machine that is quicker than these delays
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors
        killed += 1
        before_any += not newest(out)
        during_saves += any((out / "checkpoint").glob(".tmp-*"))
    ended = finish(out, "--resume", "auto", recipe=RECIPE)
    assert ended.returncode == 0, ended.stderr
    print(f"{killed} kills, {during_saves} during a save, {before_any} before the first checkpoint")
    assert killed >= min(KILLS, 4)
    assert_equal_runs(whole, out)
    assert record(out)["status"] == "finished"
    assert len(record(out)["resumed"]) >= killed - before_any - 1
    assert not list(out.rglob(".tmp-*"))
