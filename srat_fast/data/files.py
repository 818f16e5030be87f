"""Images that stay in their files: paths enter; an array-like of decoded images leaves, decoded when it is indexed."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from srat_fast.data.arrays import ImageArrays, ImageSet
from srat_fast.data.folder import class_files, decode, read_image
from srat_fast.data.pixels import Notes
from srat_fast.data.verify import one_line

T = TypeVar("T")


class FileImages:
    """What stands in for `ImageSet.images` where a training set is too large to be decoded at once.

    Behaves as [N, size, size, 3] uint8: `len`, `shape`, `dtype`, `images[index]` (one decoded image),
    `images[indices, mask or slice]` (fewer files) and `np.asarray` (all, decoded).

    Args:
        root: the folder below which the files lie.
        files: in order.
        size: height and width that images are decoded to (shorter side resized, centre square).
        notes: of the whole set: what is converted is told once, by who stores the images.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, root: Path, files: Sequence[Path], size: int, notes: Notes | None = None) -> None:
        self.root, self.files, self._size = root, list(files), size
        self.notes = Notes() if notes is None else notes

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, size, size, 3)."""
        return len(self.files), self._size, self._size, 3

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, (int, np.integer)):
            return decode(self.files[index], self._size)
        if not isinstance(index, slice) and np.asarray(index).dtype == bool:
            index = np.flatnonzero(index)
        chosen = self.files[index] if isinstance(index, slice) else [self.files[i] for i in np.asarray(index)]
        return FileImages(self.root, chosen, self._size, self.notes)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        images = np.empty(self.shape, np.uint8)
        read = _ahead(lambda file: decode(file, self._size, self.notes), self.files)
        for position, image in enumerate(read):
            images[position] = image
        return images if dtype is None else images.astype(dtype)

    def each(self, function: Callable[[np.ndarray], T], notes: Notes | None = None) -> Iterator[T]:
        """What a function makes of each image, [H, W, 3] at its full size, in order; threads have a few in work."""
        return _ahead(lambda file: function(np.asarray(read_image(file, notes)[0])), self.files)

    def content(self) -> str:
        """SHA-256 over names and bytes of the files, and the size that they are decoded to.

        Returns:
            64 hex digits.

        Raises:
            UserError: a file cannot be read.
        """
        digest = hashlib.sha256(str(self._size).encode())
        for file, its in zip(self.files, _ahead(_digest, self.files), strict=True):
            digest.update(os.fsencode(file.relative_to(self.root)) + f"\0{its}\n".encode())  # names are bytes
        return digest.hexdigest()


def load_files(root: Path, size: int) -> ImageArrays:
    """A folder data set whose training images stay in their files; the test images are decoded.

    Args:
        root: holds train/<class>/* and test/<class>/*.
        size: height and width in pixels.

    Returns:
        Its images and labels; `train.images` is a `FileImages`.

    Raises:
        UserError: missing folders, empty classes or damaged test images.
    """
    classes, files = class_files(root, tell=True)
    parts, notes = [], Notes()
    for lists in files.values():
        labels = np.repeat(np.arange(len(classes)), [len(one_class) for one_class in lists]).astype(np.int64)
        images = FileImages(root, [file for one_class in lists for file in one_class], size, notes)
        parts.append(ImageSet(cast(np.ndarray, images), labels))
    return ImageArrays(parts[0], in_memory(parts[1]), tuple(classes))


def in_memory(images: ImageSet) -> ImageSet:
    """The same images, decoded where they are files.

    Args:
        images: arrays or files.

    Returns:
        Arrays.

    Raises:
        UserError: a damaged image.
    """
    return ImageSet(np.asarray(images.images), images.labels)


def _digest(file: Path) -> str:
    with one_line(file), file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _ahead(function: Callable[[Path], T], files: Sequence[Path]) -> Iterator[T]:
    """function(file) for each, in order, by threads; at most four a thread wait to be taken."""
    threads = len(os.sched_getaffinity(0))
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for file in files:
                waiting.append(pool.submit(function, file))
                if len(waiting) == 4 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
