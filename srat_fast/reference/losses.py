"""The losses, one anchor and one sample at a time where that is clearest."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from srat_fast.recipe.sections import ResolvedLoss

#: terms, inner losses and threat models that have a formula here or in the algorithm
TERMS = (
    "ce",
    "focal",
    "ldam",
    "adjusted",
    "mart",
    "harl",
    "separation",
    "kl",
    "tail",
    "graph",
    "entropy",
    "etf",
)
INNER = ("ce", "objective", "margin", "kl")
THREATS = ("linf", "l2")


@dataclass(frozen=True)
class Adjustment:
    """What an adjusted cross-entropy does to logits: s (z_c / T_c - Delta_y [c = y]) + b_c, vectors per class.

    As the class weights, they are rounded to float32, which is what the fast engine holds.
    """

    scale: float
    margins: Tensor
    bias: Tensor
    inverse_temperatures: Tensor

    @classmethod
    def of(cls, base: str, loss: ResolvedLoss, counts: list[int], device: torch.device) -> Adjustment:
        """That of a base loss: none but for ldam and adjusted."""
        none = torch.zeros(len(counts))
        scale, margins, bias, temperature = 1.0, none, none, none + 1
        if base == "ldam":
            scale, margins = loss.ldam_scale, ldam_margins(counts, loss.ldam_max_margin)
        if base == "adjusted":
            scale = loss.adjusted_scale
            margins = adjusted_margins(counts, loss.adjusted_margin, loss.adjusted_margin_slope, scale)
            bias = log_priors(counts, loss.adjusted_prior)
            temperature = temperatures(counts, loss.adjusted_temperature)
        return cls(scale, *(vector.float().to(device) for vector in (margins, bias, 1 / temperature)))

    def without_margin(self) -> Adjustment:
        """That of an attack on the objective: bias and temperatures only."""
        return Adjustment(1.0, torch.zeros_like(self.margins), self.bias, self.inverse_temperatures)

    def on(self, row: Tensor, y: int) -> Tensor:
        """One image's logits."""
        margin = torch.zeros_like(row)
        margin[y] = self.margins[y]
        return self.scale * (row * self.inverse_temperatures.to(row) - margin) + self.bias.to(row)


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
    adjustment: Adjustment,
    gamma: float,
    focal_weighting: str,
    reduction: str,
) -> Tensor:
    """L_cls of Eq. 7 (method.md "Losses") and of the methods whose loss is a mean over images."""
    losses = []
    for row, y in zip(logits, labels.tolist(), strict=True):
        if base in ("ldam", "adjusted"):
            row = adjustment.on(row, y)
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


def second_guess(row: Tensor, y: int) -> Tensor:
    """What MART's boosted cross-entropy adds: -log(1.0001 - p_j + 1e-12) of the strongest wrong class j."""
    p = torch.softmax(row, dim=0)
    return -torch.log(1.0001 - max(p[c] for c in range(len(p)) if c != y) + 1e-12)


def harl(logits: Tensor, labels: Tensor, mean: float, variance: float, share: float) -> Tensor:
    """TAET's HARL: alpha L + beta mean_c (L_c - L)^2 + gamma sum_c (L_c / sum L)^2; an absent class has L_c = 0."""
    per_class = []
    for c in range(logits.shape[1]):
        own = [-torch.log_softmax(row, dim=0)[c] for row, y in zip(logits, labels, strict=True) if y == c]
        per_class.append(torch.stack(own).mean() if own else logits.new_zeros(()))
    return balance(torch.stack(per_class), mean, variance, share)


def balance(losses: Tensor, mean: float, variance: float, share: float) -> Tensor:
    """HARL of the classes' losses [C]."""
    level = losses.mean()
    spread = ((losses - level) ** 2).mean()
    return mean * level + variance * spread + share * ((losses / losses.sum()) ** 2).sum()


def pair(
    clean: Tensor,
    logits: Tensor,
    labels: Tensor,
    *,
    factor: str,
    target: str,
    factors: tuple[float, ...],
    found: Tensor | None = None,
) -> Tensor:
    """Mean over images of KL(p(x) || p(x')), times 1 - p_y(x) where that is the factor, times the class's own.

    `found` are further factors by class.
    """
    if target == "detached":
        clean = clean.detach()
    values = []
    for given, row, y in zip(clean, logits, labels.tolist(), strict=True):
        p, q = torch.softmax(given, dim=0), torch.softmax(row, dim=0)
        value = (p * torch.log(p / q)).sum()
        if factor == "wrongness":
            value = (1.0000001 - p[y]) * value  # as MART's code has it
        if factors:
            value = factors[y] * value
        if found is not None:
            value = found.to(value)[y] * value
        values.append(value)
    return torch.stack(values).mean()


def graph(logits: Tensor, labels: Tensor, edges: Tensor, weights: Tensor) -> Tensor:
    """CGR: mean of w_y sum_k G_yk max(0, 0.5 - z_y + z_k)."""
    values = []
    for row, y in zip(logits, labels.tolist(), strict=True):
        short = [edges[y, k] * torch.relu(0.5 - row[y] + row[k]) for k in range(len(row))]
        values.append(weights[y] * torch.stack(short).sum())
    return torch.stack(values).mean()


def certainty(logits: Tensor) -> Tensor:
    """BAT: mean over images of KL(p || u) from the uniform distribution, sum_c p_c ln(C p_c)."""
    values = []
    for row in logits:
        p = torch.softmax(row, dim=0)
        values.append((p * torch.log(len(p) * p)).sum())
    return torch.stack(values).mean()


def frame(weight: Tensor) -> Tensor:
    """MCAT: mean square of the cosines of any two class weights less those of a simplex, 1 or -1 / (C - 1)."""
    values = []
    for i, w in enumerate(weight):
        for j, v in enumerate(weight):
            cosine = (w @ v) / (w.norm() * v.norm())
            values.append((cosine - (1.0 if i == j else -1 / (len(weight) - 1))) ** 2)
    return torch.stack(values).mean()


def tail(features: Tensor, labels: Tensor, counts: list[int], sign: str) -> Tensor:
    """REAT's term on the rarest third as its code has it, pair by pair.

    One image's divergence to the batch is a mean over all pairs and features, and only then meets the pairs' signs.
    """
    classes, batch, width = len(counts), *features.shape
    y = labels.tolist()
    weight = torch.tensor([(n / sum(counts)) ** -0.5 for n in counts]).to(features)
    by_count = sorted(range(classes), key=lambda c: -counts[c])  # the order of labels in the published sets
    rare = [i for i in range(batch) if y[i] in by_count[2 * (classes // 3) + 1 :]]
    total = features.sum() * 0.0
    for i in rare:
        own = torch.softmax(features[i], dim=0).detach()
        divergence, direction = features.new_zeros(()), features.new_zeros(())
        for j in range(batch):
            other = torch.softmax(features[j], dim=0)
            divergence = divergence + (own * torch.log(own / other)).sum() / (batch * width)
            signed = -1 if (y[i] == y[j]) == (sign == "coded") else 1
            direction = direction + signed * (weight[y[i]] + weight[y[j]]) / batch
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


def ldam_margins(counts: list[int], largest: float) -> Tensor:
    """LDAM's margins, class by class."""
    rarest = min(counts)
    return torch.tensor([largest * (rarest / n) ** 0.25 for n in counts], dtype=torch.float64)


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
    if mean == 0:  # classes of one size
        return [1.0 for _ in counts]
    return [(1 - strength) + strength * s / mean for s in rarity]
