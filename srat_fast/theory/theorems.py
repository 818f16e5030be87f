"""Theorems 3.1 and 3.2: two mixtures and K enter; whether each claim holds, and from which K to which, leave.

With a = sqrt(d) eta / sigma, L = ln K, r = ln rho and c = L / (2 a^2):

    3.1, gap of the classes without weights:      G(a) = R- - R+ = Phi(-a + L/2a) - Phi(-a - L/2a)
    3.2, what weighting costs the frequent class: C(a) = R+(rho) - R+(1) = Phi(-a + (r - L)/2a) - Phi(-a - L/2a)

Both theorems claim, for S1 > S2 and K large enough, that the value of mixture 1 is below that of mixture 2.
docs/theory.md has the proofs of what the numbers show: for every K > 1, G falls in a, and so does C with rho = K. So
both claims hold for every K > 1 where a1 > a2, and for no K where a1 < a2. With a fixed rho, the second one holds in a
range of K only.

Everything is compared in logarithms: far in the tails the values themselves are zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

from srat_fast.theory.mixture import Mixture, same_eta, same_sigma

#: The ratios among which a claim's range is looked for.
LARGEST_RATIO = 1e12


def gap(mixture: Mixture, ratio: float) -> float:
    """Theorem 3.1: how much worse the rare class fares without weights.

    Args:
        mixture: the distribution.
        ratio: K.

    Returns:
        R- - R+ of the optimal unweighted classifier.
    """
    a, shift = mixture.distance, math.log(ratio) / (2 * mixture.distance)
    return float(ndtr(-a + shift) - ndtr(-a - shift))


def cost(mixture: Mixture, ratio: float, weight: float) -> float:
    """Theorem 3.2: how much error weighting adds to the frequent class.

    Args:
        mixture: the distribution.
        ratio: K.
        weight: rho on class -1.

    Returns:
        R+ of the weighted optimum minus R+ of the unweighted one.
    """
    a, down = mixture.distance, math.log(ratio) / (2 * mixture.distance)
    return float(ndtr(-a + math.log(weight) / (2 * a) - down) - ndtr(-a - down))


def _log_difference(high: float, low: float) -> float:
    """ln(Phi(high) - Phi(low)) for high > low."""
    with np.errstate(divide="ignore"):
        return float(log_ndtr(high) + np.log1p(-np.exp(log_ndtr(low) - log_ndtr(high))))


def gap_margin(one: Mixture, two: Mixture, log_ratio: float) -> float:
    """How far Theorem 3.1's claim G1 < G2 is from failing, in logarithms.

    Args:
        one: the better separable mixture.
        two: the other.
        log_ratio: L = ln K > 0.

    Returns:
        Above 0 where the claim holds.
    """
    logs, rests = [], []
    for mixture in (one, two):
        a, shift = mixture.distance, log_ratio / (2 * mixture.distance)
        logs.append(_log_difference(-a + shift, -a - shift))  # ln G
        rests.append(float(np.logaddexp(log_ndtr(a - shift), log_ndtr(-a - shift))))  # ln(1 - G)
    # the smaller of G and 1 - G is the one that floating point resolves
    return logs[1] - logs[0] if max(logs) < math.log(0.5) else rests[0] - rests[1]


def cost_margin(one: Mixture, two: Mixture, log_ratio: float, log_weight: float) -> float:
    """How far Theorem 3.2's claim C1 < C2 is from failing, in logarithms.

    Args:
        one: the better separable mixture.
        two: the other.
        log_ratio: L = ln K > 0.
        log_weight: r = ln rho > 0.

    Returns:
        Above 0 where the claim holds.
    """
    logs, rests = [], []
    for mixture in (one, two):
        a = mixture.distance
        high, low = -a + (log_weight - log_ratio) / (2 * a), -a - log_ratio / (2 * a)
        logs.append(_log_difference(high, low))
        rests.append(float(np.logaddexp(log_ndtr(-high), log_ndtr(low))))
    return logs[1] - logs[0] if max(logs) < math.log(0.5) else rests[0] - rests[1]


def ranges(
    margin: Callable[[float], float], *, largest: float = LARGEST_RATIO, points: int = 400
) -> list[tuple[float, float]]:
    """The ranges of K in which a claim holds, their ends found as roots.

    Args:
        margin: ln K -> above 0 where the claim holds.
        largest: K up to which it is looked for.
        points: of the grid in ln K between which a sign change is looked for.

    Returns:
        (from, to) pairs; from = 1 where the claim holds from the first K above 1 on, to = inf where it holds up to
        `largest`.
    """
    grid = np.geomspace(1e-4, math.log(largest), points)
    values = [margin(float(at)) for at in grid]
    found: list[tuple[float, float]] = []
    start = 1.0 if values[0] > 0 else None
    for k in range(1, points):
        before, after = values[k - 1] > 0, values[k] > 0
        if before == after:
            continue
        root = (
            math.exp(brentq(margin, grid[k - 1], grid[k], xtol=1e-12))
            if values[k] != 0
            else math.exp(grid[k])
        )
        if after:
            start = root
        elif start is not None:
            found.append((start, root))
            start = None
    if start is not None:
        found.append((start, math.inf))
    return found


def gap_ranges(one: Mixture, two: Mixture) -> list[tuple[float, float]]:
    """Where Theorem 3.1's claim holds.

    Args:
        one: the better separable mixture.
        two: the other.

    Returns:
        As `ranges`.
    """
    return ranges(lambda log_ratio: gap_margin(one, two, log_ratio))


def cost_ranges(one: Mixture, two: Mixture, weight: float | None) -> list[tuple[float, float]]:
    """Where Theorem 3.2's claim holds.

    Args:
        one: the better separable mixture.
        two: the other.
        weight: a fixed rho, or None for rho = K.

    Returns:
        As `ranges`.
    """
    return ranges(
        lambda log_ratio: cost_margin(one, two, log_ratio, log_ratio if weight is None else math.log(weight))
    )


@dataclass(frozen=True)
class Row:
    """One cell of the grid (S1, S2, K).

    Attributes:
        fixed: "eta" or "sigma", what both mixtures share.
        s1: the higher separability.
        s2: the lower one.
        ratio: K.
        weight: rho.
        gap1: R- - R+ of mixture 1.
        gap2: of mixture 2.
        gap_holds: Theorem 3.1's claim.
        cost1: R+(rho) - R+(1) of mixture 1.
        cost2: of mixture 2.
        cost_holds: Theorem 3.2's claim.
    """

    fixed: str
    s1: float
    s2: float
    ratio: float
    weight: float
    gap1: float
    gap2: float
    gap_holds: bool
    cost1: float
    cost2: float
    cost_holds: bool


def pairs(
    separabilities: Sequence[float], eta: float, sigma: float, d: int
) -> Iterator[tuple[str, float, float, Mixture, Mixture]]:
    """Every S1 > S2, once with a common eta, once with a common sigma.

    Args:
        separabilities: of which the pairs are made.
        eta: the common one.
        sigma: likewise.
        d: dimension of both.

    Yields:
        (what is common, S1, S2, mixture 1, mixture 2).
    """
    ordered = sorted(set(separabilities), reverse=True)
    for fixed, make, value in (("eta", same_eta, eta), ("sigma", same_sigma, sigma)):
        for i, s1 in enumerate(ordered):
            for s2 in ordered[i + 1 :]:
                yield fixed, s1, s2, make(s1, value, d), make(s2, value, d)


def grid(
    separabilities: Sequence[float],
    ratios: Sequence[float],
    weights: Sequence[float | None],
    *,
    eta: float,
    sigma: float,
    d: int,
) -> list[Row]:
    """Both claims at every (S1, S2, K, rho).

    Args:
        separabilities: S1 > S2 are taken from these.
        ratios: K.
        weights: rho, None for rho = K.
        eta: common to both mixtures in the first half of the rows.
        sigma: common to both in the second half.
        d: dimension.

    Returns:
        One row each.
    """
    rows = []
    for fixed, s1, s2, one, two in pairs(separabilities, eta, sigma, d):
        for ratio in ratios:
            for wish in weights:
                weight = ratio if wish is None else wish
                level, shift = math.log(ratio), math.log(weight)
                rows.append(
                    Row(
                        fixed, s1, s2, ratio, weight,
                        gap(one, ratio), gap(two, ratio), gap_margin(one, two, level) > 0,
                        cost(one, ratio, weight), cost(two, ratio, weight),
                        cost_margin(one, two, level, shift) > 0,
                    )
                )  # fmt: skip
    return rows
