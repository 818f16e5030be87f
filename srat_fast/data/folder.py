"""Class folders of images, `train/<class>/` and `test/<class>/`: decoded once and cached, or left in their files."""

from __future__ import annotations

import hashlib
import json
import os
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from PIL import Image

from srat_fast.data.arrays import ImageArrays, ImageSet, in_memory
from srat_fast.data.notices import LOG, bar
from srat_fast.data.paths import is_directory, one_line
from srat_fast.data.pixels import Notes, Unreadable, decoding, fitted, some_of, to_rgb
from srat_fast.data.prepared import prepared
from srat_fast.errors import UserError

T = TypeVar("T")
#: What is taken for an image by its name, in upper or lower case: the formats that Pillow reads, and some that it reads
#: with a plug-in only, so that they stop a run by name and are not passed over. No documents, films and data formats.
SUFFIXES = {
    ".apng", ".avif", ".avifs", ".bmp", ".bw", ".cur", ".dcx", ".dds", ".dib", ".fit", ".fits", ".flc", ".fli",
    ".gif", ".heic", ".heif", ".icb", ".icns", ".ico", ".im", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe",
    ".jpeg", ".jpf", ".jpg", ".jpx", ".jxl", ".msp", ".pbm", ".pcd", ".pcx", ".pfm", ".pgm", ".png", ".pnm",
    ".ppm", ".psd", ".qoi", ".ras", ".rgb", ".rgba", ".sgi", ".tga", ".tif", ".tiff", ".vda", ".vst", ".webp",
    ".xbm", ".xpm",
}  # fmt: skip
_PARTS = ("train", "test")
#: Folders that systems put beside images: thumbnails of a Synology disk, attributes in archives made on a Mac.
_SYSTEM = ("@eaDir", "__MACOSX")


def class_files(root: Path, *, tell: bool = False) -> tuple[list[str], dict[str, list[list[Path]]]]:
    """Class names, and of each part and class its images, sorted, those of sub-folders included.

    Hidden files and folders and files that are no images by their names are passed over; `tell` says how many. What
    looks like an image and cannot be used is an error: a link to nothing, an image beside the class folders.
    """
    if not is_directory(root):
        problem = "is not a directory, it has no folder train/ and test/ with one folder of images a class"
        raise UserError("data.root", problem, str(root))
    passed: list[Path] = []
    found: dict[str, dict[str, Path]] = {}
    for part in _PARTS:
        if not is_directory(root / part):
            raise UserError(
                "data.root", f"has no folder {part}/ with one folder of images a class", str(root)
            )
        folders, loose = _inside(root / part, passed)
        if loose:
            problem = "is an image beside the class folders; move it into one of them"
            raise UserError("data.root", problem, str(loose[0]))
        found[part] = {folder.name: folder for folder in folders}
    classes = _same_classes(root, list(found["train"]), list(found["test"]))
    if tell and all(name.isdecimal() for name in classes) and classes != sorted(classes, key=int):
        LOG.warning(
            "%s: its class names are numbers, and labels follow them as text: %s; 01, 02 ... would keep their order",
            root, ", ".join(classes[:4]) + (" ..." if len(classes) > 4 else ""),
        )  # fmt: skip
    files = {
        part: [_images(root, folders[name], passed) for name in classes] for part, folders in found.items()
    }
    if tell and passed:
        names = some_of([os.fsdecode(path.relative_to(root)) for path in passed])
        LOG.warning(
            "%s: %d %s passed over (hidden, or no image by name): %s",
            root, len(passed), "file" if len(passed) == 1 else "files", names,
        )  # fmt: skip
    return classes, files


def _same_classes(root: Path, train: list[str], test: list[str]) -> list[str]:
    """The class names, which both parts must have; names are text, so that records and tables can hold them."""
    for name in train + test:
        try:
            name.encode()
        except UnicodeEncodeError:
            problem = f"the name of its class folder {os.fsencode(name)!r} is not UTF-8; rename it"
            raise UserError("data.root", problem, str(root)) from None
    forms = dict[str, str]()
    for name in sorted({*train, *test}):
        other = forms.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            problem = (
                f"two class folders differ only in the Unicode form of their names: {name} (NFC and NFD, which look "
                "alike; files from macOS have NFD); rename one as the other"
            )
            raise UserError("data.root", problem, str(root))
    if different := sorted({*train} ^ {*test}):
        names = ", ".join(
            f"{name} (in {'train' if name in train else 'test'}/ only)" for name in different[:5]
        )
        problem = f"classes of train/ and test/ differ: {names}"
        raise UserError("data.root", problem, str(root))
    if len(train) < 2:
        raise UserError("data.root", "at least 2 class folders are needed in its train/", str(root))
    return sorted(train)


def _images(root: Path, folder: Path, passed: list[Path]) -> list[Path]:
    """All images below a class folder, sorted; linked folders are followed."""
    images: list[Path] = []
    before = len(passed)
    waiting = [(folder, frozenset[tuple[int, int]]())]
    while waiting:
        here, above = waiting.pop()
        with one_line(here):
            state = here.stat()
        if (state.st_dev, state.st_ino) in above:
            raise UserError("data.root", "is a link to a folder that it lies in", str(here))
        folders, files = _inside(here, passed)
        images += files
        waiting += [(inner, above | {(state.st_dev, state.st_ino)}) for inner in folders]
    if not images:
        others = f" (passed over: {some_of([p.name for p in passed[before:]])})" if passed[before:] else ""
        raise UserError(
            "data.root", f"class folder {folder.relative_to(root)} holds no image{others}", str(root)
        )
    return sorted(images)


def _inside(folder: Path, passed: list[Path]) -> tuple[list[Path], list[Path]]:
    """(folders, images) of a folder; what is hidden, a system's or no image by its name is added to `passed`."""
    folders, images = list[Path](), list[Path]()
    with one_line(folder), os.scandir(folder) as entries:
        inside = sorted(entries, key=lambda entry: entry.name)
    for entry in inside:
        path = folder / entry.name
        with one_line(path):
            if entry.name.startswith(".") or entry.name in _SYSTEM:
                passed.append(path)
            elif entry.is_dir():
                folders.append(path)
            elif path.suffix and path.suffix.lower() not in SUFFIXES:
                passed.append(path)
            elif entry.is_file():
                (images if path.suffix or _is_image(path) else passed).append(path)
            else:
                problem = "is a link to nothing" if entry.is_symlink() else "is no plain file"
                raise UserError("data.root", problem, str(path))
    return folders, images


def _is_image(path: Path) -> bool:
    """Whether a file whose name says nothing is an image by its first bytes."""
    try:
        with decoding("", Notes()), Image.open(path):
            return True
    except Unreadable:
        with path.open("rb"):  # a file that cannot be opened is no reason to pass over it
            return False


def read_image(path: Path, notes: Notes | None = None) -> tuple[Image.Image, str]:
    """(RGB image at its own size, turned as its EXIF data say; what it was: "" or words such as "grayscale").

    Whatever is wrong with the file is one line that names it.
    """
    notes = Notes() if notes is None else notes
    try:
        with decoding(str(path), notes), Image.open(path) as opened:
            if opened.format == "PNG":  # Pillow decodes it without a look at its checksums
                with Image.open(path) as again:
                    again.verify()
            image, kind = to_rgb(opened)
    except Unreadable as error:
        raise UserError("data.root", _problem(path, str(error)), str(path)) from None
    notes.add(kind)
    return image, kind


def _problem(path: Path, problem: str) -> str:
    """An empty file is called empty, whatever the decoder says."""
    with one_line(path):
        return "is empty" if path.stat().st_size == 0 else problem


def decode(path: Path, size: int, notes: Notes | None = None) -> np.ndarray:
    """One image as [size, size, 3] uint8: the shorter side resized, cropped to the centre square."""
    return fitted(read_image(path, notes)[0], size)


def _fingerprint(root: Path, files: dict[str, list[list[Path]]], size: int) -> str:
    """Key of the cache: every path with its size and times, and the size that is decoded to.

    The change time, which no program can set, tells of an edit that put the modification time back.
    """
    digest = hashlib.sha256(json.dumps(size).encode())
    for lists in files.values():
        for path in (p for one_class in lists for p in one_class):
            with one_line(path):
                state = path.stat()
            times = f"\0{state.st_size}\0{state.st_mtime_ns}\0{state.st_ctime_ns}\n"
            if state.st_ctime_ns % 10**9 == 0:  # coarse times, of which two sets may have the same
                times += f"{state.st_dev}\0{state.st_ino}\0{root.resolve()}\n"
            digest.update(os.fsencode(path.relative_to(root)) + times.encode())  # names are bytes
    return digest.hexdigest()[:24]


def _in_files(
    root: Path, files: dict[str, list[list[Path]]], size: int, notes: Notes
) -> tuple[ImageSet, ImageSet]:
    """Training and test images, none decoded yet."""
    parts = []
    for lists in files.values():
        images = FileImages(root, [file for one_class in lists for file in one_class], size, notes)
        labels = np.repeat(np.arange(len(lists)), [len(one_class) for one_class in lists]).astype(np.int64)
        parts.append(ImageSet(cast(np.ndarray, images), labels))
    return parts[0], parts[1]


def _tell_shared(root: Path, files: dict[str, list[list[Path]]]) -> None:
    """Links make one file a training and a test image: its accuracy would be that of training."""

    def identity(path: Path) -> tuple[int, int]:
        with one_line(path):
            state = path.stat()
        return state.st_dev, state.st_ino

    test = {identity(path): path for one_class in files["test"] for path in one_class}
    trained = (identity(path) for one_class in files["train"] for path in one_class)
    if shared := sorted({test[one] for one in trained if one in test}):
        LOG.warning(
            "%s: %d of %d test images are training images too, by links to one file: %s",
            root, len(shared), sum(map(len, files["test"])), some_of([str(path.relative_to(root)) for path in shared]),
        )  # fmt: skip


def _decoded(root: Path, files: dict[str, list[list[Path]]], classes: list[str], size: int) -> ImageArrays:
    """All images, in several threads."""
    notes, started = Notes(), time.perf_counter()
    train, test = _in_files(root, files, size, notes)
    total = len(train) + len(test)
    with bar(f"decoding {root.name}", total) as advance:
        first = ImageSet(cast(FileImages, train.images).decoded(advance), train.labels)
        rest = cast(FileImages, test.images).decoded(lambda done: advance(len(train) + done))
    LOG.info("decoded %d images of %s in %.1f s", total, root, time.perf_counter() - started)
    notes.tell(str(root))
    return ImageArrays(first, ImageSet(rest, test.labels), tuple(classes))


def load_folder(root: Path, size: int) -> ImageArrays:
    """A folder data set, decoded once and kept by content (names, sizes, times) and image size."""
    classes, files = class_files(root, tell=True)
    _tell_shared(root, files)
    key = f"folder-{_fingerprint(root, files, size)}"
    return prepared(key, lambda: _decoded(root, files, classes, size))


class FileImages:
    """What stands in for `ImageSet.images` where a training set is too large to be decoded at once.

    Behaves as [N, size, size, 3] uint8: `len`, `shape`, `dtype`, `images[index]` (one decoded image),
    `images[indices, mask or slice]` (fewer files) and `np.asarray` (all, decoded). What is converted is told once,
    through the `notes` of the whole set, by who stores the images.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, root: Path, files: Sequence[Path], size: int, notes: Notes | None = None) -> None:
        self.root, self.files, self._size = root, list(files), size
        self.notes = Notes() if notes is None else notes
        self._content: str | None = None

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
        images = self.decoded()
        return images if dtype is None else images.astype(dtype)

    def decoded(self, advance: Callable[[int], None] = lambda done: None) -> np.ndarray:
        """All images, [N, size, size, 3]; `advance` is told how many are done."""
        try:
            images = np.empty(self.shape, np.uint8)
        except MemoryError:
            problem = (
                f"{len(self)} images of that size are {np.prod(self.shape, dtype=float) / 1e9:.0f} GB, more memory "
                "than there is; a smaller size, or --loader ffcv with data.storage = jpeg, which leaves them in files"
            )
            raise UserError("data.image_size", problem, self._size) from None
        for position, image in enumerate(
            _ahead(lambda file: decode(file, self._size, self.notes), self.files)
        ):
            images[position] = image
            advance(position + 1)
        return images

    def each(self, function: Callable[[np.ndarray], T], notes: Notes | None = None) -> Iterator[T]:
        """What a function makes of each image, [H, W, 3] at its full size, in order; threads have a few in work."""
        return _ahead(lambda file: function(np.asarray(read_image(file, notes)[0])), self.files)

    def content(self) -> str:
        """SHA-256 over names and bytes of the files, and the size that they are decoded to; they are read once."""
        if self._content is not None:
            return self._content
        digest = hashlib.sha256(str(self._size).encode())
        for file, its in zip(self.files, _ahead(_digest, self.files), strict=True):
            digest.update(os.fsencode(file.relative_to(self.root)) + f"\0{its}\n".encode())  # names are bytes
        self._content = digest.hexdigest()
        return self._content


def load_files(root: Path, size: int) -> ImageArrays:
    """A folder data set whose training images stay in their files; the test images are decoded."""
    classes, files = class_files(root, tell=True)
    _tell_shared(root, files)
    train, test = _in_files(root, files, size, Notes())
    return ImageArrays(train, in_memory(test), tuple(classes))


def _digest(file: Path) -> str:
    with one_line(file), file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _ahead(function: Callable[[Path], T], files: Sequence[Path]) -> Iterator[T]:
    """function(file) for each, in order, by threads; at most four a thread wait to be taken."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
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
