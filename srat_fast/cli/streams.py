"""Standard streams that never fail a command: the reader may be gone, the disk full, the encoding poor."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import Any

from srat_fast.tables import READABLE

#: Errors of a reader that has gone: `| head`, a closed terminal. Nobody misses what is not written.
_GONE = (errno.EPIPE, errno.EIO, errno.EBADF)


class _Raw(io.FileIO):
    """A standard stream that drops what cannot be written, and remembers why."""

    lost: OSError | None = None
    recorded = False

    def write(self, data: Any) -> int:
        try:
            while (
                written := super().write(data)
            ) is None:  # somebody has made the pipe non-blocking, and it is full
                select.select([], [self], [])
            return written
        except OSError as error:
            self.lost = error
            return memoryview(data).nbytes


def take_streams() -> None:
    """Give the process streams that never fail: not by a reader that has gone, a full disk, or an encoding.

    Closed ones (`>&-`) become the null device, lest the next file that is opened takes their place and gets what is
    written to them.
    """
    for number, name, mode in (
        (0, "stdin", os.O_RDONLY),
        (1, "stdout", os.O_WRONLY),
        (2, "stderr", os.O_WRONLY),
    ):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, mode), True)  # the lowest free number: this one
        old = getattr(sys, name)
        if number == 0 or old is not getattr(
            sys, f"__{name}__"
        ):  # a test's, or a program's that calls `main`
            continue
        encoding, lines, through = "utf-8", number == 2, False
        if isinstance(old, io.TextIOWrapper):
            old.flush()
            encoding, lines, through = old.encoding, old.line_buffering, old.write_through
        raw = io.BufferedWriter(_Raw(number, "w", closefd=False))
        setattr(
            sys, name, io.TextIOWrapper(raw, encoding, READABLE, line_buffering=lines, write_through=through)
        )


def _raw() -> _Raw | None:
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw if isinstance(raw, _Raw) else None


def recorded() -> None:
    """Say that the result lies in files, so that the command is done although its output was lost."""
    if (raw := _raw()) is not None:
        raw.recorded = True


def lost_output() -> str | None:
    """Why some of the output that was asked for could not be written (a full disk); None where nobody misses any."""
    if (raw := _raw()) is None:
        return None
    sys.stdout.flush()
    return None if raw.recorded or raw.lost is None or raw.lost.errno in _GONE else raw.lost.strerror
