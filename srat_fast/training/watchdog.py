"""A watch on progress: signs of life enter; without one for too long, stacks and the end of the process leave."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

#: Exit code of a process that the watchdog ended: that of timeout(1).
HANG_CODE = 124
STACKS = "hang.txt"
#: Seconds that a step may take in addition where it compiles or captures: minutes are normal there.
COMPILING = 1800.0
#: Seconds after the limit at which a timer outside of Python acts, for hangs that stop Python's threads as well.
_LAST_RESORT = 30.0
#: Seconds without a tick of the watchdog itself that mean that the process was stopped from outside, not hanging.
_STOPPED = 10.0


class Watchdog:
    """Ends the process when `beat` has not been called for a while; does nothing with `seconds` = 0.

    Args:
        seconds: the longest time between two beats, `run.watchdog_seconds`.
        directory: receives hang.txt, the stacks of all threads.
        on_hang: told the problem before the process ends, to put it on record.
    """

    def __init__(self, seconds: float, directory: Path, on_hang: Callable[[str], None]) -> None:
        self._seconds, self._directory, self._on_hang = seconds, directory, on_hang
        self._deadline = 0.0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Watchdog:
        if self._seconds > 0:
            self.beat(COMPILING)
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def beat(self, allowance: float = 0.0) -> None:
        """There is progress.

        Args:
            allowance: seconds that what follows may take in addition.
        """
        self._deadline = time.monotonic() + self._seconds + allowance

    def _watch(self) -> None:
        tick = min(1.0, self._seconds / 4)
        with (self._directory / STACKS).open("a", encoding="utf-8") as file:
            last = time.monotonic()
            while not self._ended.wait(tick):
                now = time.monotonic()
                if (
                    now - last > tick + _STOPPED
                ):  # the whole process stood still: Ctrl-Z, a suspended job or machine
                    self._deadline += now - last
                last, left = now, self._deadline - now
                if left < 0:
                    self._end(file.fileno())
                # where Python itself is stuck, this thread is too: then faulthandler's own thread acts
                faulthandler.dump_traceback_later(left + _LAST_RESORT, exit=True, file=file)
            faulthandler.cancel_dump_traceback_later()
        if not (self._directory / STACKS).stat().st_size:
            (self._directory / STACKS).unlink()

    def _end(self, file: int) -> None:
        problem = f"hang: no step ended for {self._seconds:g} s; stacks are in {self._directory / STACKS}"
        try:
            sys.stderr.write(f"error: {problem}\n")
            sys.stderr.flush()
            for target in (sys.__stderr__.fileno() if sys.__stderr__ else 2, file):
                faulthandler.dump_traceback(target, all_threads=True)
            os.fsync(file)
            self._on_hang(problem)
        finally:
            os._exit(HANG_CODE)
