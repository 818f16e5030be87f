"""How a run ends early: signals that ask for it, and a watchdog over steps that never end. No torch here."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

#: Signal -> exit code.
CODES = {signal.SIGHUP: 129, signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}
#: Seconds in which signals of one kind are one. When a terminal is closed its shell sends a SIGHUP, and the kernel
#: another; where all processes of a job get a signal (SLURM, systemd), torchrun or a sweep passes its own on as well.
TWICE = 0.2


def handled() -> list[signal.Signals]:
    """The signals that ask for the end: all of `CODES`, but SIGHUP where the process is to ignore it (nohup)."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [number for number in CODES if not (ignored and number == signal.SIGHUP)]


class Stops:
    """Notes the first signal and ends the process at the second; the process's own handlers come back at the end.

    The signals are read by a thread from Python's wake-up pipe: the second one acts at once even while the main thread
    is inside a long operation, where Python would not call a handler. Whatever is on the disk by then is valid.
    Outside of the main thread signals cannot be handled, and nothing is installed.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._pipe: tuple[int, int] | None = None
        self._wakeup = -1
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Stops:
        if threading.current_thread() is threading.main_thread():
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            self._wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            self._before = {number: signal.signal(number, _ignore) for number in handled()}
            self._thread = threading.Thread(target=self._listen, args=(self._pipe[0],), daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            # None is a handler that was not installed from Python, which cannot be put back: the default then
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if self._pipe is not None and self._thread is not None:
            signal.set_wakeup_fd(self._wakeup)
            os.close(self._pipe[1])  # the listener reads the end of the pipe and ends
            self._thread.join()
            os.close(self._pipe[0])
            self._pipe = None

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.signal is not None

    @property
    def code(self) -> int:
        """The exit code that belongs to the signal."""
        return 0 if self.signal is None else CODES[self.signal]

    def _listen(self, pipe: int) -> None:
        times = dict.fromkeys(CODES, -TWICE)
        while data := os.read(pipe, 64):
            for number in data:
                with contextlib.suppress(ValueError):
                    came = signal.Signals(number)
                    if came not in self._before:
                        continue
                    again, times[came] = time.monotonic() - times[came] < TWICE, time.monotonic()
                    if again:
                        continue
                    if self.signal is not None:
                        _tell("\x1b[?25h")  # the cursor that a progress bar hides
                        os._exit(CODES[came])
                    self.signal = came
                    _tell(f"\n{came.name}: saving at the next step; once more ends at once\n")


def _tell(text: str) -> None:
    """Say it to a person at a terminal; logs have the line that the program ends with."""
    with contextlib.suppress(OSError):  # the terminal may be gone
        if os.isatty(2):
            os.write(2, text.encode())


def _ignore(number: int, frame: FrameType | None) -> None:
    """A Python handler must be there for the wake-up pipe to be written; the listener does the rest."""


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
            # from now on, not from when the thread runs: the process may be stopped in between
            self._thread = threading.Thread(target=self._watch, args=(time.monotonic(),), daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def beat(self, allowance: float = 0.0) -> None:
        """There is progress."""
        self._deadline = time.monotonic() + self._seconds + allowance

    def _watch(self, last: float) -> None:
        tick = min(1.0, self._seconds / 4)
        with (self._directory / STACKS).open("a", encoding="utf-8") as file:
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
