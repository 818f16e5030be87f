"""What data preparation says while it works, through the package's logger; the command line prints it.

A library is silent by default: downloads and waiting are told at level INFO, conversions of pixels at WARNING.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from srat_fast.tables import visible

LOG = logging.getLogger("srat_fast.data")


class _Lines(logging.Handler):
    """Writes to whatever stderr is at the moment; a warning that comes again (a set is read twice) is written once."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        line = visible(record.getMessage())
        if record.levelno >= logging.WARNING:
            if line in self._said:
                return
            self._said.add(line)
            line = "warning: " + line
        print(line, file=sys.stderr, flush=True)


@contextmanager
def printed() -> Iterator[None]:
    """Prints what data preparation says to stderr, one line each, for as long as the block runs."""
    handler, before = _Lines(), (LOG.level, LOG.propagate)
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(before[0])
        LOG.propagate = before[1]


@contextmanager
def bar(title: str, total: int, *, in_bytes: bool = False) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr where a person watches, nothing elsewhere; it is told how much is done in all."""
    from srat_fast.console import Console
    from srat_fast.progress import AmountView

    with AmountView(Console(stderr=True), title, total, in_bytes) as shown:
        yield lambda done: shown.update(completed=done)
