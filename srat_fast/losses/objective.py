"""Training objective of a method's row: L_cls plus its further terms, each times its coefficient (Eq. 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

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
    """

    recipe: ResolvedRecipe
    counts: Sequence[int]
    under: Sequence[int]
    device: torch.device
    class_weights: Tensor

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
        weights = self.class_weights.to(losses.dtype)[labels]
        total = (weights * losses).sum()
        return total / (weights.sum() if self.reduction == "weighted_mean" else len(labels))


class Term(Protocol):
    """What `srat_fast.registry.term` registers: a class built from a `Context` and called with a `Batch`.

    It may set `clean = True` to have the batch's clean images, and have `raw(batch)`, which `attack.loss = objective`
    climbs in place of the term itself.
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

    Attributes:
        names: of what a call returns: "total", "classification" and the row's further terms.
        clean: whether a term reads the clean images.
    """

    def __init__(
        self, recipe: ResolvedRecipe, counts: Sequence[int], under: Sequence[int], device: torch.device
    ) -> None:
        row = recipe.row
        self._weighting, self._defer_epoch = row.weighting, recipe.optim.defer_epoch
        self._full = torch.from_numpy(full_weights(recipe, counts, under)).float().to(device)
        self.class_weights = torch.ones_like(self._full)
        context = Context(recipe, counts, under, device, self.class_weights)
        self._base: Any = term[row.base](context)
        self._terms: dict[str, tuple[Any, float]] = {
            name: (term[name](context), coefficient) for name, coefficient in row.terms.items()
        }
        #: both in one operation, which reads the batch once
        self._fused = getattr(self._base, "fused", False) and "separation" in self._terms
        self.names = ("total", "classification", *row.terms)
        self.clean = any(getattr(part, "clean", False) for part in (self._base, *self._further()))

    def _further(self) -> list[Any]:
        return [part for part, _ in self._terms.values()]

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

    def raw_classification(self, batch: Batch) -> Tensor:
        """What an attack climbs with `attack.loss = objective`: the weighted L_cls, without margins and scale."""
        return getattr(self._base, "raw", self._base)(batch)

    def _scalar(self, name: str, part: Any, batch: Batch) -> Tensor:
        value = part(batch)
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        if shape != ():
            where = described(part) or name
            raise TrainingFailure(f"{where}: the term returns {shape}; a scalar is needed, shape ()")
        return value

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """The scalars by name, in the order of `names`; "total" is the one to differentiate."""
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
            values = {"classification": total}
        for name, (part, coefficient) in self._terms.items():
            if name not in values:
                values[name] = self._scalar(name, part, batch)
                total = total + coefficient * values[name]
        return {"total": total} | {name: values[name] for name in self.names[1:]}


def full_weights(recipe: Recipe, counts: Sequence[int], under: Sequence[int]) -> np.ndarray:
    """[C] float64: the class weights of `loss.weight_rule`, before any deferral."""
    loss = recipe.loss
    if loss.weight_rule == "inverse":
        return inverse_weights(counts)
    if loss.weight_rule == "ratio":
        assert loss.weight_ratio is not None, "the recipe's own check"
        return ratio_weights(under, len(counts), loss.weight_ratio)
    return class_balanced_weights(counts, loss.beta)


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
