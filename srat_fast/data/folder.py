"""Class folders of images: `train/<class>/*` and `test/<class>/*` enter, cached uint8 arrays leave."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from srat_fast.data.arrays import ImageArrays, ImageSet, checksum
from srat_fast.data.cache import cache_directory
from srat_fast.errors import UserError
from srat_fast.record import write_atomically

_CACHE_FORMAT = 1


def class_folders(root: Path) -> list[str]:
    """Class names of a folder data set: the folders of train/, which must be those of test/ too.

    Args:
        root: holds train/ and test/.

    Returns:
        Sorted names; the position is the label.

    Raises:
        UserError: a folder is missing, or the two parts differ.
    """
    found = {}
    for part in ("train", "test"):
        if not (root / part).is_dir():
            raise UserError(
                "data.root", f"has no folder {part}/ with one folder of images a class", str(root)
            )
        found[part] = {p.name for p in (root / part).iterdir() if p.is_dir() and not p.name.startswith(".")}
    if different := sorted(found["train"] ^ found["test"]):
        raise UserError(
            "data.root", f"classes of train/ and test/ differ: {', '.join(different[:5])}", str(root)
        )
    if len(found["train"]) < 2:
        raise UserError("data.root", "at least 2 class folders are needed in its train/", str(root))
    return sorted(found["train"])


def class_files(root: Path, part: str, classes: list[str]) -> list[list[Path]]:
    """Files of each class, sorted; hidden ones are passed over.

    Args:
        root: holds train/ and test/.
        part: "train" or "test".
        classes: as `class_folders` gives them.

    Returns:
        One list a class.

    Raises:
        UserError: a class has no file.
    """
    files = []
    for name in classes:
        folder = root / part / name
        inside = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
        if not inside:
            raise UserError("data.root", f"class folder {part}/{name} holds no image", str(root))
        files.append(inside)
    return files


def decode(path: Path, size: int) -> np.ndarray:
    """One image as RGB, its shorter side resized to `size`, cropped to the centre square.

    Args:
        path: any format that Pillow reads.
        size: pixels.

    Returns:
        [size, size, 3] uint8.

    Raises:
        UserError: empty, damaged or not an image.
    """
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except UnidentifiedImageError:
        problem = "is empty" if path.stat().st_size == 0 else "is not an image that can be read"
        raise UserError("data.root", problem, str(path)) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError("data.root", f"is a damaged image: {error}", str(path)) from None
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.uint8)


def _fingerprint(root: Path, files: dict[str, list[list[Path]]], size: int) -> str:
    """Key of the cache: every path, size and modification time, and the size that is decoded to."""
    digest = hashlib.sha256(json.dumps([_CACHE_FORMAT, size]).encode())
    for lists in files.values():
        for path in (p for one_class in lists for p in one_class):
            state = path.stat()
            digest.update(f"{path.relative_to(root)}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:24]


def _read_cache(path: Path, classes: list[str]) -> ImageArrays | None:
    """The cached arrays, or None where there are none or a byte of them changed."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as cache:
            parts = [ImageSet(cache[f"{part}_images"], cache[f"{part}_labels"]) for part in ("train", "test")]
            stored = str(cache["checksum"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return ImageArrays(parts[0], parts[1], tuple(classes)) if checksum(*parts) == stored else None


def _write_cache(path: Path, arrays: ImageArrays) -> None:
    import io

    buffer = io.BytesIO()
    np.savez(
        buffer,
        train_images=arrays.train.images,
        train_labels=arrays.train.labels,
        test_images=arrays.test.images,
        test_labels=arrays.test.labels,
        checksum=np.array(checksum(arrays.train, arrays.test)),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())


def load_folder(root: Path, size: int) -> ImageArrays:
    """A folder data set, decoded once and cached by content (names, sizes, times) and image size.

    Args:
        root: holds train/<class>/* and test/<class>/*.
        size: height and width in pixels.

    Returns:
        Its images and labels.

    Raises:
        UserError: missing folders, empty classes, damaged images, or a cache that cannot be written.
    """
    if not root.is_dir():
        raise UserError("data.root", "is not a directory", str(root))
    classes = class_folders(root)
    files = {part: class_files(root, part, classes) for part in ("train", "test")}
    path = cache_directory() / f"folder-{_fingerprint(root, files, size)}.npz"
    if (cached := _read_cache(path, classes)) is not None:
        return cached
    parts = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for lists in files.values():
            flat = [file for one_class in lists for file in one_class]
            images = np.empty((len(flat), size, size, 3), np.uint8)
            for position, image in enumerate(pool.map(lambda file: decode(file, size), flat)):
                images[position] = image
            labels = np.repeat(np.arange(len(classes)), [len(one_class) for one_class in lists])
            parts.append(ImageSet(images, labels.astype(np.int64)))
    arrays = ImageArrays(parts[0], parts[1], tuple(classes))
    try:
        _write_cache(path, arrays)
    except OSError as error:
        raise UserError("SRAT_FAST_CACHE", f"cannot be written: {error.strerror}", str(path.parent)) from None
    return arrays
