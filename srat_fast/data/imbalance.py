"""Which images of a set a run gets: its classes, imbalanced counts, the draw of a subset. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from srat_fast.data.arrays import ImageArrays, ImageSet
from srat_fast.errors import UserError, did_you_mean

#: `data.classes` without a choice.
ALL = "all"


def chosen_labels(text: str, names: Sequence[str]) -> list[int]:
    """The labels that `data.classes` names, in its order: the first are the well-represented ones."""
    if text == ALL:
        return list(range(len(names)))
    labels, numbered = [], []
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if part in names:
            labels.append(list(names).index(part))
        elif part.isdecimal() and int(part) < len(names):
            labels.append(int(part))
            numbered.append(part)
        else:
            known = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            known += did_you_mean(part, names)
            raise UserError("data.classes", f"{part!r} is none of its classes: {known}", text)
    if numbered and (named := [part for part in parts if part.isdecimal() and part not in numbered]):
        problem = (
            f"{named[0]} is the name of a class and {numbered[0]} is none; give names only, or labels only"
        )
        raise UserError("data.classes", problem, text)
    if len(set(labels)) < len(labels):
        raise UserError("data.classes", "names a class twice", text)
    if len(labels) < 2:
        raise UserError("data.classes", "at least two classes, separated by commas, or all", text)
    return labels


def only_classes(arrays: ImageArrays, text: str) -> ImageArrays:
    """The images of some classes; the label of each is its position in the text."""
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


def imbalanced_counts(
    base: Sequence[int], imbalance: str, ratio: float, scale: str = "smallest"
) -> list[int]:
    """Training images per class (paper, Appendix A.1; method.md "Imbalanced subsets").

        exp:  n_c = int(b_c K^(-c / (C - 1)))      step: b_c for the first C // 2 classes, int(b_c / K) after

    b_c is the smallest class of the base set for all, which keeps K exact for SVHN, or the class's own, as the paper's
    text has it; in CIFAR both are n_train / C.
    """
    classes = len(base)
    if min(base) == 0:
        raise UserError("data.name", f"class {list(base).index(0)} has no training images")
    if imbalance == "none":
        return list(base)
    full = list(base) if scale == "own" else [min(base)] * classes
    if imbalance == "exp":
        powers = [c / max(classes - 1, 1) for c in range(classes)]
    else:
        powers = [0.0 if c < classes // 2 else 1.0 for c in range(classes)]
    # the smallest addend keeps int() from cutting 49.999999999 to 49; no true value is that near an integer
    counts = [int(n * ratio**-power + 1e-9) for n, power in zip(full, powers, strict=True)]
    if min(counts) == 0:
        bounds = [(n, 1 / power) for n, power in zip(full, powers, strict=True) if power]
        n, root = min(bounds, key=lambda bound: math.log(bound[0]) * bound[1])
        most = n**root  # of other classes it may be too large for a float
        raise UserError(
            "data.ratio",
            f"class {counts.index(0)} would have no images; at most {int(most + 1e-9)} is possible here, or "
            "data.imbalance = none, which keeps the counts as they are",
            ratio,
        )
    return counts


def limited_counts(counts: Sequence[int], limit: int | None, option: str = "data.limit") -> list[int]:
    """At most `limit` images in all, in the same proportions, at least one a class."""
    total = sum(counts)
    if limit is None or limit >= total:
        return list(counts)
    if limit < len(counts):
        raise UserError(option, f"an integer >= {len(counts)}, one image a class", limit)
    exact = [n * limit / total for n in counts]
    kept = [max(1, int(e)) for e in exact]
    # hand out what rounding left (or take back what "at least one" added) by largest remainder
    by_remainder = sorted(range(len(counts)), key=lambda c: kept[c] - exact[c])
    while sum(kept) < limit:
        for c in by_remainder:
            if sum(kept) < limit and kept[c] < counts[c]:
                kept[c] += 1
    # where several keep the most, the one with the fewest images gives: no class falls behind a smaller one
    while sum(kept) > limit:
        kept[max(range(len(counts)), key=lambda c: (kept[c], -counts[c]))] -= 1
    return kept


def draw_subset(labels: np.ndarray, counts: Sequence[int], seed: int) -> np.ndarray:
    """Draw `counts[c]` images of each class without replacement: sorted indices into `labels`."""
    generator = np.random.default_rng(seed)
    drawn = [generator.permutation(np.flatnonzero(labels == c))[:count] for c, count in enumerate(counts)]
    return np.sort(np.concatenate(drawn)).astype(np.int64)


def split_by_frequency(counts: Sequence[int]) -> tuple[list[int], list[int]]:
    """Labels of the well- and the under-represented classes: "Under" is the half with the fewest training images.

    Ties go by label order (the earlier label counts as better represented); of an odd number of classes the
    larger half is under-represented, as in `step`.
    """
    order = sorted(range(len(counts)), key=lambda c: (-counts[c], c))
    middle = len(counts) // 2
    return sorted(order[:middle]), sorted(order[middle:])
