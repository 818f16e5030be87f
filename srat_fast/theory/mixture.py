"""The Gaussian mixture of Section 3 and its closed forms: Lemma 3.1, Theorems 3.1 and 3.2.

x | y ~ N(y eta 1, sigma^2 I) in R^d, y in {+1, -1}, prior ratio K : 1 for class +1, weight rho on class -1. Lemma 3.1:

    sign(1.x - b) with b = ln(rho / K) / (2 S), S = eta / sigma^2, minimises K R+ + rho R-

The sum 1.x of d independent terms is N(y d eta, d sigma^2), so with Phi the normal distribution function

    R+ = Phi((b - d eta) / (sqrt(d) sigma)),  R- = Phi((-b - d eta) / (sqrt(d) sigma)).

The paper prints "d sigma" in place of sqrt(d) sigma; `printed_errors` keeps that form, so that it can be refuted. With
b inserted, everything depends on one number, the half distance of the means in standard deviations,
a = sqrt(d) eta / sigma:

    R+ = Phi(-a + ln(rho / K) / (2 a)),  R- = Phi(-a - ln(rho / K) / (2 a)).

S alone does not fix it: S changes with the unit of x, a does not. With L = ln K and r = ln rho:

    3.1, gap of the classes without weights:      G(a) = R- - R+ = Phi(-a + L/2a) - Phi(-a - L/2a)
    3.2, what weighting costs the frequent class: C(a) = R+(rho) - R+(1) = Phi(-a + (r - L)/2a) - Phi(-a - L/2a)

Both theorems claim, for S1 > S2 and K large enough, that the value of mixture 1 is below that of mixture 2.
docs/theory.md has the proofs of what the numbers show: for every K > 1, G falls in a, and so does C with rho = K. So
both claims hold for every K > 1 where a1 > a2, and for no K where a1 < a2. With a fixed rho, the second one holds in a
range of K only. The claims are compared in logarithms: far in the tails the values themselves are zeros.

In the code `ratio` is K and `weight` is rho, the weight of class -1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

from srat_fast.errors import UserError

#: The ratios among which a claim's range is looked for.
LARGEST_RATIO = 1e12


def check_positive(name: str, value: float, low: float = 0.0) -> None:
    """Refuse what is not finite, or not above 0, or below a `low` above 0."""
    right = math.isfinite(value) and (value > 0 if low == 0 else value >= low)
    if not right:
        raise UserError(name, "a finite number > 0" if low == 0 else f"a finite number >= {low:g}", value)


@dataclass(frozen=True)
class Mixture:
    """Two Gaussian classes.

    Attributes:
        eta: each coordinate of the mean of class +1; that of class -1 is -eta.
        sigma: standard deviation of each coordinate.
        d: dimension.
    """

    eta: float
    sigma: float
    d: int

    def __post_init__(self) -> None:
        check_positive("--eta", self.eta)
        check_positive("--sigma", self.sigma)
        check_positive("--d", self.d, 1)

    @property
    def separability(self) -> float:
        """S = eta / sigma^2, as the paper defines it."""
        return self.eta / self.sigma**2

    @property
    def distance(self) -> float:
        """a = sqrt(d) eta / sigma: half the distance of the means, in standard deviations."""
        return math.sqrt(self.d) * self.eta / self.sigma

    def attacked(self, epsilon: float) -> Mixture:
        """The mixture that the classifier sum(x) meets under an L-infinity attack.

        The attack moves every coordinate by epsilon towards the other class, so eta shrinks to eta - epsilon.
        """
        if not 0 <= epsilon < self.eta:
            raise UserError("--epsilon", f"a number >= 0 and below eta = {self.eta:g}", epsilon)
        return Mixture(self.eta - epsilon, self.sigma, self.d)

    def threshold(self, ratio: float, weight: float = 1.0) -> float:
        """b of Lemma 3.1: ln(rho / K) / (2 S)."""
        return math.log(weight / ratio) / (2 * self.separability)

    def errors(self, threshold: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """(R+, R-) of sign(1.x - b) for thresholds b of any shape."""
        return self._errors(threshold, math.sqrt(self.d) * self.sigma)

    def printed_errors(self, threshold: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """The same as the paper prints it, with d sigma for the deviation of the sum: wrong unless d = 1."""
        return self._errors(threshold, self.d * self.sigma)

    def _errors(self, threshold: np.ndarray | float, deviation: float) -> tuple[np.ndarray, np.ndarray]:
        b, centre = np.asarray(threshold, dtype=float), self.d * self.eta
        return ndtr((b - centre) / deviation), ndtr((-b - centre) / deviation)


def weighted_error(errors: tuple[np.ndarray, np.ndarray], ratio: float, weight: float = 1.0) -> np.ndarray:
    """What Lemma 3.1 minimises: (K R+ + rho R-) / (K + rho)."""
    return (ratio * errors[0] + weight * errors[1]) / (ratio + weight)


def same_eta(separability: float, eta: float, d: int) -> Mixture:
    """The mixture of a separability that differs from others in sigma only: the paper's setting as we read it."""
    check_positive("--S-grid", separability)
    return Mixture(eta, math.sqrt(eta / separability), d)


def same_sigma(separability: float, sigma: float, d: int) -> Mixture:
    """The mixture of a separability that differs from others in eta only: what an attack changes."""
    check_positive("--S-grid", separability)
    return Mixture(separability * sigma**2, sigma, d)


def gap(mixture: Mixture, ratio: float) -> float:
    """Theorem 3.1: how much worse the rare class fares without weights, R- - R+."""
    a, shift = mixture.distance, math.log(ratio) / (2 * mixture.distance)
    return float(ndtr(-a + shift) - ndtr(-a - shift))


def cost(mixture: Mixture, ratio: float, weight: float) -> float:
    """Theorem 3.2: how much error weighting adds to the frequent class, R+(rho) - R+(1)."""
    a, down = mixture.distance, math.log(ratio) / (2 * mixture.distance)
    return float(ndtr(-a + math.log(weight) / (2 * a) - down) - ndtr(-a - down))


def _log_difference(high: float, low: float) -> float:
    """ln(Phi(high) - Phi(low)) for high > low."""
    with np.errstate(divide="ignore"):
        return float(log_ndtr(high) + np.log1p(-np.exp(log_ndtr(low) - log_ndtr(high))))


def gap_margin(one: Mixture, two: Mixture, log_ratio: float) -> float:
    """How far Theorem 3.1's claim G1 < G2 is from failing, in logarithms: above 0 where it holds."""
    logs, rests = [], []
    for mixture in (one, two):
        a, shift = mixture.distance, log_ratio / (2 * mixture.distance)
        logs.append(_log_difference(-a + shift, -a - shift))  # ln G
        rests.append(float(np.logaddexp(log_ndtr(a - shift), log_ndtr(-a - shift))))  # ln(1 - G)
    # the smaller of G and 1 - G is the one that floating point resolves
    return logs[1] - logs[0] if max(logs) < math.log(0.5) else rests[0] - rests[1]


def cost_margin(one: Mixture, two: Mixture, log_ratio: float, log_weight: float) -> float:
    """How far Theorem 3.2's claim C1 < C2 is from failing, in logarithms: above 0 where it holds."""
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
    """The ranges (from, to) of K up to `largest` in which a claim holds, `margin`(ln K) > 0.

    Ends are roots between `points` values of ln K; 1 stands for the first K above 1, inf for `largest`.
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
    """`ranges` of Theorem 3.1's claim."""
    return ranges(lambda log_ratio: gap_margin(one, two, log_ratio))


def cost_ranges(one: Mixture, two: Mixture, weight: float | None) -> list[tuple[float, float]]:
    """`ranges` of Theorem 3.2's claim, with a fixed rho, or None for rho = K."""
    return ranges(
        lambda log_ratio: cost_margin(one, two, log_ratio, log_ratio if weight is None else math.log(weight))
    )


@dataclass(frozen=True)
class Row:
    """Both claims at one (S1, S2, K, rho).

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
    """Every S1 > S2, once with a common eta, once with a common sigma: (common, S1, S2, mixture 1, mixture 2)."""
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
    """Both claims at every (S1, S2, K, rho), with rho = K for a weight None."""
    rows = []
    for fixed, s1, s2, one, two in pairs(separabilities, eta, sigma, d):
        for ratio in ratios:
            for fixed_weight in weights:
                weight = ratio if fixed_weight is None else fixed_weight
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
