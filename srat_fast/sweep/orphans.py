"""Trials whose driver died: a state enters; whether its process still runs leaves, and it is made to end."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Any

from srat_fast.sweep.hosts import alive

#: Seconds that a trial has for saving after its driver died.
_GRACE = 60.0
_asked: dict[tuple[int, int], float] = {}


def still_running(state: dict[str, Any]) -> bool:
    """Whether a trial's last process still lives on this host, though nobody holds its claim.

    The kernel told it to save and exit when its driver died. After a minute it is killed: two processes must never
    write one run directory. Of another host's nothing is known; there the claim's lease lapsed, and with it the host.

    Args:
        state: of the trial.

    Returns:
        True while it lives.
    """
    running = state.get("running")
    if not running or alive(running) is not True:
        return False
    key = int(running["pid"]), int(running.get("ticks", 0))
    first = _asked.setdefault(key, time.monotonic())
    if time.monotonic() - first > _GRACE:
        with contextlib.suppress(ProcessLookupError):
            os.kill(key[0], signal.SIGKILL)
    return True
