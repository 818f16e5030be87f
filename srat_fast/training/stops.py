"""Requests to stop (SIGTERM, SIGHUP, SIGUSR1, Ctrl-C): a flag that is read at step boundaries. No torch here."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

#: Signal -> exit code.
CODES = {signal.SIGHUP: 129, signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}
#: Seconds in which several SIGHUPs are one: when a terminal is closed its shell sends one, and the kernel another.
HANGUP = 0.2


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
        hung_up = -HANGUP
        while data := os.read(pipe, 64):
            for number in data:
                with contextlib.suppress(ValueError):
                    came = signal.Signals(number)
                    if came not in self._before:
                        continue
                    if came is signal.SIGHUP:
                        again, hung_up = time.monotonic() - hung_up < HANGUP, time.monotonic()
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
