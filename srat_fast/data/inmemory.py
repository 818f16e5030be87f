"""Sets that are in memory already: arrays, or a Hugging Face-style dictionary of splits.

Splits are recognised by what they can do (`len(split)`, `split[i]` gives a dictionary, `split.features`), so the
package `datasets` is not needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from srat_fast.data.arrays import ImageArrays, ImageSet
from srat_fast.data.pixels import (
    Notes,
    Unreadable,
    decoding,
    fitted,
    images_to_rgb,
    require_same_size,
    resized,
    to_rgb,
)
from srat_fast.errors import UserError, require_text

_OPTION = "data"
#: Labels without names of classes are below it: larger ones are no labels.
_MOST = 10**6
_IMAGE_COLUMNS = ("image", "img", "images", "pixel_values")
_LABEL_COLUMNS = ("label", "labels", "fine_label")


def arrays_from(data: Any, size: int | None = None) -> ImageArrays:
    """What `train(recipe, data=...)` was given, as arrays.

    `ImageArrays`, whose channels stay; or {"train": ..., "test": ...}, each a pair (images, labels) of arrays or a
    split whose rows have an image and a label, which become RGB. Without a `size` the images keep theirs.
    """
    if isinstance(data, ImageArrays):
        return _checked(data, size)
    if not isinstance(data, Mapping):
        raise UserError(
            _OPTION, f"ImageArrays or a dictionary with train and test is needed, not {type(data).__name__}"
        )
    if absent := [part for part in ("train", "test") if part not in data]:
        raise UserError(_OPTION, f"has no split {absent[0]}; it has {', '.join(map(str, data)) or 'none'}")
    parts, named, notes = [], dict[str, list[str] | None](), Notes()
    for part in ("train", "test"):
        split = data[part]
        if isinstance(split, tuple):
            if len(split) != 2:
                raise UserError(
                    _OPTION, f"its {part} must be a pair (images, labels), not {len(split)} things"
                )
            parts.append((_array(split[0], f"{part} images"), _array(split[1], f"{part} labels")))
        else:
            parts.append(_rows(split, part, size, notes))
            named[part] = _names(split)
    names = same_names(named.get("train"), named.get("test"), _OPTION)
    notes.tell(_OPTION)
    return assembled(parts[0], parts[1], names, size, option=_OPTION, place=_OPTION)


def assembled(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    classes: Sequence[str] | None,
    size: int | None,
    *,
    option: str,
    place: str,
) -> ImageArrays:
    """A set of RGB images from (images, labels) of both parts; errors name `option`, a warning names `place`."""
    parts, notes = [], Notes()
    names: list[str] | None = list(classes) if classes is not None else None
    for part, (raw_images, raw_labels) in (("train", train), ("test", test)):
        images, kind = images_to_rgb(raw_images, option, f"{part} images")
        notes.add(kind, len(images))
        labels, names = labels_of(raw_labels, names, option, f"{part} labels")
        if len(images) != len(labels):
            raise UserError(option, f"its {part} has {len(images)} images and {len(labels)} labels")
        parts.append(ImageSet(resized(images, size, option, f"{part} images"), labels))
    assert names is not None
    require_same_size(parts[0].images.shape[1], parts[1].images.shape[1], option)
    notes.tell(place)
    return ImageArrays(parts[0], parts[1], tuple(names))


def labels_of(
    raw: np.ndarray, classes: list[str] | None, option: str, name: str
) -> tuple[np.ndarray, list[str]]:
    """Labels [N] or [N, 1] as int64 [N], and the classes' names: their numbers where none are given."""
    if raw.ndim == 2 and raw.shape[1] == 1:
        raw = raw[:, 0]
    if raw.ndim != 1 or raw.dtype.kind not in "iu":
        raise UserError(option, f"its {name} must be integers [N], not {raw.dtype} {list(raw.shape)}")
    if not len(raw):
        raise UserError(option, f"its {name} are empty")
    labels = raw.astype(np.int64)
    low, high = int(raw.min()), int(raw.max())  # of an unsigned type the largest would be negative as int64
    hint = ""
    if classes is None:
        hint = "; they count from 0"
        if low < 0 or high >= _MOST:
            most = "C - 1 for C classes" if low < 0 else f"{_MOST - 1} where no classes are named"
            raise UserError(option, f"its {name} must lie in 0..{most}, not {low}..{high}")
        classes = [str(c) for c in range(high + 1)]
    require_names(classes, option)
    if low < 0 or high >= len(classes):
        raise UserError(
            option,
            f"its {name} must lie in 0..{len(classes) - 1} ({len(classes)} classes), not {low}..{high}",
        )
    if len(classes) < 2:
        raise UserError(option, "at least 2 classes are needed")
    absent = np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)
    if len(absent):
        problem = f"its {name} have no image of class {absent[0]} ({classes[absent[0]]}){hint}"
        raise UserError(option, problem)
    return labels, classes


def same_names(train: list[str] | None, test: list[str] | None, option: str) -> list[str] | None:
    """The classes' names, which two parts that both have them must have in one order: else labels mean two things."""
    if train is not None and test is not None and train != test:
        where = next(k for k in range(len(train) + 1) if train[k : k + 1] != test[k : k + 1])
        first, second = (names[where] if where < len(names) else "none" for names in (train, test))
        problem = f"its train and test name other classes: {where} is {first} in train and {second} in test"
        raise UserError(option, problem)
    return test if train is None else train


def require_names(classes: Sequence[str], option: str) -> None:
    """Refuse names of classes that tables and records could not tell apart or hold."""
    if twice := [name for name, count in Counter(classes).items() if count > 1]:
        raise UserError(option, f"two of its classes have the name {twice[0]!r}")
    for name in classes:
        require_text(option, name)


def _array(value: Any, name: str) -> np.ndarray:
    """What was given as an array; NumPy raises several kinds where it cannot be one."""
    try:
        return np.asarray(value)
    except (
        ValueError,
        TypeError,
        RuntimeError,
    ) as error:  # ragged lists, tensors on a GPU or with a gradient
        text = " ".join(str(error).split())
        raise UserError(_OPTION, f"its {name} cannot be made an array: {text}") from error


def _checked(arrays: ImageArrays, size: int | None) -> ImageArrays:
    """`ImageArrays` made by hand; their own number of channels stays."""
    parts = []
    for part, given in (("train", arrays.train), ("test", arrays.test)):
        images, _ = images_to_rgb(_array(given.images, f"{part} images"), _OPTION, f"{part} images")
        names = [str(name) for name in arrays.classes]
        labels, _ = labels_of(_array(given.labels, f"{part} labels"), names, _OPTION, f"{part} labels")
        if len(images) != len(labels):
            raise UserError(_OPTION, f"its {part} has {len(images)} images and {len(labels)} labels")
        if np.ndim(given.images) != 4 or np.shape(given.images)[3] == 4:
            raise UserError(_OPTION, f"its {part} images must be [N, H, W, 1] or [N, H, W, 3]")
        images = resized(images, size, _OPTION, f"{part} images")
        parts.append(ImageSet(np.ascontiguousarray(images[..., : np.shape(given.images)[3]]), labels))
    if parts[0].images.shape[1:] != parts[1].images.shape[1:]:
        raise UserError(_OPTION, "train and test images differ in shape")
    return ImageArrays(parts[0], parts[1], tuple(str(name) for name in arrays.classes))


def _column(row: Any, names: tuple[str, ...], what: str, part: str) -> str:
    if not isinstance(row, Mapping):
        raise UserError(
            _OPTION, f"its {part} must give rows with an image and a label, not {type(row).__name__}"
        )
    for name in names:
        if name in row:
            return name
    raise UserError(_OPTION, f"its {part} has no {what} column ({', '.join(names)}); it has {', '.join(row)}")


def _rows(split: Any, part: str, size: int | None, notes: Notes) -> tuple[np.ndarray, np.ndarray]:
    """All rows of a split, as (images [N, H, W, 3] or what its arrays have, labels [N])."""
    if not hasattr(split, "__len__") or not hasattr(split, "__getitem__"):
        raise UserError(
            _OPTION, f"its {part} must be a pair of arrays or a split, not {type(split).__name__}"
        )
    if not len(split):
        raise UserError(_OPTION, f"its {part} is empty")
    images: np.ndarray = np.empty(0, np.uint8)  # until the first one tells the size
    labels = []
    for position in range(len(split)):
        name = f"{part} image {position}"
        try:
            with decoding(f"{_OPTION}: its {name}", notes):
                row = split[position]  # a split may decode here
                label = row[_column(row, _LABEL_COLUMNS, "label", part)]
                pixels, kind = _pixels(row[_column(row, _IMAGE_COLUMNS, "image", part)], size, name)
        except Unreadable as error:
            raise UserError(_OPTION, f"its {name} {error}") from error.__cause__
        if position == 0:
            images = np.empty((len(split), *pixels.shape), np.uint8)
        if pixels.shape != images.shape[1:]:
            raise UserError(
                _OPTION,
                f"its {part} images differ in size: image {position} is {pixels.shape[0]} x {pixels.shape[1]}, "
                f"image 0 is {images.shape[1]} x {images.shape[2]}; set data.image_size",
            )
        images[position] = pixels
        labels.append(label)
        notes.add(kind)
    return images, _array(labels, f"{part} labels")


def _pixels(value: Any, size: int | None, name: str) -> tuple[np.ndarray, str]:
    """One image as [H, W, 3], and what it was."""
    if isinstance(value, Image.Image):
        image, kind = to_rgb(value)
        return (np.asarray(image, dtype=np.uint8) if size is None else fitted(image, size)), kind
    array, kind = images_to_rgb(_array(value, name)[None], _OPTION, name)
    return resized(array, size, _OPTION, name)[0] if size is not None else array[0], kind


def _names(split: Any) -> list[str] | None:
    """Class names as Hugging Face keeps them: `split.features["label"].names`."""
    features = getattr(split, "features", None) or {}
    for column in _LABEL_COLUMNS:
        names = getattr(features.get(column), "names", None) if isinstance(features, Mapping) else None
        if names:
            return [str(name) for name in names]
    return None
