"""The mixture of Section 3: its parameters enter; the optimal linear classifier and the errors of both classes leave.

x | y ~ N(y eta 1, sigma^2 I) in R^d, y in {+1, -1}, prior ratio K : 1 for class +1, weight rho on class -1. Lemma 3.1:

    sign(1.x - b) with b = ln(rho / K) / (2 S), S = eta / sigma^2, minimises K R+ + rho R-

The sum 1.x of d independent terms is N(y d eta, d sigma^2), so with Phi the normal distribution function

    R+ = Phi((b - d eta) / (sqrt(d) sigma)),  R- = Phi((-b - d eta) / (sqrt(d) sigma)).

The paper prints "d sigma" in place of sqrt(d) sigma; `printed_errors` keeps that form, so that it can be refuted. With
b inserted, everything depends on one number, the half distance of the means in standard deviations,
a = sqrt(d) eta / sigma:

    R+ = Phi(-a + ln(rho / K) / (2 a)),  R- = Phi(-a - ln(rho / K) / (2 a)).

S alone does not fix it: S changes with the unit of x, a does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from srat_fast.errors import UserError


def check_positive(name: str, value: float, low: float = 0.0) -> None:
    """Refuse what is not a finite number above a bound.

    Args:
        name: of the option.
        value: given.
        low: the bound, itself excluded where it is 0 and included otherwise.

    Raises:
        UserError: it is not.
    """
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

        Args:
            epsilon: radius, 0 <= epsilon < eta.

        Returns:
            The mixture of attacked points.

        Raises:
            UserError: the attack reaches the other class's mean.
        """
        if not 0 <= epsilon < self.eta:
            raise UserError("--epsilon", f"a number >= 0 and below eta = {self.eta:g}", epsilon)
        return Mixture(self.eta - epsilon, self.sigma, self.d)

    def threshold(self, ratio: float, weight: float = 1.0) -> float:
        """b of Lemma 3.1.

        Args:
            ratio: K.
            weight: rho on class -1.

        Returns:
            ln(rho / K) / (2 S).
        """
        return math.log(weight / ratio) / (2 * self.separability)

    def errors(self, threshold: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """Errors of sign(1.x - b).

        Args:
            threshold: b, of any shape.

        Returns:
            (R+, R-), of b's shape.
        """
        return self._errors(threshold, math.sqrt(self.d) * self.sigma)

    def printed_errors(self, threshold: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """The same as the paper prints it, with d sigma for the deviation of the sum: wrong unless d = 1.

        Args:
            threshold: b, of any shape.

        Returns:
            (R+, R-), of b's shape.
        """
        return self._errors(threshold, self.d * self.sigma)

    def _errors(self, threshold: np.ndarray | float, deviation: float) -> tuple[np.ndarray, np.ndarray]:
        b, centre = np.asarray(threshold, dtype=float), self.d * self.eta
        return ndtr((b - centre) / deviation), ndtr((-b - centre) / deviation)


def weighted_error(errors: tuple[np.ndarray, np.ndarray], ratio: float, weight: float = 1.0) -> np.ndarray:
    """What Lemma 3.1 minimises.

    Args:
        errors: (R+, R-).
        ratio: K.
        weight: rho on class -1.

    Returns:
        (K R+ + rho R-) / (K + rho).
    """
    return (ratio * errors[0] + weight * errors[1]) / (ratio + weight)


def same_eta(separability: float, eta: float, d: int) -> Mixture:
    """The mixture of a separability that differs from others in sigma only: the paper's setting as we read it.

    Args:
        separability: S.
        eta: of the means.
        d: dimension.

    Returns:
        sigma = sqrt(eta / S).
    """
    check_positive("--S-grid", separability)
    return Mixture(eta, math.sqrt(eta / separability), d)


def same_sigma(separability: float, sigma: float, d: int) -> Mixture:
    """The mixture of a separability that differs from others in eta only: what an attack changes.

    Args:
        separability: S.
        sigma: deviation of each coordinate.
        d: dimension.

    Returns:
        eta = S sigma^2.
    """
    check_positive("--S-grid", separability)
    return Mixture(separability * sigma**2, sigma, d)
