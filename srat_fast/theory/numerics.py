"""Section 3 without its closed forms: the best linear classifier by minimisation, the errors by simulation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import ndtr

from srat_fast.errors import UserError
from srat_fast.theory.mixture import Mixture, weighted_error

#: Normal variates drawn at a time: 4 MiB of float32.
CHUNK = 1 << 20
#: Thresholds of the histogram in which the empirical minimum is looked for.
_BINS = 2000


@dataclass(frozen=True)
class Sampled:
    """Counts of a simulation.

    Attributes:
        samples: of each class.
        wrong: [2, T]: samples of class +1 at or below each threshold, of class -1 above it.
        edges: [_BINS + 1]: thresholds of the histogram.
        below: [2, _BINS + 1]: samples of class +1 and of class -1 below each edge.
    """

    samples: int
    wrong: np.ndarray
    edges: np.ndarray
    below: np.ndarray

    def errors(self) -> tuple[np.ndarray, np.ndarray]:
        """(R+, R-) at each threshold, [T] each."""
        return self.wrong[0] / self.samples, self.wrong[1] / self.samples

    def standard_errors(self, expected: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Standard deviation of `errors` where the true errors are `expected`, at least that of one sample."""
        one = np.sqrt(np.clip(expected[0] * (1 - expected[0]), 1 / self.samples, None) / self.samples)
        two = np.sqrt(np.clip(expected[1] * (1 - expected[1]), 1 / self.samples, None) / self.samples)
        return one, two

    def best_threshold(self, ratio: float, weight: float) -> tuple[float, float]:
        """The edge with the smallest empirical weighted error, and that error."""
        share = self.below / self.samples
        values = np.asarray(weighted_error((share[0], 1 - share[1]), ratio, weight))
        at = int(values.argmin())
        return float(self.edges[at]), float(values[at])


def parse_samples(text: str) -> int:
    """`--samples`, which people write as 1e8."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value == int(value) and 1000 <= value <= 1e12):
        raise UserError("--samples", "a whole number from 1000 to 1e12, such as 1e8", text)
    return int(value)


def simulate(mixture: Mixture, thresholds: np.ndarray, samples: int, *, seed: int, vectors: bool) -> Sampled:
    """Draw half the samples from each class and count how sign(1.x - b) errs, in some 30 MB for any number.

    `vectors`: draw x in R^d and sum it; else draw the sum itself from N(+-d eta, d sigma^2), which is d times cheaper
    and takes the deviation sqrt(d) sigma for granted.
    """
    generator = np.random.default_rng(seed)
    each = max(samples // 2, 1)
    centre, deviation = mixture.d * mixture.eta, math.sqrt(mixture.d) * mixture.sigma
    rows = max(CHUNK // (mixture.d if vectors else 1), 1)
    edges = np.linspace(-centre - 6 * deviation, centre + 6 * deviation, _BINS + 1)
    per_unit = _BINS / (edges[-1] - edges[0])
    wrong, counts = np.zeros((2, len(thresholds)), np.int64), np.zeros((2, _BINS + 2), np.int64)
    buffer = np.empty((rows, mixture.d) if vectors else rows, np.float32)
    for label, sign in enumerate((1.0, -1.0)):
        for first in range(0, each, rows):
            part = buffer[: min(rows, each - first)]
            generator.standard_normal(dtype=np.float32, out=part)
            if vectors:
                total = sign * centre + mixture.sigma * part.sum(axis=1, dtype=np.float64)
            else:
                total = sign * centre + deviation * part.astype(np.float64)
            for k, threshold in enumerate(thresholds):
                below = int((total <= threshold).sum())
                wrong[label, k] += below if label == 0 else len(total) - below
            # bin 0 is what lies below the first edge, the last what lies above the last edge
            bins = np.clip((total - edges[0]) * per_unit + 1, 0, _BINS + 1).astype(np.int32)
            counts[label] += np.bincount(bins, minlength=_BINS + 2)
    return Sampled(each, wrong, edges, counts.cumsum(axis=1)[:, :-1])


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
    """The minimiser of the weighted error over all w in R^d and b, from random starts."""
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
