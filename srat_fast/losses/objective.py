"""Training objective of a method's row: L_cls plus its further terms, each times its coefficient (Eq. 7)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from srat_fast.errors import TrainingFailure, UserError
from srat_fast.losses.weighting import class_balanced_weights, inverse_weights, ratio_weights
from srat_fast.models.batch import Batch
from srat_fast.plugins import described
from srat_fast.recipe import Recipe, ResolvedRecipe
from srat_fast.registry import term
from srat_kernels import srat_loss


@dataclass(frozen=True)
class Context:
    """What a term is built from.

    Attributes:
        recipe: of the run, resolved.
        counts: training images per class.
        under: labels of the under-represented half.
        device: of the model.
        class_weights: [C] float32, ones while the method's weighting rests; it changes in place.
        pair_weights: [C] float32 on the term kl, changed in place by `feedback.rule`; None where the rule has none.
        graph: [C, C] float32 of rule cgr, likewise.
        feature_dim: D of the network's features.
    """

    recipe: ResolvedRecipe
    counts: Sequence[int]
    under: Sequence[int]
    device: torch.device
    class_weights: Tensor
    pair_weights: Tensor | None = None
    graph: Tensor | None = None
    feature_dim: int = 0

    @property
    def reduction(self) -> str:
        """`loss.reduction`: "weighted_mean" or "batch"."""
        return self.recipe.reduction

    def mean(self, losses: Tensor, labels: Tensor) -> Tensor:
        """The weighted mean of one loss an image by `loss.reduction`: sum(w l) / sum(w), or sum(w l) / B.

        Args:
            losses: [B], without class weights.
            labels: [B].

        Returns:
            Scalar.
        """
        return self.mean_by(self.class_weights, losses, labels)

    def mean_by(self, class_weights: Tensor, losses: Tensor, labels: Tensor) -> Tensor:
        """The same with other weights [C]."""
        weights = class_weights.to(losses.dtype)[labels]
        total = (weights * losses).sum()
        return total / (weights.sum() if self.reduction == "weighted_mean" else len(labels))


class Term(Protocol):
    """What `srat_fast.registry.term` registers: a class built from a `Context` and called with a `Batch`.

    It may set `clean = True` to have the batch's clean images, and have `raw(batch)`, which `attack.loss = objective`
    climbs in place of the term itself. What it remembers of earlier batches are buffers of an `nn.Module`, changed in
    place: checkpoints have them. It may have `start_epoch(epoch)` (from 0), which changes tensors in place: a captured
    step sees no other change.
    """

    def __init__(self, context: Context) -> None: ...

    def __call__(self, batch: Batch) -> Tensor:
        """A scalar with a gradient."""


class Objective:
    """L_cls + sum of coefficient * term, with the row's weights.

    The weights live in one tensor that changes in place at the deferral epoch, so that a captured or compiled step
    sees the change without being rebuilt.

    Args:
        recipe: resolved.
        counts: training images per class.
        under: labels of the under-represented half.
        device: of the tensors.
        feature_dim: D of the network's features.

    Attributes:
        names: of what a call returns: "total", "classification" and the row's further terms.
        clean: whether a term reads the clean images.
        buffers: of terms that remember something, by name.
    """

    def __init__(
        self,
        recipe: ResolvedRecipe,
        counts: Sequence[int],
        under: Sequence[int],
        device: torch.device,
        feature_dim: int = 0,
    ) -> None:
        row = recipe.row
        self._weighting, self._defer_epoch = row.weighting, recipe.optim.defer_epoch
        self._full = torch.from_numpy(full_weights(recipe, counts, under)).float().to(device)
        self.class_weights = torch.ones_like(self._full)
        rule, classes = recipe.feedback.rule, len(counts)
        self._by_batch = rule == "faal"
        self._divergence, self._summed = recipe.feedback.faal_divergence, recipe.feedback.rates == "balanced"
        #: what `feedback.rule` has found: it changes in place between epochs, with faal in each update
        self.found: dict[str, Tensor] = {}
        if rule != "off":
            self.found = {"weights": torch.ones_like(self._full), "pair": torch.ones_like(self._full)}
        if rule == "cgr":
            self.found["graph"] = torch.zeros(classes, classes, device=device)
        pair, graph = self.found.get("pair"), self.found.get("graph")
        context = Context(recipe, counts, under, device, self.class_weights, pair, graph, feature_dim)
        self._base: Any = term[row.base](context)
        self._terms: dict[str, tuple[Any, float]] = {
            name: (term[name](context), coefficient) for name, coefficient in row.terms.items()
        }
        #: both in one operation, which reads the batch once
        self._fused = getattr(self._base, "fused", False) and "separation" in self._terms
        self.names = ("total", "classification", *row.terms)
        self._parts = {"classification": self._base} | {n: part for n, (part, _) in self._terms.items()}
        self.clean = any(getattr(part, "clean", False) for part in self._parts.values())
        self.buffers: dict[str, Tensor] = {}
        for name, part in self._parts.items():
            if isinstance(part, nn.Module):
                _require_buffers(part.to(device), described(part) or name)
                self.buffers |= {f"{name}.{key}": buffer for key, buffer in part.named_buffers()}
        self._calls = 0

    def weights_active(self, epoch: int) -> bool:
        """Whether the class weights apply: always, never, or from `optim.defer_epoch` on (method.md)."""
        if self._weighting == "deferred":
            return epoch >= self._defer_epoch
        return self._weighting == "balanced"

    def start_epoch(self, epoch: int) -> None:
        """Put the epoch's class weights in force."""
        if self.weights_active(epoch):
            self.class_weights.copy_(self._full)
        else:
            self.class_weights.fill_(1.0)
        if self.found:
            self.class_weights.mul_(self.found["weights"])
        for name, part in self._parts.items():
            if hasattr(part, "start_epoch"):
                with unchanged(described(part) or name, part, places=True):
                    part.start_epoch(epoch)

    def raw_classification(self, batch: Batch) -> Tensor:
        """What an attack climbs with `attack.loss = objective`: the weighted L_cls, without margins and scale."""
        return getattr(self._base, "raw", self._base)(batch)

    def _scalar(self, name: str, part: Any, batch: Batch) -> Tensor:
        # in the first call a term may prepare something; compiled code would be made anew where `_calls` counts
        if not torch.compiler.is_compiling() and self._calls == 2:
            with unchanged(described(part) or name, part):
                value = part(batch)
        else:
            value = part(batch)
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        if shape != ():
            where = described(part) or name
            raise TrainingFailure(f"{where}: the term returns {shape}; a scalar is needed, shape ()")
        return value

    def _weigh(self, batch: Batch) -> None:
        """Put FAAL's weights of a batch in force."""
        own = "clean" if getattr(self._base, "clean", False) else "adversarial"  # of a plug-in
        _ = batch.branch_logits(getattr(self._base, "branch", own))  # BatchNorm sees first what L_cls reads
        weights = margin_weights(batch.logits.detach(), batch.labels, self._divergence, self._summed)
        self.class_weights.copy_(weights)
        self.found["pair"].copy_(weights)

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """The scalars by name, in the order of `names`; "total" is the one to differentiate."""
        if not torch.compiler.is_compiling():
            self._calls += 1
        if self._by_batch:
            self._weigh(batch)
        if self._fused:
            part, weight = self._terms["separation"]
            found = srat_loss(
                batch.separable, batch.logits, batch.labels,
                separation_weight=weight, **part.arguments, **self._base.arguments,
            )  # fmt: skip
            total, values = (
                found.total,
                {"classification": found.classification, "separation": found.separation},
            )
        else:
            total = self._scalar("classification", self._base, batch)
            if torch.is_grad_enabled() and not total.requires_grad:
                where = described(self._base) or "classification"
                raise TrainingFailure(f"{where}: the loss has no gradient; is it detached from the batch?")
            values = {"classification": total}
        for name, (part, coefficient) in self._terms.items():
            if name not in values:
                values[name] = self._scalar(name, part, batch)
                total = total + coefficient * values[name]
        return {"total": total} | {name: values[name] for name in self.names[1:]}


def _require_buffers(part: nn.Module, where: str) -> None:
    """Refuse weights that no optimiser has."""
    names = [name for name, _ in part.named_parameters()]
    if names:
        raise TrainingFailure(
            f"{where}: a term's parameters are not trained ({', '.join(names)}); a network's are: "
            "batch.model.backbone has them"
        )


@contextmanager
def unchanged(where: str, part: Any, places: bool = False) -> Iterator[None]:
    """Refuse what a term remembers elsewhere than in buffers; with `places` tensors may change in place."""
    before = _remembered(part, places)
    yield
    after = _remembered(part, places)
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    if changed:
        raise TrainingFailure(
            f"{where}: it changes its {', '.join(changed)}, which no checkpoint has and no captured step sees; what a "
            "term remembers is a buffer of an nn.Module, changed in place"
        )


def _remembered(part: Any, places: bool) -> dict[str, Any]:
    """Attributes of a term as something to compare: tensors by place and content, buffers by place alone."""

    def of(value: Any) -> Any:
        if isinstance(value, Tensor):
            return id(value), 0 if places else value._version
        if isinstance(value, Mapping):
            return {name: of(one) for name, one in value.items()}
        if isinstance(value, list | tuple | set | deque):
            return [of(one) for one in value]
        return value if isinstance(value, int | float | str | None) else id(value)

    modules = {"": part}
    if isinstance(part, nn.Module):
        modules = dict(part.named_modules())
    found = {}
    for prefix, module in modules.items():
        buffers = getattr(module, "_buffers", {})
        own = {n: v for n, v in getattr(module, "__dict__", {}).items() if n != "_buffers"}
        for name, value in ({n: id(b) for n, b in buffers.items()} | own).items():
            found[f"{prefix}.{name}".strip(".")] = of(value)
    return found


def full_weights(recipe: Recipe, counts: Sequence[int], under: Sequence[int]) -> np.ndarray:
    """[C] float64: the class weights of `loss.weight_rule`, before any deferral."""
    loss = recipe.loss
    if loss.weight_rule == "inverse":
        return inverse_weights(counts)
    if loss.weight_rule == "ratio":
        assert loss.weight_ratio is not None, "the recipe's own check"
        return ratio_weights(under, len(counts), loss.weight_ratio)
    return class_balanced_weights(counts, loss.beta)


def margin_weights(logits: Tensor, labels: Tensor, divergence: float, summed: bool) -> Tensor:
    """[C], sum C: FAAL's weights of a batch, the worst distribution p over classes with KL(uniform || p) <= r.

    p maximises sum p_c a_c, a_c the mean of max_k!=y p'_k - p'_y over the class's images; an absent class has -1. As
    published (`summed`) a_c is the sum over them, 0 for an absent class.
    """
    p = logits.softmax(dim=1)
    own = p.gather(1, labels[:, None]).squeeze(1)
    margins = p.scatter(1, labels[:, None], -1.0).amax(dim=1) - own  # [B]
    member = functional.one_hot(labels, logits.shape[1]).to(p.dtype)  # [B, C]
    sums, sizes = margins @ member, member.sum(dim=0)
    scores = sums if summed else torch.where(sizes > 0, sums / sizes.clamp(min=1.0), -1.0)
    return len(scores) * worst_distribution(scores, divergence)


#: of log((nu - max a) / (max a - min a)): outside of it weights are one class's, or equal
_LOG_RANGE, _PARTS, _ROUNDS = 40.0, 64, 8


def worst_distribution(scores: Tensor, divergence: float) -> Tensor:
    """[C], sum 1: argmax of p . a with KL(uniform || p) <= r, without a solver and without waiting for the device.

    p_c is proportional to 1 / (nu - a_c); KL falls as nu > max a grows, and nu is found by sections of its logarithm.
    """
    gaps = scores.amax() - scores  # [C] >= 0
    gaps = gaps / gaps.amax().clamp(min=torch.finfo(gaps.dtype).tiny)  # p does not depend on the scale
    steps = torch.linspace(0.0, 1.0, _PARTS, dtype=scores.dtype, device=scores.device)
    low, width = scores.new_full((), -_LOG_RANGE), 2 * _LOG_RANGE
    for _ in range(_ROUNDS):
        tried = low + width * steps  # [P]
        logs = -torch.log(tried.exp()[:, None] + gaps)  # [P, C]: log p up to a constant
        kl = logs.logsumexp(dim=1) - logs.mean(dim=1) - math.log(len(scores))
        beyond = (kl > divergence).sum().clamp(max=_PARTS - 1)  # sections whose lower end is too sharp
        width = width / (_PARTS - 1)
        low = low + width * (beyond - 1).clamp(min=0).to(low.dtype)
    return (-torch.log((low + width / 2).exp() + gaps)).softmax(dim=0)


def class_vector(
    field: str,
    values: Sequence[float],
    classes: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Tensor | None:
    """[C] of a recipe field that has a number for each class; None where it is empty."""
    if not values:
        return None
    if len(values) != classes:
        raise UserError(field, f"{classes} numbers are needed, one a class", f"{len(values)} numbers")
    return torch.tensor(values, dtype=dtype, device=device)
