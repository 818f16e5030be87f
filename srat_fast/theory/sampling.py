"""Monte Carlo: a mixture and a number of samples enter, errors with their standard errors leave, in bounded memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

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
        """Standard deviation of `errors` where the true errors are `expected`.

        Args:
            expected: (R+, R-) of a hypothesis, [T] each.

        Returns:
            (of R+, of R-), at least that of one sample.
        """
        one = np.sqrt(np.clip(expected[0] * (1 - expected[0]), 1 / self.samples, None) / self.samples)
        two = np.sqrt(np.clip(expected[1] * (1 - expected[1]), 1 / self.samples, None) / self.samples)
        return one, two

    def best_threshold(self, ratio: float, weight: float) -> tuple[float, float]:
        """The edge with the smallest empirical weighted error.

        Args:
            ratio: K.
            weight: rho on class -1.

        Returns:
            (threshold, its weighted error).
        """
        share = self.below / self.samples
        values = np.asarray(weighted_error((share[0], 1 - share[1]), ratio, weight))
        at = int(values.argmin())
        return float(self.edges[at]), float(values[at])


def parse_samples(text: str) -> int:
    """`--samples`, which people write as 1e8.

    Args:
        text: as given.

    Returns:
        A number of samples.

    Raises:
        UserError: not a whole number of at least 1000.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value == int(value) and 1000 <= value <= 1e12):
        raise UserError("--samples", "a whole number from 1000 to 1e12, such as 1e8", text)
    return int(value)


def simulate(mixture: Mixture, thresholds: np.ndarray, samples: int, *, seed: int, vectors: bool) -> Sampled:
    """Draw half the samples from each class and count how sign(1.x - b) errs.

    Args:
        mixture: the distribution.
        thresholds: [T] values of b.
        samples: in all.
        seed: of the draws.
        vectors: draw x in R^d and sum it; else draw the sum itself from N(+-d eta, d sigma^2), which is d times
            cheaper and takes the deviation sqrt(d) sigma for granted.

    Returns:
        The counts; some 30 MB are held at a time, however many samples.
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
