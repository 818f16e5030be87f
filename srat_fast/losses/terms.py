"""Terms of the training objective: the classification losses and the separation loss, on the fused operations.

A term is built once a run from its `Context` and called once a step with the `Batch`; it returns a scalar.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from srat_fast.losses.objective import Context
from srat_fast.losses.weighting import ldam_margins
from srat_fast.models.batch import Batch
from srat_fast.registry import term
from srat_kernels import margin_loss, separation_loss


class Margin:
    """L_cls as a setting of `srat_kernels.margin_loss`: subclasses add margins, scale or focal factor."""

    def __init__(self, context: Context) -> None:
        self.arguments: dict[str, Any] = {
            "class_weights": context.class_weights,
            "reduction": context.reduction,
        }

    def __call__(self, batch: Batch) -> Tensor:
        """w * L_cls, margins and scale included."""
        return margin_loss(batch.logits, batch.labels, **self.arguments)

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
