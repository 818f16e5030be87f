"""Paths on disk: refusals in one line, the cache directory, and the lock under which one process makes a file.

Own code, as filelock leaves its lock file behind (and to unlink it is safe in some of its versions only), and as
platformdirs has another cache directory on macOS than the one where earlier versions kept their sets.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from srat_fast.errors import UserError


@contextmanager
def one_line(path: Path) -> Iterator[None]:
    """What the file system refuses when data are read, as one line that names the path."""
    try:
        yield
    except OSError as error:
        raise UserError("data.root", f"cannot be read: {error.strerror or error}", str(path)) from None


def is_directory(path: Path) -> bool:
    """Whether a path is a directory; one line where that cannot be found out (no permission, too long a name)."""
    with one_line(path):
        return path.is_dir()


def is_there(path: Path) -> bool:
    """Whether there is anything of that name; one line where that cannot be found out."""
    with one_line(path):
        return path.exists()


def expanded(option: str, text: str) -> Path:
    """A path of the user's, ~ and ~name read as the shell reads them."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(option, "there is no such home directory", text) from None


def cache_directory() -> Path:
    """Where prepared data sets are kept: $SRAT_FAST_CACHE, else $XDG_CACHE_HOME/srat-fast, else ~/.cache/srat-fast."""
    if own := os.environ.get("SRAT_FAST_CACHE"):
        return expanded("SRAT_FAST_CACHE", own)
    return expanded("SRAT_FAST_CACHE", os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "srat-fast"


@contextmanager
def exclusive(
    target: Path, on_wait: Callable[[], None] = lambda: None, option: str | None = "SRAT_FAST_CACHE"
) -> Iterator[None]:
    """A lock on making `target`, `.<name>.lock` beside it: one process works, the others wait and then find it made.

    The holder looks for the target again before making it, writes to a temporary name and renames. Where the directory
    cannot be written, a UserError names `option`; None passes the OSError on.
    """
    lock = target.parent / f".{target.name}.lock"
    with ExitStack() as stack:
        try:
            for left in reversed(range(5)):
                stack.enter_context(_directory_made(target.parent))
                try:
                    handle = _locked(lock, on_wait)
                    break
                except FileNotFoundError:  # its holder failed, and took along the directory that it had made
                    if not left:
                        raise
        except OSError as error:
            if option is None:
                raise
            raise UserError(option, f"cannot be written: {error.strerror}", str(target.parent)) from None
        stack.callback(os.close, handle)
        stack.callback(lock.unlink, missing_ok=True)
        yield


def _locked(path: Path, on_wait: Callable[[], None]) -> int:
    """Descriptor of a file with the kernel's lock (flock) on it, which a process that dies gives back."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(handle, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):  # else its holder removed it: another one counts now
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        os.close(handle)


@contextmanager
def _directory_made(path: Path) -> Iterator[None]:
    """Makes a directory, and removes what it made of it where the block fails and left it empty."""
    made = [p for p in (path, *path.parents) if not p.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # another process put something there meanwhile
            for directory in made:  # deepest first
                directory.rmdir()
        raise
