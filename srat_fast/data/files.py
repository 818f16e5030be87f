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
from srat_fast.data.folder import class_files, class_folders, decode, read_rgb
from srat_fast.errors import UserError

T = TypeVar("T")


class FileImages:
    """What stands in for `ImageSet.images` where a training set is too large to be decoded at once.

    Behaves as [N, size, size, 3] uint8: `len`, `shape`, `dtype`, `images[index]` (one decoded image),
    `images[indices, mask or slice]` (fewer files) and `np.asarray` (all, decoded).

    Args:
        root: the folder below which the files lie.
        files: in order.
        size: height and width that images are decoded to (shorter side resized, centre square).
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, root: Path, files: Sequence[Path], size: int) -> None:
        self.root, self.files, self._size = root, list(files), size

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
        return FileImages(self.root, chosen, self._size)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        images = np.empty(self.shape, np.uint8)
        for position, image in enumerate(_ahead(lambda file: decode(file, self._size), self.files)):
            images[position] = image
        return images if dtype is None else images.astype(dtype)

    def each(self, function: Callable[[np.ndarray], T]) -> Iterator[T]:
        """What a function makes of each image at its full size; a few are in work at any time.

        Args:
            function: [H, W, 3] uint8 -> anything; called by several threads.

        Returns:
            Its results, in order.

        Raises:
            UserError: empty, damaged or not an image; it names the file.
        """
        return _ahead(lambda file: function(np.asarray(read_rgb(file))), self.files)

    def content(self) -> str:
        """SHA-256 over names and bytes of the files, and the size that they are decoded to.

        Returns:
            64 hex digits.

        Raises:
            UserError: a file cannot be read.
        """
        digest = hashlib.sha256(str(self._size).encode())
        for file, its in zip(self.files, _ahead(_digest, self.files), strict=True):
            digest.update(f"{file.relative_to(self.root)}\0{its}\n".encode())
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
    if not root.is_dir():
        raise UserError("data.root", "is not a directory", str(root))
    classes = class_folders(root)
    parts = []
    for part in ("train", "test"):
        lists = class_files(root, part, classes)
        labels = np.repeat(np.arange(len(classes)), [len(one_class) for one_class in lists]).astype(np.int64)
        images = FileImages(root, [file for one_class in lists for file in one_class], size)
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
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise UserError("data.root", f"cannot be read: {error.strerror}", str(file)) from None


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
