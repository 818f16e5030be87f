"""One check with its verdict, and all thresholds."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"

#: Share of images that a stronger PGD, chance or a black-box attack may find beyond what it is held against.
UNCONVERGED = 0.005
#: The same for another loss with equal steps: honest models differ by a few points, a masked gradient by many.
OTHER_LOSS = 0.03
#: The same for AutoAttack against the PGD of the quoted number.
AUTOATTACK = 0.05
#: Accuracy that may be left where the ball is the whole range of pixels.
WHOLE_RANGE = 0.02
#: Share of the gradient's entries that may be exactly zero.
ZERO_GRADIENT = 0.01
#: Median relative error of directional derivatives against finite differences.
DERIVATIVE = 0.05
#: Largest difference of logits, relative to the largest logit: of two passes, and of two batch compositions. The second
#: is wider because a batch of another size may be computed by other kernels: in float32 a direct convolution and a
#: Winograd one are 1e-6 to 1e-4 apart over 18 layers, where batch statistics change logits by 1e-2 and more.
REPEATED, RECOMPOSED = 1e-5, 1e-4
#: A share is held to be above its threshold where chance alone explains the count with less than this probability.
SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Check:
    """What was looked at and what was found.

    Attributes:
        name: of the check.
        verdict: "passed", "failed" or "not run".
        figure: what was measured; None where nothing was.
        threshold: the largest figure that passes; None where there is none.
        found: the figure in words.
        meaning: what a failure would mean.
    """

    name: str
    verdict: str
    figure: float | None
    threshold: float | None
    found: str
    meaning: str

    def as_dict(self) -> dict[str, Any]:
        """The check as plain values.

        Returns:
            One entry an attribute.
        """
        return asdict(self)


def at_most(name: str, figure: float, threshold: float, found: str, meaning: str) -> Check:
    """A check of a figure that is exact; NaN fails.

    Args:
        name: of the check.
        figure: measured.
        threshold: the largest value that passes.
        found: the figure in words.
        meaning: what a failure would mean.

    Returns:
        The check.
    """
    return Check(name, PASSED if figure <= threshold else FAILED, figure, threshold, found, meaning)


def few(name: str, count: int, total: int, share: float, found: str, meaning: str) -> Check:
    """A check of a share of images: it fails where a true share of `share` would hardly give so many.

    Both attacks see the same images, so every counted image is one that the quoted number gets wrong; what a small
    subset leaves open is how many there are among all images.

    Args:
        name: of the check.
        count: images that count against the number.
        total: images looked at.
        share: the largest share among all images that passes.
        found: the count in words.
        meaning: what a failure would mean.

    Returns:
        The check; its threshold is the share of these images that `share` and chance explain.
    """
    limit = allowed(total, share)
    found += f"; {100 * share:g} % and chance explain {limit}"
    return at_most(name, count / total, limit / total, found, meaning)


def allowed(total: int, share: float) -> int:
    """The most images that a true share explains.

    Args:
        total: images looked at.
        share: in (0, 1).

    Returns:
        The largest count that is no more than the share itself, or that chance reaches with `SIGNIFICANCE`.
    """
    count = math.floor(share * total)
    while count < total and tail(count + 1, total, share) >= SIGNIFICANCE:
        count += 1
    return count


def not_run(name: str, reason: str, meaning: str) -> Check:
    """A check that could not be made, named so.

    Args:
        name: of the check.
        reason: why.
        meaning: what a failure would mean.

    Returns:
        The check.
    """
    return Check(name, NOT_RUN, None, None, reason, meaning)


def tail(count: int, total: int, share: float) -> float:
    """Probability that at least `count` of `total` images count where each does so with probability `share`."""
    from scipy.stats import binom

    return float(binom.sf(count - 1, total, share))
