"""Confidence intervals of accuracies over the test images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def wilson(right: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (1927) of a proportion: sensible at 0 and at 1 and for few images."""
    if total == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest  # takes half a second, which a training run needs at its end only

    found = binomtest(right, total).proportion_ci(confidence, method="wilson")
    return float(found.low), float(found.high)


def intervals(predictions: Tensor, labels: Tensor, well: list[int], under: list[int]) -> dict[str, Any]:
    """95 % intervals of what `srat_fast.evaluation.accuracy.accuracies` gives.

    They say how far the test images' number may be from that of all such images; they know nothing of seeds. That of
    the worst class holds for whichever class it is: the least of ends of intervals that hold for all classes together
    (Bonferroni), as the smallest of several noisy numbers is too small.
    """
    right, classes = predictions == labels, range(len(well) + len(under))
    present = [c for c in classes if bool((labels == c).any())]

    def interval(of: Tensor, confidence: float = 0.95) -> list[float]:
        return list(wilson(int(right[of].sum()), int(of.sum()), confidence))

    together = [interval(labels == c, 1 - 0.05 / len(present)) for c in present]

    return {
        "overall": interval(torch.ones_like(right)),
        "well": interval(torch.isin(labels, torch.tensor(well))),
        "under": interval(torch.isin(labels, torch.tensor(under))),
        "worst": [min(ends) for ends in zip(*together, strict=True)],
        "per_class": [interval(labels == c) for c in classes],
    }
