"""Files verified against an archive's size and checksum before they are opened."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from srat_fast.data.archives import Archive
from srat_fast.errors import UserError

_PAGE_STARTS = (b"<!doctype html", b"<html", b"<?xml", b"<head")


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


def is_web_page(start: bytes) -> bool:
    """Whether content starts like a web page: a login or error page saved under an archive's name.

    Args:
        start: the first bytes, some hundred suffice.

    Returns:
        True for HTML and XML.
    """
    return start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGE_STARTS)


def problem_of(path: Path, archive: Archive) -> str | None:
    """What is wrong with a file, compared with an archive's published size and SHA-256.

    Args:
        path: an existing file.
        archive: what it should be.

    Returns:
        One phrase, or None for the very archive.

    Raises:
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if is_web_page(file.read(512)):
            return "is a web page, not the archive"
        if size != archive.size:
            kind = "is cut short" if size < archive.size else "is not the published file"
            return f"{kind}: {size} bytes instead of {archive.size}"
        file.seek(0)
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return None if found == archive.sha256 else f"is damaged: its SHA-256 is {found}, not {archive.sha256}"


def verified_bytes(path: Path, archive: Archive) -> bytes:
    """A file's content, judged after it was read, so that nobody can change it between.

    Args:
        path: an existing file.
        archive: what it should be.

    Returns:
        The whole content.

    Raises:
        UserError: it cannot be read or has another SHA-256.
    """
    with one_line(path):
        content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != archive.sha256:
        raise UserError("data.root", f"is damaged: its SHA-256 is {found}, not {archive.sha256}", str(path))
    return content


def require_md5(content: bytes, md5: str, name: str) -> bytes:
    """A member's bytes, if they are the published ones.

    Args:
        content: the whole member.
        md5: as upstream states it.
        name: of the member, for the message.

    Returns:
        `content`.

    Raises:
        UserError: another sum.
    """
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise UserError("data.root", f"is damaged: its MD5 is {found}, not {md5}", name)
    return content
