"""The training objective of any method (Eq. 7): a recipe and class counts enter; logits and features give scalars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from srat_fast.losses.weighting import class_balanced_weights, inverse_weights, ldam_margins, ratio_weights
from srat_fast.recipe import Recipe, ResolvedRecipe
from srat_kernels import SratLoss, margin_loss, srat_loss


def full_weights(recipe: Recipe, counts: Sequence[int], under: Sequence[int]) -> np.ndarray:
    """The class weights of `loss.weight_rule`, before any deferral.

    Args:
        recipe: its `loss` section.
        counts: training images per class.
        under: labels of the under-represented half.

    Returns:
        [C] float64.
    """
    loss = recipe.loss
    if loss.weight_rule == "inverse":
        return inverse_weights(counts)
    if loss.weight_rule == "ratio":
        assert loss.weight_ratio is not None, "the recipe's own check"
        return ratio_weights(under, len(counts), loss.weight_ratio)
    return class_balanced_weights(counts, loss.beta)


class Objective:
    """L = L_cls(f(x'), y; w) + lambda L_sep(z'), with the row's base loss, weights and separation.

    The weights live in one tensor that changes in place at the deferral epoch, so that a captured or compiled step
    sees the change without being rebuilt.

    Args:
        recipe: resolved.
        counts: training images per class.
        under: labels of the under-represented half.
        device: of the tensors.
    """

    def __init__(
        self, recipe: ResolvedRecipe, counts: Sequence[int], under: Sequence[int], device: torch.device
    ) -> None:
        row, loss = recipe.row, recipe.loss
        self._weighting, self._defer_epoch = row.weighting, recipe.optim.defer_epoch
        self.separation = row.separation
        self._full = torch.from_numpy(full_weights(recipe, counts, under)).float().to(device)
        self.class_weights = torch.ones_like(self._full)
        margins = torch.from_numpy(ldam_margins(counts, loss.ldam_max_margin)).float().to(device)
        base: dict[str, dict[str, Any]] = {
            "ce": {},
            "focal": {"focal_gamma": loss.focal_gamma, "focal_weighting": loss.focal_weighting},
            "ldam": {"margins": margins, "scale": loss.ldam_scale},
        }
        if row.base not in base:  # never plain cross-entropy under another name
            raise NotImplementedError(f"loss.base = {row.base!r} has no formula here")
        self._classification: dict[str, Any] = {
            "class_weights": self.class_weights,
            "reduction": recipe.reduction,
            **base[row.base],
        }
        self._separation: dict[str, Any] = {
            "separation_weight": loss.separation_weight,
            "temperature": loss.temperature,
            "empty_anchors": loss.empty_anchors,
        }

    def weights_active(self, epoch: int) -> bool:
        """Whether the class weights apply: always, never, or from `optim.defer_epoch` on (method.md).

        Args:
            epoch: from 0.

        Returns:
            True where they do.
        """
        if self._weighting == "deferred":
            return epoch >= self._defer_epoch
        return self._weighting == "balanced"

    def start_epoch(self, epoch: int) -> None:
        """Put the epoch's class weights in force.

        Args:
            epoch: from 0.
        """
        if self.weights_active(epoch):
            self.class_weights.copy_(self._full)
        else:
            self.class_weights.fill_(1.0)

    def classification(self, logits: Tensor, labels: Tensor) -> Tensor:
        """L_cls alone, margins and scale included.

        Args:
            logits: [B, C].
            labels: [B].

        Returns:
            Scalar.
        """
        return margin_loss(logits, labels, **self._classification)

    def raw_classification(self, logits: Tensor, labels: Tensor) -> Tensor:
        """w * L_cls on raw logits, without LDAM's margin and scale: the inner maximisation of the paper's text.

        Args:
            logits: [B, C].
            labels: [B].

        Returns:
            Scalar.
        """
        return margin_loss(logits, labels, **(self._classification | {"margins": None, "scale": 1.0}))

    def __call__(self, features: Tensor | None, logits: Tensor, labels: Tensor) -> SratLoss:
        """Eq. 7 on one batch.

        Args:
            features: [B, D] unit rows; not read (may be None) where the method has no separation.
            logits: [B, C].
            labels: [B].

        Returns:
            The scalars; separation is 0 where the method has none.
        """
        if not self.separation or features is None:
            value = self.classification(logits, labels)
            return SratLoss(value, value, torch.zeros_like(value))
        return srat_loss(features, logits, labels, **self._separation, **self._classification)
