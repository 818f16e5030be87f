"""Kills a run again and again: `python -m tests.training.soak KILLS DIRECTORY`; prints what was hit.

Each attempt is a process of its own, forked from one that has imported torch and what an optimizer imports at its first
step (which takes longer than the run) and has computed nothing, and killed by SIGKILL from outside.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch._dynamo  # noqa: F401 - an optimizer imports it at its first step: once here, not in each attempt

from srat_fast import Recipe, train
from tests.training.short_runs import short


def forked(recipe: Recipe, out: Path) -> int:
    """Start an attempt; returns its process id."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        train(recipe, out, resume="auto")
        code = 0
    except BaseException as error:
        print(f"attempt failed: {error!r}", file=sys.stderr, flush=True)
    os._exit(code)


def newest(out: Path) -> str:
    """Name of the newest checkpoint, "" where there is none."""
    names = sorted(p.name for p in (out / "checkpoint").glob("0*"))
    return names[-1] if names else ""


def soak(kills: int, directory: Path) -> None:
    """Kill `kills` attempts at random moments, then let one finish; another run is left in peace."""
    moments = random.Random(20)
    # a save after every step or two: many kills fall into one
    recipe = short(run__checkpoint_minutes=0.0005, run__tensorboard=False, optim__epochs=max(6, kills))
    assert os.waitpid(forked(recipe, directory / "whole"), 0)[1] == 0
    out = directory / "run"
    seen = {"starting": 0, "during a save": 0, "between saves": 0}
    for _ in range(kills):
        before, starting = newest(out), moments.random() < 0.15
        process = forked(recipe, out)
        end = time.monotonic() + 300
        while not starting and newest(out) == before:  # some way past its first save
            assert time.monotonic() < end, "no progress"
            time.sleep(0.001)
        time.sleep(moments.random() * (0.5 if starting else 0.1))
        os.kill(process, signal.SIGKILL)
        ended = os.waitpid(process, 0)[1]
        assert os.WIFSIGNALED(ended), f"an attempt ended by itself: {ended}"
        saving = any((out / "checkpoint").glob(".tmp-*"))
        seen["starting" if starting else "during a save" if saving else "between saves"] += 1
    assert os.waitpid(forked(recipe, out), 0)[1] == 0
    print(", ".join(f"{count} {moment}" for moment, count in seen.items()))


if __name__ == "__main__":
    soak(int(sys.argv[1]), Path(sys.argv[2]))
