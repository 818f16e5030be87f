""".beton files of a run's images: made once, with their SHA-256 beside them, and checked before use."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srat_fast.data.arrays import ImageSet, checksum
from srat_fast.data.ffcv_loader import ffcv_library
from srat_fast.data.folder import FileImages
from srat_fast.data.notices import LOG
from srat_fast.data.paths import cache_directory, exclusive, expanded
from srat_fast.errors import UserError
from srat_fast.recipe import Recipe
from srat_fast.record import sync, write_atomically

_FORMAT = 1
#: (path, inode, size, modification time) -> SHA-256: a file is read through once a process.
_verified: dict[tuple[str, int, int, int], str] = {}


@dataclass(frozen=True)
class Beton:
    """A prepared file.

    Attributes:
        path: of the .beton file; its SHA-256 is beside it, as `sha256sum -c` reads it.
        images: how many.
        bytes: size of the file.
        sha256: 64 hex digits.
    """

    path: Path
    images: int
    bytes: int
    sha256: str


def prepare_beton(
    part: str,
    images: ImageSet,
    recipe: Recipe,
    advance: Callable[[int], None] = lambda done: None,
) -> Beton:
    """The .beton file of a set of images, the one that is there or a new one; arrays are stored raw, files as JPEG."""
    library = ffcv_library()
    path = _directory(recipe) / f"{recipe.data.name}-{part}-{_key(images, recipe, library)}.beton"
    try:
        found = _checked(path, logging.DEBUG)
    except OSError as error:
        raise UserError(_owner(recipe), f"cannot be read: {error.strerror or error}", str(path)) from None
    try:
        if found is None:
            lock = exclusive(
                path, lambda: LOG.info("waiting for another process that makes %s", path), _owner(recipe)
            )
            with lock:
                if (found := _checked(path)) is None:
                    _make(path, images, recipe, library, advance)
                    found = _checked(path)
    except OSError as error:
        raise UserError(
            _owner(recipe), f"cannot be written: {error.strerror or error}", str(path.parent)
        ) from None
    assert found is not None, "it was just made"
    return Beton(path, len(images), path.stat().st_size, found)


def _owner(recipe: Recipe) -> str:
    """What names the directory: the field, or the environment's variable."""
    return "SRAT_FAST_CACHE" if recipe.data.prepared is None else "data.prepared"


def _directory(recipe: Recipe) -> Path:
    chosen = recipe.data.prepared
    return cache_directory() / "beton" if chosen is None else expanded("data.prepared", chosen)


def _key(images: ImageSet, recipe: Recipe, library: Any) -> str:
    """24 hex digits over everything that decides the file's bytes: pixels or files, labels, order, storage."""
    data = recipe.data
    parts = [_FORMAT, library.FORMAT, checksum(images)]
    if isinstance(images.images, FileImages):
        parts += [data.max_side, data.jpeg_quality, library.ENCODER]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _checked(path: Path, level: int = logging.WARNING) -> str | None:
    """The file's SHA-256 if it is that beside it, else None; says why not."""
    beside = path.with_name(path.name + ".sha256")
    if not path.exists():
        return None
    state = path.stat()
    identity = (str(path), state.st_ino, state.st_size, state.st_mtime_ns)
    try:
        wanted = beside.read_text(encoding="utf-8").split()[0]
    except (OSError, ValueError, IndexError):
        LOG.log(level, "%s has no readable checksum beside it and is made anew", path)
        return None
    if identity not in _verified:
        with path.open("rb") as file:
            _verified[identity] = hashlib.file_digest(file, "sha256").hexdigest()
    if _verified[identity] != wanted:
        LOG.log(level, "%s is damaged (its SHA-256 is not the one beside it) and is made anew", path)
        return None
    return wanted


def _make(path: Path, images: ImageSet, recipe: Recipe, library: Any, advance: Callable[[int], None]) -> None:
    """Write under a temporary name, sync, then rename; the caller holds the lock."""
    for leftover in path.parent.glob(f".{path.name}.*.part"):  # of a process that was killed
        leftover.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        data, pixels = recipe.data, images.images
        source: Iterable[Any]
        if jpeg := isinstance(pixels, FileImages):
            assert data.max_side is not None and data.jpeg_quality is not None, "storage = jpeg"
            largest, quality = data.max_side, data.jpeg_quality
            shape = (largest, largest, 3)
            source = pixels.each(lambda image: library.to_jpeg(image, largest, quality), pixels.notes)
        else:
            shape, source = pixels.shape[1:], pixels
        library.write_beton(temporary, _counted(source, advance), images.labels, shape, jpeg)
        with temporary.open("rb+") as file:
            sync(file)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        write_atomically(path.with_name(path.name + ".sha256"), f"{digest}  {path.name}\n".encode())
        os.replace(temporary, path)
        if isinstance(pixels, FileImages):
            pixels.notes.tell(str(pixels.root))  # once a stored file, as `prepared` sets are told of once
    finally:
        temporary.unlink(missing_ok=True)


def _counted(images: Iterable[Any], advance: Callable[[int], None]) -> Iterator[Any]:
    for done, image in enumerate(images, 1):
        yield image
        advance(done)
