"""Statistics over seeds: accuracies enter; mean, deviation, bootstrap interval and a paired test leave."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 9999


@dataclass(frozen=True)
class Summary:
    """Several runs' values of one figure.

    Attributes:
        n: runs.
        mean: of them; NaN without any.
        std: sample standard deviation (n - 1); None for fewer than two.
        low: lower end of the mean's interval; None for fewer than two.
        high: upper end; None likewise.
    """

    n: int
    mean: float
    std: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Two methods over the seeds that both have.

    Attributes:
        n: seeds in common.
        difference: mean of the differences; NaN without a common seed.
        p: two-sided paired t-test; None for fewer than two seeds, or where all differences are the same.
    """

    n: int
    difference: float
    p: float | None


def summarize(values: Sequence[float], confidence: float = 0.95) -> Summary:
    """Mean, sample deviation and the percentile bootstrap's interval of the mean.

    With the few seeds that training affords, the interval is short of its nominal coverage: it lies between the
    smallest and the largest value. It is given with n beside it, always from the same resamples.

    Args:
        values: one a run.
        confidence: of the interval.

    Returns:
        The summary.
    """
    from scipy.stats import bootstrap

    data = np.asarray(values, dtype=np.float64)
    if len(data) == 0:
        return Summary(0, math.nan)
    if len(data) == 1:
        return Summary(1, float(data[0]))
    interval = bootstrap(
        (data,), np.mean, n_resamples=_RESAMPLES, confidence_level=confidence, method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return Summary(
        len(data), float(data.mean()), float(data.std(ddof=1)), float(interval.low), float(interval.high)
    )


def compare(values: Mapping[int, float], baseline: Mapping[int, float]) -> Comparison:
    """A method against a baseline, seed by seed: equal seeds share the subset of images and the order.

    Args:
        values: seed -> value.
        baseline: seed -> value.

    Returns:
        The comparison.
    """
    from scipy.stats import ttest_rel

    common = sorted(values.keys() & baseline.keys())
    if not common:
        return Comparison(0, math.nan, None)
    first = np.array([values[seed] for seed in common])
    second = np.array([baseline[seed] for seed in common])
    differences = first - second
    p = None
    if len(common) > 1 and float(np.ptp(differences)) > 1e-12:
        p = float(ttest_rel(first, second).pvalue)
    return Comparison(len(common), float(differences.mean()), p)
