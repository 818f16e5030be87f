"""Terms of the training objective: the classification losses and the separation loss, on the fused operations.

A term is built once a run from its `Context` and called once a step with the `Batch`; it returns a scalar.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from srat_fast.errors import UserError
from srat_fast.losses.objective import Context, class_vector
from srat_fast.losses.weighting import ldam_margins
from srat_fast.models.batch import Batch
from srat_fast.registry import term
from srat_kernels import margin_loss, separation_loss


class Margin:
    """L_cls as a setting of `srat_kernels.margin_loss`: subclasses add margins, scale, prior or focal factor."""

    def __init__(self, context: Context) -> None:
        self.branch = context.recipe.loss.branch
        self.clean = self.branch == "clean"
        self.fused = self.branch == "adversarial"  # with L_sep, in `srat_loss`
        self.arguments: dict[str, Any] = {
            "class_weights": context.class_weights,
            "reduction": context.reduction,
        }

    def __call__(self, batch: Batch) -> Tensor:
        """w * L_cls, margins and scale included."""
        return margin_loss(batch.branch_logits(self.branch), batch.labels, **self.arguments)

    def raw(self, batch: Batch) -> Tensor:
        """w * L_cls on raw logits, without margin and scale: the inner maximisation of the paper's text."""
        return margin_loss(batch.logits, batch.labels, **(self.arguments | {"margins": None, "scale": 1.0}))


@term("ce")
class CrossEntropy(Margin):
    """Weighted cross-entropy."""


@term("focal")
class Focal(Margin):
    """Focal loss (Lin et al. 2017), the class weight inside or outside of the factor (1 - p)^gamma."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        loss = context.recipe.loss
        self.arguments |= {"focal_gamma": loss.focal_gamma, "focal_weighting": loss.focal_weighting}


@term("ldam")
class Ldam(Margin):
    """LDAM (Cao et al. 2019): margins n_c^(-1/4), scale s."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        loss = context.recipe.loss
        margins = torch.from_numpy(ldam_margins(context.counts, loss.ldam_max_margin)).float()
        self.arguments |= {"margins": margins.to(context.device), "scale": loss.ldam_scale}


@term("adjusted")
class Adjusted(Margin):
    """Cross-entropy of s (z_c / T_c - Delta_y [c = y]) + b_c: LDAM, CosFace, RoBal, logit adjustment and CDT in one.

    Delta_c = m + tau_m / s ln(n_c / n_min), b_c = tau_b ln(n_c / N), T_c = (n_max / n_c)^tau. Where an attack climbs
    the objective, margin and scale are left out, prior and temperatures are not.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        loss = context.recipe.loss
        counts = np.asarray(context.counts, dtype=np.float64)
        slope = loss.adjusted_margin_slope / loss.adjusted_scale
        vectors = {
            "margins": loss.adjusted_margin + slope * np.log(counts / counts.min()),
            "bias": loss.adjusted_prior * np.log(counts / counts.sum()),
            "inverse_temperature": (counts / counts.max()) ** loss.adjusted_temperature,
        }
        neutral = {"margins": 0.0, "bias": 0.0, "inverse_temperature": 1.0}
        for name, vector in vectors.items():
            if (vector != neutral[name]).any():  # what changes nothing costs nothing
                self.arguments[name] = torch.from_numpy(vector).float().to(context.device)
        self.arguments["scale"] = loss.adjusted_scale


@term("mart")
class Mart(Margin):
    """MART's boosted cross-entropy (Wang et al. 2020): CE - log(1.0001 - p_j), j the strongest wrong class."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.fused = False
        self._mean = context.mean

    def __call__(self, batch: Batch) -> Tensor:
        """Both parts with the class weights."""
        return super().__call__(batch) + self._second(batch.branch_logits(self.branch), batch.labels)

    def raw(self, batch: Batch) -> Tensor:
        """The same of the attacked images."""
        return super().raw(batch) + self._second(batch.logits, batch.labels)

    def _second(self, logits: Tensor, labels: Tensor) -> Tensor:
        wrong = logits.softmax(dim=1).scatter(1, labels[:, None], -1.0).amax(dim=1)
        return -self._mean(torch.log(1.0001 - wrong + 1e-12), labels)


@term("harl")
class Harl:
    """HARL (TAET's second stage): mean, variance and squared shares of the classes' cross-entropies.

    alpha mean_c L_c + beta mean_c (L_c - mean L)^2 + gamma sum_c (L_c / sum L)^2; L_c is the mean over the batch's
    images of class c, 0 where it has none.
    """

    def __init__(self, context: Context) -> None:
        loss = context.recipe.loss
        self.branch = loss.branch
        self.clean = loss.branch == "clean"
        self._factors = (loss.harl_mean, loss.harl_variance, loss.harl_share)

    def __call__(self, batch: Batch) -> Tensor:
        """A scalar."""
        return self._of(batch.branch_logits(self.branch), batch.labels)

    def raw(self, batch: Batch) -> Tensor:
        """The same of the attacked images."""
        return self._of(batch.logits, batch.labels)

    def _of(self, logits: Tensor, labels: Tensor) -> Tensor:
        each = functional.cross_entropy(logits, labels, reduction="none")
        member = functional.one_hot(labels, logits.shape[1]).to(each.dtype)  # [B, C]
        losses = (each @ member) / member.sum(dim=0).clamp(min=1.0)  # [C]
        mean, shares = losses.mean(), losses / losses.sum().clamp(min=torch.finfo(losses.dtype).tiny)
        alpha, beta, gamma = self._factors
        return alpha * mean + beta * (losses - mean).square().mean() + gamma * shares.square().sum()


@term("kl")
class PairDivergence:
    """KL(p(x) || p(x')) from the clean to the adversarial prediction (TRADES), times 1 - p_y(x) in MART.

    x and x' are one pass of the update each, in train mode. BatchNorm sees first the one that L_cls reads: x with
    `loss.branch = clean` (TRADES), else x' (MART, RoBal).
    """

    clean = True

    def __init__(self, context: Context) -> None:
        loss, classes = context.recipe.loss, len(context.counts)
        self._wrongness, self._detached = loss.kl_factor == "wrongness", loss.kl_target == "detached"
        self._factors = class_vector("loss.kl_factors", loss.kl_factors, classes, context.device)
        self._context = context

    def __call__(self, batch: Batch) -> Tensor:
        """Mean over the batch; with a feedback rule the one of `loss.reduction` by its factors."""
        clean = batch.clean_logits.detach() if self._detached else batch.clean_logits
        target = clean.log_softmax(dim=1)
        each = (target.exp() * (target - batch.logits.log_softmax(dim=1))).sum(dim=1)  # [B]
        if self._wrongness:
            each = each * (1.0000001 - target.exp().gather(1, batch.labels[:, None]).squeeze(1))
        if self._factors is not None:
            each = each * self._factors.to(each.dtype)[batch.labels]
        if self._context.pair_weights is not None:
            return self._context.mean_by(self._context.pair_weights, each, batch.labels)
        return each.mean()


@term("tail")
class Tail:
    """REAT's term on the features of the rarest third, as its code computes it.

    mean over the batch's images i of those classes: S_i mean_j(+-(w_yi + w_yj)), w_c = pi_c^(-1/2), minus for j of the
    same class; S_i is one number, the mean over all j and features of KL(softmax f_i || softmax f_j), f_i detached.
    """

    def __init__(self, context: Context) -> None:
        counts = torch.tensor(list(context.counts), dtype=torch.float64)
        first = (
            2 * (len(counts) // 3) + 1
        )  # the published labels, 7 of 10 and 67 of 100: classes are sorted by count
        if first >= len(counts):
            problem = f"of {len(counts)} classes the term tail counts none as rare; 0 is possible"
            raise UserError("loss.tail_weight", problem, context.recipe.loss.tail_weight)
        self._rare = torch.zeros(len(counts)).to(context.device)
        self._rare[counts.argsort(descending=True, stable=True)[first:]] = 1.0
        self._weights = (counts / counts.sum()).rsqrt().float().to(context.device)
        self._sign = 1.0 if context.recipe.loss.tail_sign == "coded" else -1.0

    def __call__(self, batch: Batch) -> Tensor:
        """0 where the batch has no image of those classes."""
        features, labels = batch.features, batch.labels
        logs = features.log_softmax(dim=1)  # [B, D]
        own = logs.detach()
        size = features.shape[0] * features.shape[1]
        # sum_j KL(f_i || f_j) = B sum_d p log p - p . sum_j log q
        spread = (len(labels) * (own.exp() * own).sum(dim=1) - own.exp() @ logs.sum(dim=0)) / size  # [B]
        weight = self._weights.to(features.dtype)[labels]
        sign = torch.where(labels[:, None] == labels[None], -1.0, 1.0).to(features.dtype)
        pull = (sign * (weight[:, None] + weight[None])).mean(dim=1)
        rare = self._rare.to(features.dtype)[labels]
        return self._sign * (rare * spread * pull).sum() / rare.sum().clamp(min=1.0)


@term("graph")
class Graph:
    """CGR's margins between confused classes: w_y sum_k G_yk relu(0.5 - z_y + z_k), G of `feedback.rule = cgr`."""

    def __init__(self, context: Context) -> None:
        self._graph, self._weights = context.graph, context.class_weights

    def __call__(self, batch: Batch) -> Tensor:
        """Mean over the batch."""
        if self._graph is None:  # the rule is off
            return batch.logits.sum() * 0.0
        logits, labels = batch.logits, batch.labels
        short = functional.relu(0.5 - logits.gather(1, labels[:, None]) + logits)  # [B, C]
        each = (self._graph.to(logits.dtype)[labels] * short).sum(dim=1)
        return (self._weights.to(logits.dtype)[labels] * each).mean()


@term("entropy")
class Entropy:
    """BAT's term (Sun et al. 2023): KL(p || u) = ln C - H(p) of x', plus that of x_c with `attack.stop = both`."""

    def __init__(self, context: Context) -> None:
        pass

    def __call__(self, batch: Batch) -> Tensor:
        """Mean over the batch."""
        value = self._of(batch.logits)
        return value if not batch.pair else value + self._of(batch.last_right_logits)

    @staticmethod
    def _of(logits: Tensor) -> Tensor:
        logs = logits.log_softmax(dim=1)
        return (logs.exp() * logs).sum(dim=1).mean() + math.log(logits.shape[1])


@term("etf")
class SimplexFrame:
    """MCAT's term on the head: the mean square between the cosines of its weights and those of a simplex.

    Of C classes in a simplex, an equiangular tight frame, any two have cosine -1 / (C - 1).
    """

    def __init__(self, context: Context) -> None:
        classes = len(context.counts)
        frame = (torch.eye(classes, dtype=torch.float64) * classes - 1.0) / (classes - 1)
        self._frame = frame.to(context.device)

    def __call__(self, batch: Batch) -> Tensor:
        """Of the network's present weights."""
        unit = functional.normalize(batch.model.linear.weight, dim=1)
        return (unit @ unit.T - self._frame.to(unit.dtype)).square().mean()


@term("separation")
class Separation:
    """L_sep of Eq. 6."""

    def __init__(self, context: Context) -> None:
        loss = context.recipe.loss
        self.arguments: dict[str, Any] = {
            "temperature": loss.temperature,
            "empty_anchors": loss.empty_anchors,
        }

    def __call__(self, batch: Batch) -> Tensor:
        """L_sep of the batch's unit rows."""
        return separation_loss(batch.separable, batch.labels, **self.arguments)
