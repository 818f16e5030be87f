"""The losses, one anchor and one sample at a time where that is clearest."""

from __future__ import annotations

import torch
from torch import Tensor

#: terms, inner losses and threat models that have a formula here or in the algorithm
TERMS = ("ce", "focal", "ldam", "separation")
INNER = ("ce", "objective", "margin", "kl")
THREATS = ("linf", "l2")


def separation(z: Tensor, labels: Tensor, temperature: float, empty_anchors: str) -> Tensor:
    """Eq. 6, anchor by anchor."""
    terms = []
    for i in range(len(labels)):
        others = [a for a in range(len(labels)) if a != i]  # A(i)
        positives = [a for a in others if labels[a] == labels[i]]  # P(i)
        if not positives:
            continue
        scores = z[others] @ z[i] / temperature
        log_denominator = torch.logsumexp(scores, dim=0)
        numerators = z[positives] @ z[i] / temperature
        terms.append(-(numerators - log_denominator).mean())
    if not terms:
        return z.sum() * 0.0
    return torch.stack(terms).sum() / (len(labels) if empty_anchors == "zero" else len(terms))


def classification(
    logits: Tensor,
    labels: Tensor,
    *,
    base: str,
    weights: Tensor,
    margins: Tensor,
    scale: float,
    gamma: float,
    focal_weighting: str,
    reduction: str,
) -> Tensor:
    """L_cls of Eq. 7 (method.md "Losses")."""
    losses = []
    for row, y in zip(logits, labels.tolist(), strict=True):
        if base == "ldam":
            shift = torch.zeros_like(row)
            shift[y] = margins[y]
            row = scale * (row - shift)
        ce = -torch.log_softmax(row, dim=0)[y]
        if base != "focal":
            losses.append(weights[y] * ce)
        elif focal_weighting == "inside":
            weighted = weights[y] * ce
            losses.append((1 - torch.exp(-weighted)) ** gamma * weighted)
        else:
            losses.append(weights[y] * (1 - torch.exp(-ce)) ** gamma * ce)
    total = torch.stack(losses).sum()
    return total / weights[labels].sum() if reduction == "weighted_mean" else total / len(labels)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """f_6 of Carlini and Wagner (2017): the strongest other logit minus the true class's, mean over the batch."""
    values = []
    for row, y in zip(logits, labels.tolist(), strict=True):
        values.append(max(row[c] for c in range(len(row)) if c != y) - row[y])
    return torch.stack(values).mean()


def divergence(clean: Tensor, logits: Tensor) -> Tensor:
    """KL(p || q) = sum_c p_c log(p_c / q_c) of the softmax p of `clean` and q of `logits`, mean over the batch."""
    p, q = torch.softmax(clean, dim=1), torch.softmax(logits, dim=1)
    return (p * torch.log(p / q)).sum(dim=1).mean()


def class_weights(rule: str, counts: list[int], under: list[int], beta: float, ratio: float | None) -> Tensor:
    """Class weights, class by class."""
    if rule == "ratio":
        values = [float(ratio) if c in under else 1.0 for c in range(len(counts))]  # type: ignore[arg-type]
    elif rule == "inverse":
        values = [max(counts) / n for n in counts]
    else:
        effective = [
            sum(beta**k for k in range(n)) for n in counts
        ]  # (1 - beta^n) / (1 - beta), as its series
        values = [max(effective) / e for e in effective]
    return torch.tensor(values, dtype=torch.float32)


def margins(counts: list[int], largest: float) -> Tensor:
    """LDAM's margins, class by class."""
    rarest = min(counts)
    return torch.tensor([largest * (rarest / n) ** 0.25 for n in counts], dtype=torch.float32)
