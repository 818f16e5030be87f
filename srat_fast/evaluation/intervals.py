"""How sure an accuracy is: right answers out of n enter, a confidence interval of the share leaves."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor


def wilson(right: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (1927) of a proportion: sensible at 0 and at 1 and for few images."""
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, shrink = right / total, 1 + z * z / total
    centre = (share + z * z / (2 * total)) / shrink
    half = z / shrink * (share * (1 - share) / total + z * z / (4 * total * total)) ** 0.5
    # at the ends the formula gives 0 and 1 up to rounding
    low = 0.0 if right == 0 else max(0.0, centre - half)
    high = 1.0 if right == total else min(1.0, centre + half)
    return low, high


def intervals(predictions: Tensor, labels: Tensor, well: list[int], under: list[int]) -> dict[str, Any]:
    """95 % intervals of what `srat_fast.evaluation.accuracy.accuracies` gives.

    They say how far the test images' number may be from that of all such images; they know nothing of seeds.
    """
    right = predictions == labels

    def interval(of: Tensor) -> list[float]:
        return list(wilson(int(right[of].sum()), int(of.sum())))

    return {
        "overall": interval(torch.ones_like(right)),
        "well": interval(torch.isin(labels, torch.tensor(well))),
        "under": interval(torch.isin(labels, torch.tensor(under))),
        "per_class": [interval(labels == c) for c in range(len(well) + len(under))],
    }
