"""Sets of one's own as NumPy files: a .npz file, or a directory with train.npz and test.npz.

One file holds train_images, train_labels, test_images and test_labels; of two files each holds images and labels.
`classes` may name the classes. Nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from srat_fast.data.arrays import ImageArrays
from srat_fast.data.inmemory import assembled, labels_of, same_names
from srat_fast.data.paths import is_directory
from srat_fast.data.pixels import require_images, require_same_size, require_square
from srat_fast.errors import UserError

_OPTION = "data.root"
_PARTS = ("train", "test")
#: How a zip archive (also an empty one) and a single array begin.
_ZIP, _SINGLE = (b"PK\x03\x04", b"PK\x05\x06"), b"\x93NUMPY"


@contextmanager
def _opened(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """A .npz file; whatever damage leads its readers to is one line. Zip's own checksums notice a changed byte."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_SINGLE))
            if start == _SINGLE:
                raise UserError(_OPTION, "is a single array; an .npz file is needed", str(path))
            if not start.startswith(_ZIP):  # numpy would take it for a pickle
                problem = "does not begin as one that numpy.savez wrote" if start else "it is empty"
                raise UserError(_OPTION, f"is no readable .npz file: {problem}", str(path))
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                yield arrays
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(_OPTION, "is not there", str(path)) from None
    except MemoryError:
        raise UserError(_OPTION, "needs more memory than there is", str(path)) from None
    except Exception as error:  # zip's and numpy's readers raise whatever damaged bytes lead them to
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise UserError(_OPTION, f"is no readable .npz file: {reason}", str(path)) from None


@contextmanager
def _named(root: Path) -> Iterator[None]:
    """Names the set in what is refused of its content."""
    try:
        yield
    except UserError as error:
        if error.value is not UserError._no_value:
            raise
        raise UserError(error.option, error.problem, str(root)) from None


def _places(root: Path) -> dict[str, tuple[Path, str]]:
    """Part -> (file, prefix of its arrays' names)."""
    if is_directory(root):
        return {part: (root / f"{part}.npz", "") for part in _PARTS}
    return {part: (root, f"{part}_") for part in _PARTS}


def _array(file: np.lib.npyio.NpzFile, name: str, path: Path) -> np.ndarray:
    _require(file, name, path)
    try:
        return np.asarray(file[name])
    except ValueError as error:
        if "Object arrays" in str(error):
            problem = f"its {name} holds Python objects, which are not read"
            raise UserError(_OPTION, problem, str(path)) from None
        raise


def _require(file: np.lib.npyio.NpzFile, name: str, path: Path) -> None:
    if name not in file.files:
        raise UserError(_OPTION, f"has no array {name}; it has {', '.join(file.files) or 'none'}", str(path))


def _classes(root: Path) -> list[str] | None:
    """The names that the file gives, if it does; of two files that do, both the same."""
    named = []
    for path, _ in _places(root).values():
        with _opened(path) as file:
            named.append(_names(file, path))
    return same_names(named[0], named[1], _OPTION)


def _names(file: np.lib.npyio.NpzFile, path: Path) -> list[str] | None:
    if "classes" not in file.files:
        return None
    names = np.ravel(_array(file, "classes", path)).tolist()  # damaged text is an error of numpy's
    return [name.decode(errors="surrogateescape") if isinstance(name, bytes) else str(name) for name in names]


def npz_counts(root: Path) -> tuple[list[int], list[str]]:
    """(Training images per class, class names), without reading an image."""
    path, prefix = _places(root)["train"]
    with _named(root), _opened(path) as file:
        labels, classes = labels_of(
            _array(file, prefix + "labels", path), _classes(root), _OPTION, prefix + "labels"
        )
    return np.bincount(labels, minlength=len(classes)).tolist(), classes


def npz_size(root: Path) -> int:
    """Height of the images, from the arrays' headers; training and test images must be squares of one size."""
    sizes = {}
    for part, (path, prefix) in _places(root).items():
        name = prefix + "images"
        with _named(root), _opened(path) as file:
            _require(file, name, path)
            shape = _shape(file, name)
            require_images(shape, _OPTION, name)
            sizes[part] = require_square(shape, _OPTION, name)
    with _named(root):
        return require_same_size(sizes["train"], sizes["test"], _OPTION)


def _shape(file: np.lib.npyio.NpzFile, name: str) -> tuple[int, ...]:
    with file.zip.open(f"{name}.npy") as member:  # type: ignore[union-attr]
        if np.lib.format.read_magic(member) == (1, 0):
            return np.lib.format.read_array_header_1_0(member)[0]
        return np.lib.format.read_array_header_2_0(member)[0]


def load_npz(root: Path, size: int | None) -> ImageArrays:
    """A set in NumPy files."""
    parts = {}
    for part, (path, prefix) in _places(root).items():
        with _opened(path) as file:
            parts[part] = (_array(file, prefix + "images", path), _array(file, prefix + "labels", path))
    with _named(root):
        return assembled(parts["train"], parts["test"], _classes(root), size, option=_OPTION, place=str(root))
