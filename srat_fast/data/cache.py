"""Prepared data on disk: where it is kept, and how two processes that want the same file share its making."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from srat_fast.errors import UserError


def cache_directory() -> Path:
    """Where prepared data sets are kept.

    Returns:
        $SRAT_FAST_CACHE, else $XDG_CACHE_HOME/srat-fast, else ~/.cache/srat-fast.
    """
    base = os.environ.get("SRAT_FAST_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "srat-fast"


@contextmanager
def exclusive(target: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds a lock on making `target`: one process works, the others wait and then find it made.

    The lock is the kernel's (flock on `.<name>.lock` beside the target), so a process that dies gives it back. The
    holder looks for the target again before making it, writes to a temporary name and renames.

    Args:
        target: the file or directory to be made; its parent is created.
        on_wait: called once if another process holds the lock.

    Raises:
        UserError: the directory cannot be written.
    """
    lock = target.parent / f".{target.name}.lock"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(
            "SRAT_FAST_CACHE", f"cannot be written: {error.strerror}", str(target.parent)
        ) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(
            handle
        )  # gives the lock back; the file stays, since removing it would race with a waiting process
