"""An independent oracle of every loss in NumPy float64, written from the formulas with plain loops."""

from __future__ import annotations

import numpy as np


def separation(z: np.ndarray, labels: np.ndarray, tau: float, empty_anchors: str) -> float:
    """Eq. 6, summed anchor by anchor."""
    z = z.astype(np.float64)
    count, total, anchors = len(labels), 0.0, 0
    for i in range(count):
        denominator = sum(np.exp(z[i] @ z[a] / tau) for a in range(count) if a != i)
        positives = [p for p in range(count) if p != i and labels[p] == labels[i]]
        if positives:
            total += -np.mean([np.log(np.exp(z[i] @ z[p] / tau) / denominator) for p in positives])
            anchors += 1
    divisor = count if empty_anchors == "zero" else anchors
    return total / divisor if divisor else 0.0


def margin(
    logits: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None = None,
    margins: np.ndarray | None = None,
    scale: float = 1.0,
    gamma: float = 0.0,
    inside: bool = False,
    batch_mean: bool = False,
) -> float:
    """Weighted CE, LDAM and focal loss, sample by sample."""
    total, weight_sum = 0.0, 0.0
    for row, y in zip(logits.astype(np.float64), labels, strict=True):
        shifted = row.copy()
        if margins is not None:
            shifted[y] -= margins[y]
        shifted = shifted * scale
        top = shifted.max()
        loss = top + np.log(np.sum(np.exp(shifted - top))) - shifted[y]
        w = 1.0 if weights is None else float(weights[y])
        if gamma == 0:
            total += w * loss
        elif inside:
            total += (1 - np.exp(-w * loss)) ** gamma * w * loss
        else:
            total += w * (1 - np.exp(-loss)) ** gamma * loss
        weight_sum += w
    return total / (len(labels) if batch_mean else weight_sum)


def class_balanced(counts: list[int], beta: float) -> np.ndarray:
    """Cui et al. 2019 with the largest class at 1."""
    effective = np.array([(1 - np.longdouble(beta) ** n) / (1 - np.longdouble(beta)) for n in counts])
    return (effective.max() / effective).astype(np.float64)


def ldam(counts: list[int], largest: float) -> np.ndarray:
    """Cao et al. 2019: n_c^(-1/4), scaled so that the largest is `largest`."""
    raw = np.array([1 / np.sqrt(np.sqrt(n)) for n in counts])
    return raw * largest / raw.max()
