"""Prepared data on disk: where it is kept, and how two processes that want the same file share its making."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from srat_fast.errors import UserError


def cache_directory() -> Path:
    """Where prepared data sets are kept: $SRAT_FAST_CACHE, else $XDG_CACHE_HOME/srat-fast, else ~/.cache/srat-fast."""
    own, shared = os.environ.get("SRAT_FAST_CACHE"), os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(own).expanduser() if own else Path(shared).expanduser() / "srat-fast"
    except RuntimeError:
        problem = "name a directory by it: there is no such home directory"
        raise UserError("SRAT_FAST_CACHE", problem, own or shared) from None


def open_locked(path: Path, on_wait: Callable[[], None]) -> int:
    """Opens a file that one process at a time may have; it is created where missing.

    The lock is the kernel's (flock), so a process that dies gives it back. Whoever has it may rename or remove the
    file: those that wait notice and start again with the file that is then there.

    Args:
        path: the file.
        on_wait: called if another process holds the lock.

    Returns:
        A descriptor; closing it gives the lock back.

    Raises:
        OSError: the file cannot be opened.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(handle, fcntl.LOCK_EX)
        if is_same(handle, path):
            return handle
        os.close(handle)


def is_same(handle: int, path: Path) -> bool:
    """Whether a path still names the file that was opened by it.

    Args:
        handle: of the open file.
        path: where it was.

    Returns:
        False where it was renamed, replaced or removed.
    """
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def directory_made(path: Path) -> Iterator[None]:
    """Makes a directory, and removes what it made of it where the block fails and left it empty.

    Args:
        path: the directory.

    Raises:
        OSError: it cannot be made.
    """
    made = [p for p in (path, *path.parents) if not p.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for directory in made:  # deepest first
            try:
                directory.rmdir()
            except OSError:  # another process put something there meanwhile
                break
        raise


@contextmanager
def exclusive(
    target: Path, on_wait: Callable[[], None] = lambda: None, option: str | None = "SRAT_FAST_CACHE"
) -> Iterator[None]:
    """Holds a lock on making `target`: one process works, the others wait and then find it made.

    The holder looks for the target again before making it, writes to a temporary name and renames. The lock is a file
    beside the target, `.<name>.lock`, that goes with the holder.

    Args:
        target: the file or directory to be made; its parent is created.
        on_wait: called once if another process holds the lock.
        option: to be named where the directory cannot be written; None passes the OSError on.

    Raises:
        UserError: the directory cannot be written.
    """
    lock = target.parent / f".{target.name}.lock"
    with ExitStack() as stack:
        try:
            stack.enter_context(directory_made(target.parent))
            handle = open_locked(lock, on_wait)
        except OSError as error:
            if option is None:
                raise
            raise UserError(option, f"cannot be written: {error.strerror}", str(target.parent)) from None
        stack.callback(os.close, handle)
        stack.callback(lock.unlink, missing_ok=True)
        yield
