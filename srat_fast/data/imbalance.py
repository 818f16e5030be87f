"""Imbalanced class counts and the draw of a subset: base counts enter, counts and indices leave. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from srat_fast.errors import UserError


def imbalanced_counts(base: Sequence[int], imbalance: str, ratio: float) -> list[int]:
    """Training images per class (paper, Appendix A.1; method.md "Imbalanced subsets").

        exp:  n_c = int(n_max K^(-c / (C - 1)))      step: n_max for the first C // 2 classes, int(n_max / K) after

    n_max is the smallest class of the base set, which is n_train / C for CIFAR and keeps K exact for SVHN.

    Args:
        base: images of each class in the full training set, label order.
        imbalance: "none", "exp" or "step".
        ratio: K >= 1.

    Returns:
        Counts in label order.

    Raises:
        UserError: a class would have no images.
    """
    classes, largest = len(base), min(base)
    if largest == 0:
        raise UserError("data.name", f"class {list(base).index(0)} has no training images")
    if imbalance == "none":
        return list(base)
    # the smallest addend keeps int() from cutting 49.999999999 to 49; no true value is that near an integer
    if imbalance == "exp":
        steps = max(classes - 1, 1)
        counts = [int(largest * ratio ** (-c / steps) + 1e-9) for c in range(classes)]
    else:
        counts = [largest if c < classes // 2 else int(largest / ratio + 1e-9) for c in range(classes)]
    if min(counts) == 0:
        raise UserError(
            "data.ratio",
            f"class {counts.index(0)} would have no images; at most {largest} is possible here",
            ratio,
        )
    return counts


def limited_counts(counts: Sequence[int], limit: int | None, option: str = "data.limit") -> list[int]:
    """At most `limit` images in the same proportions, at least one a class.

    Args:
        counts: images per class.
        limit: the total, or None for all.
        option: where the limit comes from, for the message.

    Returns:
        Counts that sum to min(limit, sum(counts)).

    Raises:
        UserError: fewer images than classes.
    """
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
    while sum(kept) > limit:
        kept[max(range(len(counts)), key=lambda c: kept[c])] -= 1
    return kept


def draw_subset(labels: np.ndarray, counts: Sequence[int], seed: int) -> np.ndarray:
    """Draw `counts[c]` images of each class without replacement.

    Args:
        labels: [N] labels of the full set.
        counts: images to draw per class.
        seed: of the draw; independent of the training seed.

    Returns:
        Sorted indices into `labels`, int64.
    """
    generator = np.random.default_rng(seed)
    drawn = [generator.permutation(np.flatnonzero(labels == c))[:count] for c, count in enumerate(counts)]
    return np.sort(np.concatenate(drawn)).astype(np.int64)


def halves(counts: Sequence[int]) -> tuple[list[int], list[int]]:
    """Well- and under-represented classes: "Under" is the half with the fewest training images.

    Ties go by label order (the earlier label counts as better represented); of an odd number of classes the
    larger half is under-represented, as in `step`.

    Args:
        counts: training images per class.

    Returns:
        (well, under): sorted labels.
    """
    order = sorted(range(len(counts)), key=lambda c: (-counts[c], c))
    middle = len(counts) // 2
    return sorted(order[:middle]), sorted(order[middle:])
