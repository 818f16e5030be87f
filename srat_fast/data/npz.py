"""Sets of one's own as NumPy files: a .npz file, or a directory with train.npz and test.npz, enters; images leave.

One file holds train_images, train_labels, test_images and test_labels; of two files each holds images and labels.
`classes` may name the classes. Nothing is unpickled.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from srat_fast.data.arrays import ImageArrays
from srat_fast.data.inmemory import assembled, labels_of
from srat_fast.errors import UserError

_OPTION = "data.root"
_PARTS = ("train", "test")


@contextmanager
def _opened(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """A .npz file whose damage is told in one line; zip's own checksums notice a changed byte."""
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise UserError(_OPTION, "is a single array; an .npz file is needed", str(path))
        with file:
            yield file
    except FileNotFoundError:
        raise UserError(_OPTION, "is not there", str(path)) from None
    except ValueError as error:
        objects = "allow_pickle" in str(error) or "Object arrays" in str(error)
        problem = "holds Python objects, which are not read" if objects else f"is damaged: {error}"
        raise UserError(_OPTION, problem, str(path)) from None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise UserError(_OPTION, f"is no readable .npz file: {error}", str(path)) from None


def _places(root: Path) -> dict[str, tuple[Path, str]]:
    """Part -> (file, prefix of its arrays' names)."""
    if root.is_dir():
        return {part: (root / f"{part}.npz", "") for part in _PARTS}
    return {part: (root, f"{part}_") for part in _PARTS}


def _array(file: np.lib.npyio.NpzFile, name: str, path: Path) -> np.ndarray:
    _require(file, name, path)
    return file[name]


def _require(file: np.lib.npyio.NpzFile, name: str, path: Path) -> None:
    if name not in file.files:
        raise UserError(_OPTION, f"has no array {name}; it has {', '.join(file.files) or 'none'}", str(path))


def _classes(root: Path) -> list[str] | None:
    """The names that the file (of the training images) gives, if it does."""
    path, _ = _places(root)["train"]
    with _opened(path) as file:
        return [str(name) for name in np.ravel(file["classes"])] if "classes" in file.files else None


def npz_counts(root: Path) -> tuple[list[int], list[str]]:
    """Training images per class, without reading an image.

    Args:
        root: the .npz file, or the directory.

    Returns:
        (counts, class names) in label order.

    Raises:
        UserError: no such file, or labels that are none.
    """
    path, prefix = _places(root)["train"]
    with _opened(path) as file:
        labels, classes = labels_of(
            _array(file, prefix + "labels", path), _classes(root), _OPTION, prefix + "labels"
        )
    return np.bincount(labels, minlength=len(classes)).tolist(), classes


def npz_size(root: Path) -> int:
    """Height of the training images, from the array's header.

    Args:
        root: the .npz file, or the directory.

    Returns:
        Pixels.

    Raises:
        UserError: no such file, or no stack of images.
    """
    path, prefix = _places(root)["train"]
    name = prefix + "images"
    with _opened(path) as file:
        _require(file, name, path)
        with file.zip.open(f"{name}.npy") as member:  # type: ignore[union-attr]
            version = np.lib.format.read_magic(member)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape = read(member)[0]
    if len(shape) not in (3, 4):
        raise UserError(
            _OPTION, f"its {name} must be [N, H, W] or [N, H, W, C], not {list(shape)}", str(path)
        )
    if shape[1] != shape[2]:
        problem = f"its {name} are {shape[1]} x {shape[2]} pixels; set data.image_size to resize to squares"
        raise UserError(_OPTION, problem, str(path))
    return int(shape[1])


def load_npz(root: Path, size: int | None) -> ImageArrays:
    """A set in NumPy files.

    Args:
        root: the .npz file, or the directory with train.npz and test.npz.
        size: height and width that images are resized to; None keeps theirs.

    Returns:
        Its images.

    Raises:
        UserError: no such file, damaged, or not images and labels.
    """
    parts = {}
    for part, (path, prefix) in _places(root).items():
        with _opened(path) as file:
            parts[part] = (_array(file, prefix + "images", path), _array(file, prefix + "labels", path))
    return assembled(parts["train"], parts["test"], _classes(root), size, option=_OPTION, place=str(root))
