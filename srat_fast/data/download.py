"""Resumable downloads: a verified file under its final name, or nothing.

Bytes go to a temporary name in the same directory; size and SHA-256 are judged before the file gets its name. Broken
connections are resumed a bounded number of times, and what is no archive is refused at its first bytes.
"""

from __future__ import annotations

import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from srat_fast.data.archives import Archive
from srat_fast.data.cache import directory_made, is_same, open_locked
from srat_fast.data.notices import LOG, bar
from srat_fast.data.verify import is_web_page, problem_of
from srat_fast.errors import UserError

MIRROR = "SRAT_FAST_MIRROR"
#: Seconds without a byte before a connection is given up, connections tried, and seconds between them.
PATIENCE, ATTEMPTS, PAUSE = 30.0, 4, 2.0
_BLOCK = 1 << 18


class Refused(Exception):
    """A source that does not serve the archive; trying it again would not help."""


def addresses(archive: Archive, mirror: str | None) -> list[str]:
    """Where an archive is looked for, in order.

    Args:
        archive: what is wanted.
        mirror: base URL, or None to take $SRAT_FAST_MIRROR where it is set.

    Returns:
        The mirror's address first, the publisher's last.

    Raises:
        UserError: $SRAT_FAST_MIRROR is no URL.
    """
    option = "data.mirror" if mirror else MIRROR
    base = mirror or os.environ.get(MIRROR, "")
    if base and urlsplit(base).scheme not in ("http", "https", "file"):
        raise UserError(option, "a base URL is needed: http://..., https://... or file:///...", base)
    return [base.rstrip("/") + "/" + archive.name, archive.url] if base else [archive.url]


def download(archive: Archive, root: Path, mirror: str | None = None) -> Path:
    """Fetch an archive into a directory.

    Args:
        archive: what is wanted.
        root: receives it; created where missing.
        mirror: base URL that is tried first; None for $SRAT_FAST_MIRROR.

    Returns:
        The verified file.

    Raises:
        UserError: no source serves it, or the directory cannot be written; nothing is left behind.
    """
    sources = addresses(archive, mirror)
    target, problems = root / archive.name, []
    with _directory(root):
        with _temporary(root, archive.name) as temporary:
            try:
                if target.exists() and not problem_of(target, archive):
                    return target  # another process was faster
                for url in sources:
                    try:
                        _fetch(url, temporary, archive)
                    except Refused as error:
                        problems.append(f"{_place(url)}: {error}")
                    else:
                        os.replace(temporary, target)
                        return target
            except OSError as error:
                raise UserError("data.root", f"cannot be written: {error.strerror}", str(root)) from None
        facts = f"{archive.name} ({archive.size} bytes, MD5 {archive.md5}, SHA-256 {archive.sha256})"
        advice = f"place {facts} there, or name a mirror by --mirror URL or {MIRROR}"
        raise UserError("data.root", f"{advice}; downloading failed ({'; '.join(problems)})", str(root))


def _place(url: str) -> str:
    """An address without the password that it may hold."""
    parts = urlsplit(url)
    return parts.hostname or parts.path


def _fetch(url: str, target: Path, archive: Archive) -> None:
    """Fill `target` from one source; broken connections are resumed where they broke."""
    LOG.info("downloading %s (%.0f MB) from %s", archive.name, archive.size / 1e6, _place(url))
    target.write_bytes(b"")
    trouble = "no answer"
    with bar(archive.name, archive.size, in_bytes=True) as advance:
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(PAUSE)
            with target.open("r+b") as file:
                try:
                    _receive(url, file, archive, advance)
                except _Broken as error:
                    trouble = str(error)
                    continue
                file.flush()
                os.fsync(file.fileno())
            if problem := problem_of(target, archive):
                raise Refused(problem)
            return
    raise Refused(f"{trouble}, {ATTEMPTS} times")


class _Broken(Exception):
    """A connection that failed and may work again."""


def _receive(url: str, file: IO[bytes], archive: Archive, advance: Callable[[int], None]) -> None:
    """One connection: append what is missing."""
    have = file.seek(0, os.SEEK_END)
    headers = {"User-Agent": "srat-fast"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=PATIENCE)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the server says that there is no more than we have
            raise Refused(f"has {have} bytes instead of {archive.size}") from None
        if error.code < 500 and error.code not in (408, 429):
            raise Refused(f"answers {error.code} {error.reason}") from None
        raise _Broken(f"answers {error.code} {error.reason}") from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, FileNotFoundError) or url.startswith("file:"):
            raise Refused(getattr(reason, "strerror", None) or str(reason)) from None
        raise _Broken(getattr(reason, "strerror", None) or str(reason)) from None
    with answer:
        if have and answer.status != 206:  # a server that does not resume starts again
            file.truncate(0)
            have = file.seek(0)
        length = answer.headers.get("Content-Length")
        first = True
        while True:
            try:
                block = answer.read(_BLOCK)
            except (http.client.HTTPException, OSError) as error:
                raise _Broken(str(error) or type(error).__name__) from None
            if first and not have and is_web_page(block[:512]):
                raise Refused("sent a web page, not the archive")
            if first and not have and length is not None and int(length) != archive.size:
                raise Refused(f"has {length} bytes instead of {archive.size}")
            first = False
            if not block:
                break
            have += len(block)
            if have > archive.size:
                raise Refused(f"sends more than {archive.size} bytes")
            file.write(block)
            advance(have)
    if have < archive.size:
        raise _Broken(f"the connection broke after {have} of {archive.size} bytes")


@contextmanager
def _directory(root: Path) -> Iterator[None]:
    """Makes `root`, and removes what it made of it if the block fails."""
    with ExitStack() as stack:
        try:
            stack.enter_context(directory_made(root))
        except OSError as error:
            raise UserError("data.root", f"cannot be written: {error.strerror}", str(root)) from None
        yield


@contextmanager
def _temporary(root: Path, name: str) -> Iterator[Path]:
    """A temporary file beside the final one, for this process alone; gone at the end unless it was renamed.

    Its name is fixed and the kernel locks it, so that what a killed process left is used up by the next, and a second
    process in the same directory waits.
    """
    path = root / f".{name}.part"
    try:
        handle = open_locked(path, lambda: LOG.info("waiting for another process that downloads %s", name))
    except OSError as error:
        raise UserError("data.root", f"cannot be written: {error.strerror}", str(root)) from None
    try:
        yield path
    finally:
        if is_same(handle, path):
            path.unlink()
        os.close(handle)
