"""Prepared sets: decoded once, then mapped from files that processes share.

A set is made once. It is written to a temporary directory and renamed, so a half-written one is never found; its
files are compared with their SHA-256 at each load, so a changed byte is noticed and the set is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from srat_fast.data.arrays import ImageArrays, ImageSet
from srat_fast.data.notices import LOG
from srat_fast.data.paths import cache_directory, exclusive
from srat_fast.errors import UserError
from srat_fast.record import sync, write_atomically

#: Raised when the files' layout or the way from source to pixels changes: older sets are then made again.
FORMAT = 2
_MANIFEST = "manifest.json"
_FILES = ("train_images", "train_labels", "test_images", "test_labels")


def location(key: str) -> Path:
    """Where a set is kept."""
    return cache_directory() / f"{key}-v{FORMAT}"


def prepared(key: str, make: Callable[[], ImageArrays]) -> ImageArrays:
    """A set from the cache, made first where it is not there; of several processes one makes it and the others wait.

    Arrays are mapped copy-on-write: processes share their memory, and what one writes stays its own.
    """
    target = location(key)
    if (found := load(target)) is not None:
        return found
    with exclusive(target, lambda: LOG.info("waiting for another process that prepares %s", key)):
        if (found := load(target)) is not None:
            return found
        store(target, make())
        found = load(target)
    if found is None:
        raise UserError("SRAT_FAST_CACHE", "does not give back what was written to it", str(target.parent))
    return found


def load(target: Path) -> ImageArrays | None:
    """A prepared set; None where there is none or a byte of it changed."""
    try:
        manifest = json.loads((target / _MANIFEST).read_text(encoding="utf-8"))
        arrays = {name: _verified(target / f"{name}.npy", manifest["sha256"][name]) for name in _FILES}
        classes = tuple(manifest["classes"])
    except FileNotFoundError:
        return None
    except PermissionError as error:  # whole, for all that is known: not to be made again
        place = str(error.filename or target)
        raise UserError("SRAT_FAST_CACHE", f"cannot be read: {error.strerror}", place) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        LOG.warning("%s is damaged and will be made again: %s", target, error)
        return None
    return ImageArrays(
        ImageSet(arrays["train_images"], arrays["train_labels"]),
        ImageSet(arrays["test_images"], arrays["test_labels"]),
        classes,
    )


def _verified(path: Path, sha256: str) -> np.ndarray:
    """The array of a .npy file whose checksum is right."""
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise ValueError(f"the checksum of {path.name} is wrong")
    # mapped pages are the file's own until they are written to, and then a private copy: the file never changes
    return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))


def store(target: Path, arrays: ImageArrays) -> None:
    """Write a set so that it is found whole or not at all; the caller holds the lock on `target`."""
    temporary = target.parent / f".{target.name}.part"
    content = {
        "train_images": arrays.train.images,
        "train_labels": arrays.train.labels,
        "test_images": arrays.test.images,
        "test_labels": arrays.test.labels,
    }
    shutil.rmtree(temporary, ignore_errors=True)  # left by a process that was killed
    try:
        temporary.mkdir(parents=True)
        sums = {name: _write_array(temporary / f"{name}.npy", array) for name, array in content.items()}
        manifest = {"format": FORMAT, "classes": list(arrays.classes), "sha256": sums}
        write_atomically(temporary / _MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
        if target.exists():
            shutil.rmtree(target)
        os.rename(temporary, target)
    except OSError as error:
        raise UserError(
            "SRAT_FAST_CACHE", f"cannot be written: {error.strerror}", str(target.parent)
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_array(path: Path, array: np.ndarray) -> str:
    """Write one .npy file; its SHA-256."""
    with path.open("w+b") as file:
        np.save(file, np.ascontiguousarray(array), allow_pickle=False)
        sync(file)
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()
