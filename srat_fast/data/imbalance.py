"""Imbalanced class counts and the draw of a subset: base counts enter, counts and indices leave. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from srat_fast.errors import UserError


def imbalanced_counts(
    base: Sequence[int], imbalance: str, ratio: float, scale: str = "smallest"
) -> list[int]:
    """Training images per class (paper, Appendix A.1; method.md "Imbalanced subsets").

        exp:  n_c = int(b_c K^(-c / (C - 1)))      step: b_c for the first C // 2 classes, int(b_c / K) after

    b_c is the smallest class of the base set for all, which keeps K exact for SVHN, or the class's own, as the paper's
    text has it; in CIFAR both are n_train / C.

    Args:
        base: images of each class in the full training set, label order.
        imbalance: "none", "exp" or "step".
        ratio: K >= 1.
        scale: "smallest" or "own".

    Returns:
        Counts in label order.

    Raises:
        UserError: a class would have no images.
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
        most = min(n ** (1 / power) for n, power in zip(full, powers, strict=True) if power)
        raise UserError(
            "data.ratio",
            f"class {counts.index(0)} would have no images; at most {int(most + 1e-9)} is possible here",
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
