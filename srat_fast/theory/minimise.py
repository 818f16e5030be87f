"""Lemma 3.1 without the lemma: a mixture enters, the best linear classifier that a minimiser finds leaves."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import ndtr

from srat_fast.theory.mixture import Mixture, weighted_error


@dataclass(frozen=True)
class Found:
    """What the minimiser found, scaled so that the mean of w is 1.

    Attributes:
        spread: the largest |w_i - 1|: 0 where w is the vector of ones.
        threshold: b.
        error: its weighted error.
        excess: the lemma's weighted error minus this one: not above 0 but for the minimiser's tolerance.
    """

    spread: float
    threshold: float
    error: float
    excess: float


def _objective(v: np.ndarray, mixture: Mixture, ratio: float, weight: float) -> tuple[float, np.ndarray]:
    """Weighted error of sign(w.x - b) and its gradient; v = (w, b / (sqrt(d) sigma)), so that both are of one size."""
    w, b = v[:-1], v[-1] * math.sqrt(mixture.d) * mixture.sigma
    norm = math.sqrt(w @ w)
    centre, deviation = mixture.eta * w.sum(), mixture.sigma * norm
    u = np.array([(b - centre) / deviation, (-b - centre) / deviation])
    share = np.array([ratio, weight]) / (ratio + weight)
    density = share * np.exp(-(u**2) / 2) / math.sqrt(2 * math.pi)
    # du/dw = -eta 1 / deviation - u w / |w|^2;  du/db = +-1 / deviation
    gradient = np.empty_like(v)
    gradient[:-1] = -density.sum() * mixture.eta / deviation - (density @ u) * w / norm**2
    gradient[-1] = (density[0] - density[1]) / deviation * math.sqrt(mixture.d) * mixture.sigma
    return float(share @ ndtr(u)), gradient


def best_linear(
    mixture: Mixture, ratio: float, weight: float = 1.0, *, starts: int = 5, seed: int = 0
) -> Found:
    """The minimiser of the weighted error over all w in R^d and b, from random starts.

    Args:
        mixture: the distribution.
        ratio: K.
        weight: rho on class -1.
        starts: how many.
        seed: of the starts.

    Returns:
        The best of them.
    """
    generator = np.random.default_rng(seed)
    best = None
    for _ in range(starts):
        start = np.append(1 + generator.uniform(-0.9, 0.9, mixture.d), generator.normal())
        result = minimize(
            _objective, start, (mixture, ratio, weight), method="L-BFGS-B", jac=True,
            options={"maxiter": 2000, "ftol": 1e-16, "gtol": 1e-12},
        )  # fmt: skip
        if best is None or result.fun < best.fun:
            best = result
    assert best is not None, "at least one start"
    scale = best.x[:-1].mean()
    lemma = float(weighted_error(mixture.errors(mixture.threshold(ratio, weight)), ratio, weight))
    return Found(
        spread=float(np.abs(best.x[:-1] / scale - 1).max()),
        threshold=float(best.x[-1] * math.sqrt(mixture.d) * mixture.sigma / scale),
        error=float(best.fun),
        excess=lemma - float(best.fun),
    )
