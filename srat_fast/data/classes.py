"""`data.classes`: the classes of a data set that a run uses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from srat_fast.data.arrays import ImageArrays, ImageSet
from srat_fast.errors import UserError, did_you_mean

ALL = "all"


def chosen_labels(text: str, names: Sequence[str]) -> list[int]:
    """The labels that `data.classes` names."""
    if text == ALL:
        return list(range(len(names)))
    labels = []
    for part in (part.strip() for part in text.split(",")):
        if part in names:
            labels.append(list(names).index(part))
        elif part.isdecimal() and int(part) < len(names):
            labels.append(int(part))
        else:
            known = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            raise UserError(
                "data.classes", f"{part!r} is none of its classes: {known}{did_you_mean(part, names)}", text
            )
    if len(set(labels)) < len(labels):
        raise UserError("data.classes", "names a class twice", text)
    if len(labels) < 2:
        raise UserError("data.classes", "at least two classes, separated by commas, or all", text)
    return labels


def only_classes(arrays: ImageArrays, text: str) -> ImageArrays:
    """The images of some classes."""
    labels = chosen_labels(text, arrays.classes)
    if text == ALL:
        return arrays
    position = np.full(len(arrays.classes), -1, np.int64)
    position[labels] = np.arange(len(labels))

    def chosen(images: ImageSet) -> ImageSet:
        kept = images.select(np.flatnonzero(position[images.labels] >= 0))
        return ImageSet(kept.images, position[kept.labels])

    return ImageArrays(
        chosen(arrays.train), chosen(arrays.test), tuple(arrays.classes[label] for label in labels)
    )
