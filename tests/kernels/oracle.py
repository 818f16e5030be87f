"""The formulas once more, in float64 and one anchor or row at a time, sharing no code with the package.

Any float type in, float64 values that autograd can differentiate out.
"""

from __future__ import annotations

import torch
from torch import Tensor


def separation(features: Tensor, labels: Tensor, temperature: float, empty_anchors: str) -> Tensor:
    """Eq. 6 read literally: for every anchor the mean of -log softmax over its positives."""
    z = features.double()
    terms = []
    for i, similarity in enumerate((z @ z.T / temperature).unbind()):
        others = torch.cat([similarity[:i], similarity[i + 1 :]])
        positives = torch.cat([labels[:i], labels[i + 1 :]]) == labels[i]
        if positives.any():
            terms.append(-torch.log_softmax(others, dim=0)[positives].mean())
    if not terms:
        return 0.0 * z.sum()
    return torch.stack(terms).sum() / (len(terms) if empty_anchors == "drop" else len(z))


def margin(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | None,
    margins: Tensor | None,
    bias: Tensor | None = None,
    inverse_temperature: Tensor | None = None,
    scale: float,
    focal_gamma: float,
    focal_weighting: str,
    reduction: str,
) -> Tensor:
    """The adjusted cross-entropy's and focal loss's formulas, row by row."""
    losses, weights = [], []
    for row, y in zip(logits.double(), labels.tolist(), strict=True):
        weight = 1.0 if class_weights is None else float(class_weights[y])
        own = torch.zeros_like(row)
        own[y] = 0.0 if margins is None else float(margins[y])
        sharp = 1.0 if inverse_temperature is None else inverse_temperature.double()
        shift = 0.0 if bias is None else bias.double()
        ce = -torch.log_softmax(scale * (row * sharp - own) + shift, dim=0)[y]
        if focal_gamma == 0:
            losses.append(weight * ce)
        elif focal_weighting == "outside":
            losses.append(weight * (1 - torch.exp(-ce)) ** focal_gamma * ce)
        else:
            losses.append((1 - torch.exp(-weight * ce)) ** focal_gamma * weight * ce)
        weights.append(weight)
    return torch.stack(losses).sum() / (sum(weights) if reduction == "weighted_mean" else len(losses))


def linf(adversarial: Tensor, gradient: Tensor, clean: Tensor, step_size: float, epsilon: float) -> Tensor:
    """One pixel at a time, in Python floats."""
    out = []
    flat = (tensor.reshape(-1).tolist() for tensor in (adversarial, gradient, clean))
    for x, g, centre in zip(*flat, strict=True):
        moved = x + step_size * (1 if g > 0 else -1 if g < 0 else 0)
        out.append(min(max(min(max(moved, centre - epsilon), centre + epsilon), 0.0), 1.0))
    return torch.tensor(out, dtype=torch.float64).reshape(adversarial.shape)
