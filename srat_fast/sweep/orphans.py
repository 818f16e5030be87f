"""Trials whose driver died: a state enters; whether its process still runs leaves, and it is made to end."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Any

from srat_fast.sweep.claim import LEASE
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.sweep.hosts import alive
from srat_fast.sweep.plan import Trial

#: Seconds that a trial has for saving after its driver died.
_GRACE = 60.0
_first_seen: dict[tuple[int, int], float] = {}


def still_running(sweep: SweepDirectory, trial: Trial, state: dict[str, Any]) -> bool:
    """Whether a trial's last process still lives, though nobody holds its claim: two must never write one directory.

    The kernel told it to save and exit when its driver died. After a minute it is killed. Of another host's nothing is
    known but the state file, which whoever watches the trial touches: it counts as running until a lease after that.

    Args:
        sweep: the sweep.
        trial: whose claim the caller holds.
        state: of the trial.

    Returns:
        True while it lives, or may live.
    """
    running = state.get("running")
    living = alive(running) if running else False
    if living is None:
        with contextlib.suppress(FileNotFoundError):
            path = sweep.state_path(trial)
            return time.time() - path.stat().st_mtime < LEASE
    if not running or not living:
        return False
    key = int(running["pid"]), int(running.get("ticks", 0))
    if time.monotonic() - _first_seen.setdefault(key, time.monotonic()) > _GRACE:
        with contextlib.suppress(ProcessLookupError):
            os.kill(key[0], signal.SIGKILL)
    return True
