"""The losses, one anchor and one sample at a time where that is clearest."""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: terms, inner losses and threat models that have a formula here or in the algorithm
TERMS = ("ce", "focal", "ldam", "adjusted", "mart", "harl", "separation", "kl", "tail")
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
    bias: Tensor | None = None,
    temperatures: Tensor | None = None,
) -> Tensor:
    """L_cls of Eq. 7 (method.md "Losses") and of the methods whose loss is a mean over images."""
    losses = []
    for row, y in zip(logits, labels.tolist(), strict=True):
        if base in ("ldam", "adjusted"):
            row = adjusted(row, y, scale, margins, bias, temperatures)
        ce = -torch.log_softmax(row, dim=0)[y]
        if base == "mart":
            losses.append(weights[y] * (ce + second_guess(row, y)))
        elif base != "focal":
            losses.append(weights[y] * ce)
        elif focal_weighting == "inside":
            weighted = weights[y] * ce
            losses.append((1 - torch.exp(-weighted)) ** gamma * weighted)
        else:
            losses.append(weights[y] * (1 - torch.exp(-ce)) ** gamma * ce)
    total = torch.stack(losses).sum()
    return total / weights[labels].sum() if reduction == "weighted_mean" else total / len(labels)


def adjusted(
    row: Tensor, y: int, scale: float, margins: Tensor, bias: Tensor | None, temperatures: Tensor | None
) -> Tensor:
    """One image's logits in an adjusted cross-entropy: s (z_c / T_c - Delta_y [c = y]) + b_c."""
    found = []
    for c, z in enumerate(row):
        if temperatures is not None:
            z = z / temperatures[c]
        if c == y:
            z = z - margins[c]
        z = scale * z
        found.append(z if bias is None else z + bias[c])
    return torch.stack(found)


def second_guess(row: Tensor, y: int) -> Tensor:
    """What MART's boosted cross-entropy adds: -log(1.0001 - p_j + 1e-12) of the strongest wrong class j."""
    p = torch.softmax(row, dim=0)
    return -torch.log(1.0001 - max(p[c] for c in range(len(p)) if c != y) + 1e-12)


def harl(logits: Tensor, labels: Tensor, mean: float, variance: float, share: float) -> Tensor:
    """TAET's HARL: alpha L + beta mean_c (L_c - L)^2 + gamma sum_c (L_c / sum L)^2; an absent class has L_c = 0."""
    per_class = []
    for c in range(logits.shape[1]):
        own = [-torch.log_softmax(row, dim=0)[c] for row, y in zip(logits, labels, strict=True) if y == c]
        per_class.append(sum(own) / len(own) if own else logits.new_zeros(()))
    return balance(torch.stack(per_class), mean, variance, share)


def balance(losses: Tensor, mean: float, variance: float, share: float) -> Tensor:
    """HARL of the classes' losses [C]."""
    level = losses.mean()
    spread = ((losses - level) ** 2).mean()
    return mean * level + variance * spread + share * ((losses / losses.sum()) ** 2).sum()


def pair(
    clean: Tensor, logits: Tensor, labels: Tensor, *, factor: str, target: str, factors: tuple[float, ...]
) -> Tensor:
    """Mean over images of KL(p(x) || p(x')), times 1 - p_y(x) where that is the factor, times the class's own."""
    if target == "detached":
        clean = clean.detach()
    values = []
    for given, row, y in zip(clean, logits, labels.tolist(), strict=True):
        p, q = torch.softmax(given, dim=0), torch.softmax(row, dim=0)
        value = (p * torch.log(p / q)).sum()
        if factor == "wrongness":
            value = (1 - p[y]) * value
        if factors:
            value = factors[y] * value
        values.append(value)
    return torch.stack(values).mean()


def tail(features: Tensor, labels: Tensor, counts: list[int], sign: str) -> Tensor:
    """REAT's term on the rarest third as its code has it, pair by pair.

    One image's divergence to the batch is a mean over all pairs and features, and only then meets the pairs' signs.
    """
    classes, batch, width = len(counts), *features.shape
    y = labels.tolist()
    weight = [(n / sum(counts)) ** -0.5 for n in counts]
    rare = [i for i in range(batch) if y[i] >= 2 * (classes // 3) + 1]
    total = features.sum() * 0.0
    for i in rare:
        own = torch.softmax(features[i], dim=0).detach()
        divergence, direction = features.new_zeros(()), 0.0
        for j in range(batch):
            other = torch.softmax(features[j], dim=0)
            divergence = divergence + (own * torch.log(own / other)).sum() / (batch * width)
            signed = -1 if y[i] == y[j] else 1
            direction += (signed if sign == "coded" else -signed) * (weight[y[i]] + weight[y[j]]) / batch
        total = total + divergence * direction / len(rare)
    return total


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


def adjusted_margins(counts: list[int], margin: float, slope: float, scale: float) -> Tensor:
    """RoBal's margins, class by class: m + tau_m / s ln(n_c / n_min); m alone is that of HE and CosFace."""
    values = [margin + slope / scale * math.log(n / min(counts)) for n in counts]
    return torch.tensor(values, dtype=torch.float64)


def log_priors(counts: list[int], tau: float) -> Tensor:
    """tau ln pi_c, class by class: the bias of logit adjustment, and of the balanced softmax at tau = 1."""
    return torch.tensor([tau * math.log(n / sum(counts)) for n in counts], dtype=torch.float64)


def temperatures(counts: list[int], tau: float) -> Tensor:
    """CDT's temperatures, class by class: (n_max / n_c)^tau."""
    return torch.tensor([(max(counts) / n) ** tau for n in counts], dtype=torch.float64)


def radius_factors(counts: list[int], strength: float) -> list[float]:
    """RobustLT's factor on epsilon, class by class; its mean over the training images is 1."""
    rarity = [math.sqrt(math.log(max(counts) / n)) for n in counts]
    mean = sum(n / sum(counts) * s for n, s in zip(counts, rarity, strict=True))
    return [(1 - strength) + strength * s / mean for s in rarity]
