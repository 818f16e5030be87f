"""Class folders of images: `train/<class>/*` and `test/<class>/*` enter, cached uint8 arrays leave."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from srat_fast.data.arrays import ImageArrays, ImageSet
from srat_fast.data.notices import LOG, bar
from srat_fast.data.pixels import Unreadable, fitted, tell_converted, to_rgb
from srat_fast.data.prepared import prepared
from srat_fast.errors import UserError


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


def read_image(path: Path) -> tuple[Image.Image, str]:
    """One image as RGB, turned as its EXIF data say.

    Args:
        path: any format that Pillow reads.

    Returns:
        (an image at its own size, what it was: "" for RGB, else words such as "grayscale").

    Raises:
        UserError: empty, damaged or not an image.
    """
    try:
        with Image.open(path) as opened:
            return to_rgb(opened)
    except Unreadable as error:
        raise UserError("data.root", str(error), str(path)) from None
    except UnidentifiedImageError:
        problem = "is empty" if path.stat().st_size == 0 else "is not an image that can be read"
        raise UserError("data.root", problem, str(path)) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError("data.root", f"is a damaged image: {error}", str(path)) from None


def read_rgb(path: Path) -> Image.Image:
    """One image, turned as its EXIF data say.

    Args:
        path: any format that Pillow reads.

    Returns:
        An RGB image at its own size.

    Raises:
        UserError: empty, damaged or not an image.
    """
    return read_image(path)[0]


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
    return fitted(read_rgb(path), size)


def _fingerprint(root: Path, files: dict[str, list[list[Path]]], size: int) -> str:
    """Key of the cache: every path with its size and times, and the size that is decoded to.

    The change time, which no program can set, tells of an edit that put the modification time back.
    """
    digest = hashlib.sha256(json.dumps(size).encode())
    for lists in files.values():
        for path in (p for one_class in lists for p in one_class):
            state = path.stat()
            times = f"{state.st_size}\0{state.st_mtime_ns}\0{state.st_ctime_ns}"
            digest.update(f"{path.relative_to(root)}\0{times}\n".encode())
    return digest.hexdigest()[:24]


def _decoded(root: Path, files: dict[str, list[list[Path]]], classes: list[str], size: int) -> ImageArrays:
    """All images, in several threads."""
    total = sum(len(one_class) for lists in files.values() for one_class in lists)
    parts, kinds, done, started = [], Counter[str](), 0, time.perf_counter()

    def read_fitted(file: Path) -> tuple[np.ndarray, str]:
        image, kind = read_image(file)
        return fitted(image, size), kind

    with ThreadPoolExecutor(os.cpu_count()) as pool, bar(f"decoding {root.name}", total) as advance:
        try:
            for lists in files.values():
                flat = [file for one_class in lists for file in one_class]
                images = np.empty((len(flat), size, size, 3), np.uint8)
                for position, (image, kind) in enumerate(pool.map(read_fitted, flat)):
                    images[position] = image
                    kinds[kind] += 1
                    done += 1
                    advance(done)
                labels = np.repeat(np.arange(len(classes)), [len(one_class) for one_class in lists])
                parts.append(ImageSet(images, labels.astype(np.int64)))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # one bad image ends it; the others need not be waited for
            raise
    LOG.info("decoded %d images of %s in %.1f s", total, root, time.perf_counter() - started)
    tell_converted(kinds, total, str(root))
    return ImageArrays(parts[0], parts[1], tuple(classes))


def load_folder(root: Path, size: int) -> ImageArrays:
    """A folder data set, decoded once and kept by content (names, sizes, times) and image size.

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
    key = f"folder-{_fingerprint(root, files, size)}"
    return prepared(key, lambda: _decoded(root, files, classes, size))
