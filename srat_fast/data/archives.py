"""The published archives of CIFAR and SVHN: addresses and checksums, verification, and resumable downloads.

SHA-256 judges a whole archive before anything in it is read; upstream's MD5 sums judge its members, so that an archive
that torchvision unpacked can be judged too. A download has its name once it is whole and verified; pooch and torch.hub
verify as well, but start a broken transfer from its beginning, and two processes download twice.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import string
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote, unquote, urlsplit

from srat_fast.data.notices import LOG, bar
from srat_fast.data.paths import exclusive, is_there, one_line
from srat_fast.errors import UserError
from srat_fast.record import sync

MIRROR = "SRAT_FAST_MIRROR"
#: Seconds without a byte before a connection is given up, connections tried, and seconds between them.
PATIENCE, ATTEMPTS, PAUSE = 30.0, 4, 2.0
_BLOCK = 1 << 18


@dataclass(frozen=True)
class Archive:
    """One published file; a mirror serves it under its name.

    Attributes:
        name: file name.
        url: the publisher's address.
        size: bytes.
        sha256: of its content.
        md5: of its content, as upstream states it.
    """

    name: str
    url: str
    size: int
    sha256: str
    md5: str


@dataclass(frozen=True)
class CifarFacts:
    """A CIFAR set: one archive of Python pickles.

    Attributes:
        archive: the archive.
        folder: the directory inside of it.
        train: member -> MD5, in the order of the training images.
        test: likewise for the test images.
        label_key: of a batch's labels.
    """

    archive: Archive
    folder: str
    train: dict[str, str]
    test: dict[str, str]
    label_key: str


_KRIZ = "https://www.cs.toronto.edu/~kriz/"
_HOUSENUMBERS = "http://ufldl.stanford.edu/housenumbers/"

CIFAR: dict[str, CifarFacts] = {
    "cifar10": CifarFacts(
        Archive(
            "cifar-10-python.tar.gz",
            _KRIZ + "cifar-10-python.tar.gz",
            170498071,
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            "c58f30108f718f92721af3b95e74349a",
        ),
        "cifar-10-batches-py",
        {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        {"test_batch": "40351d587109b95175f43aff81a1287e"},
        "labels",
    ),
    "cifar100": CifarFacts(
        Archive(
            "cifar-100-python.tar.gz",
            _KRIZ + "cifar-100-python.tar.gz",
            169001437,
            "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            "eb9058c3a382ffc7106e4002c42a8d85",
        ),
        "cifar-100-python",
        {"train": "16019d7e3df5f24257cddd939b257f8d"},
        {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        "fine_labels",
    ),
}

#: One MATLAB file a part ("cropped digits", 32 x 32).
SVHN: dict[str, Archive] = {
    "train": Archive(
        "train_32x32.mat",
        _HOUSENUMBERS + "train_32x32.mat",
        182040794,
        "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
        "e26dedcc434d2e4c54c9b2d4a06d8373",
    ),
    "test": Archive(
        "test_32x32.mat",
        _HOUSENUMBERS + "test_32x32.mat",
        64275384,
        "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
        "eb5a983be6a315427106f1b164d9cef3",
    ),
}


def archives_of(name: str) -> list[Archive]:
    """The files that cifar10, cifar100 or svhn is published in."""
    return list(SVHN.values()) if name == "svhn" else [CIFAR[name].archive]


def content_of(archive: Archive, root: Path, mirror: str | None = None) -> bytes:
    """The verified content of an archive, downloaded where it is not in `root`."""
    path = root / archive.name
    if not is_there(path):
        download(archive, root, mirror)
    with one_line(path):
        content, problem = _judged(path, archive)
    if problem:
        raise UserError("data.root", f"{problem}; remove it to have it downloaded", str(path))
    return content


def require_md5(content: bytes, md5: str, name: str) -> bytes:
    """A member's content, refused unless it is the published one."""
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise UserError("data.root", f"is damaged: its MD5 is {found}, not {md5}", name)
    return content


def _judged(path: Path, archive: Archive) -> tuple[bytes, str]:
    """(Content, what is wrong with it): judged after it was read, so that nobody can change it between."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(archive.size + 1)
    if _is_web_page(content[:512]):
        return content, "is a web page, not the archive"
    if size != archive.size:
        kind = "is cut short" if size < archive.size else "is not the published file"
        return content, f"{kind}: {size} bytes instead of {archive.size}"
    found = hashlib.sha256(content).hexdigest()
    good = found == archive.sha256
    return content, "" if good else f"is damaged: its SHA-256 is {found}, not {archive.sha256}"


def _is_web_page(start: bytes) -> bool:
    """Whether content starts like HTML or XML: a login or error page under an archive's name."""
    begins = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return begins.startswith((b"<!doctype html", b"<html", b"<?xml", b"<head"))


def download(archive: Archive, root: Path, mirror: str | None = None) -> Path:
    """The verified file in `root`, from a mirror (None: $SRAT_FAST_MIRROR, if set) or the publisher; or nothing."""
    sources, problems = _addresses(archive, mirror), []
    target, part = root / archive.name, root / f".{archive.name}.part"

    def waiting() -> None:
        LOG.info("waiting for another process that downloads %s", archive.name)

    with exclusive(target, waiting, "data.root"):
        try:
            if target.exists() and not _judged(target, archive)[1]:
                return target  # another process was faster
            for url in sources:
                try:
                    _fetch(url, part, archive)
                except _Refused as error:
                    problems.append(f"{_place(url)}: {error}")
                else:
                    os.replace(part, target)
                    return target
        except OSError as error:
            raise UserError("data.root", f"cannot be written: {error.strerror}", str(root)) from None
        finally:
            part.unlink(missing_ok=True)
        facts = f"{archive.name} ({archive.size} bytes, MD5 {archive.md5}, SHA-256 {archive.sha256})"
        advice = f"place {facts} there, or name a mirror by --mirror URL or {MIRROR}"
        raise UserError("data.root", f"{advice}; downloading failed ({'; '.join(problems)})", str(root))


def _addresses(archive: Archive, mirror: str | None) -> list[str]:
    """Where an archive is looked for: the mirror's address first, the publisher's last."""
    base = mirror or os.environ.get(MIRROR, "")
    try:
        known = urlsplit(base).scheme in ("http", "https", "file")
    except ValueError:  # brackets that hold no IPv6 address
        known = False
    if base and not known:
        problem = "a base URL is needed: http://..., https://... or file:///..."
        raise UserError("data.mirror" if mirror else MIRROR, problem, base)
    return [base.rstrip("/") + "/" + archive.name, archive.url] if base else [archive.url]


def _place(url: str) -> str:
    """An address without the password that it may hold."""
    parts = urlsplit(url)
    return parts.hostname or parts.path


class _Refused(Exception):
    """A source that does not serve the archive; trying it again would not help."""


class _Broken(Exception):
    """A connection that failed and may work again."""


def _fetch(url: str, part: Path, archive: Archive) -> None:
    """Fill `part` from one source; broken connections are resumed where they broke."""
    LOG.info("downloading %s (%.0f MB) from %s", archive.name, archive.size / 1e6, _place(url))
    trouble = ""
    with part.open("w+b") as file, bar(archive.name, archive.size, in_bytes=True) as advance:
        for attempt in range(ATTEMPTS):
            time.sleep(PAUSE if attempt else 0.0)
            try:
                _receive(url, file, archive, advance)
            except _Broken as error:
                trouble = str(error)
            else:
                sync(file)
                break
        else:
            raise _Refused(f"{trouble}, {ATTEMPTS} times")
    if problem := _judged(part, archive)[1]:
        raise _Refused(problem)


def _request(url: str) -> urllib.request.Request:
    """For an address as people write it: letters of any script, blanks, name:password@ before the host."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    address = parts._replace(netloc=host, path=quote(parts.path, safe=string.punctuation)).geturl()
    request = urllib.request.Request(address, headers={"User-Agent": "srat-fast"})
    if user:  # not for a server that this one redirects to
        token = base64.b64encode(unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request


def _receive(url: str, file: IO[bytes], archive: Archive, advance: Callable[[int], None]) -> None:
    """One connection: append what is missing."""
    have = file.seek(0, os.SEEK_END)
    request = _request(url)
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = urllib.request.urlopen(request, timeout=PATIENCE)
    except urllib.error.HTTPError as error:
        error.close()
        again = error.code >= 500 or error.code in (408, 429)
        raise (_Broken if again else _Refused)(f"answers {error.code} {error.reason}") from None
    except (http.client.InvalidURL, ValueError) as error:
        raise _Refused(f"is no address: {error}") from None
    except (http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", error)
        again = not url.startswith("file:")
        raise (_Broken if again else _Refused)(getattr(reason, "strerror", None) or str(reason)) from None
    with answer:
        if have and answer.status != 206:  # a server that does not resume starts again
            file.truncate(0)
            have = file.seek(0)
        first, length = not have, answer.headers.get("Content-Length")
        while True:
            try:
                block = answer.read(_BLOCK)
            except (http.client.HTTPException, OSError) as error:
                raise _Broken(str(error) or type(error).__name__) from None
            if first and _is_web_page(block[:512]):
                raise _Refused("sent a web page, not the archive")
            if first and length is not None and int(length) != archive.size:
                raise _Refused(f"has {length} bytes instead of {archive.size}")
            if not block:
                break
            first, have = False, have + len(block)
            if have > archive.size:
                raise _Refused(f"sends more than {archive.size} bytes")
            file.write(block)
            advance(have)
    if have < archive.size:
        raise _Broken(f"the connection broke after {have} of {archive.size} bytes")
