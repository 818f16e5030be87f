"""The public loss ops: check the arguments, choose the backend, run it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from srat_kernels.backends import resolve_backend
from srat_kernels.checks import check_choice, check_float, check_labels, check_positive
from srat_kernels.loss.reference import margin_loss_reference, separation_loss_reference


class SratLoss(NamedTuple):
    """The scalars of Eq. 7: ``total = classification + separation_weight * separation``."""

    total: Tensor
    classification: Tensor
    separation: Tensor


def separation_loss(
    features: Tensor,
    labels: Tensor,
    *,
    temperature: float = 0.07,
    empty_anchors: str = "drop",
    backend: str = "auto",
) -> Tensor:
    """Batch supervised-contrastive separation loss (Eq. 6).

    Args:
        features: [B, D] float rows, already L2-normalised.
        labels: [B] int64 or int32.
        temperature: tau > 0.
        empty_anchors: what an anchor without a positive does to the mean: "drop" leaves it out,
            "zero" counts it as 0.
        backend: see `resolve_backend`.

    Returns:
        Scalar, float32 (float64 for float64 features), differentiable in `features`. 0 with zero gradient
        where no anchor has a positive.

    Raises:
        TypeError: wrong dtype.
        ValueError: wrong shape or device, empty batch, temperature <= 0, unknown choice.
    """
    check_float("features", features, 2)
    check_labels(labels, features.shape[0], features.device)
    check_positive("temperature", temperature)
    check_choice("empty_anchors", empty_anchors, ("drop", "zero"))
    resolve_backend(backend, features.device)
    return separation_loss_reference(features, labels, temperature=temperature, empty_anchors=empty_anchors)


def margin_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | None = None,
    margins: Tensor | None = None,
    scale: float = 1.0,
    focal_gamma: float = 0.0,
    focal_weighting: str = "outside",
    reduction: str = "weighted_mean",
    backend: str = "auto",
) -> Tensor:
    """Weighted CE, LDAM or focal loss (Table 4's L_cls): CE is ``margins=None``, LDAM ``margins=m, scale=30``.

    Args:
        logits: [B, C] float.
        labels: [B] int64 or int32 in [0, C).
        class_weights: [C] float or None for ones; read at every call, so it may change in place.
        margins: [C] float or None.
        scale: factor on the (margin-shifted) logits, > 0.
        focal_gamma: >= 0; 0 means no focal factor.
        focal_weighting: "outside" or "inside"; matters with `class_weights` and `focal_gamma` > 0 only.
        reduction: "weighted_mean" or "batch".
        backend: see `resolve_backend`.

    Returns:
        Scalar, float32 (float64 for float64 logits), differentiable in `logits`.

    Raises:
        TypeError: wrong dtype.
        ValueError: wrong shape or device, empty batch, number out of range, unknown choice.
    """
    check_float("logits", logits, 2)
    check_labels(labels, logits.shape[0], logits.device, logits.shape[1])
    for name, vector in (("class_weights", class_weights), ("margins", margins)):
        if vector is not None:
            check_float(name, vector, 1)
            if vector.shape[0] != logits.shape[1] or vector.device != logits.device:
                raise ValueError(
                    f"{name}: [{logits.shape[1]}] on {logits.device} is needed, "
                    f"got {list(vector.shape)} on {vector.device}"
                )
    check_positive("scale", scale)
    check_positive("focal_gamma", focal_gamma, zero=True)
    check_choice("focal_weighting", focal_weighting, ("outside", "inside"))
    check_choice("reduction", reduction, ("weighted_mean", "batch"))
    resolve_backend(backend, logits.device)
    return margin_loss_reference(
        logits,
        labels,
        class_weights=class_weights,
        margins=margins,
        scale=scale,
        focal_gamma=focal_gamma,
        focal_weighting=focal_weighting,
        reduction=reduction,
    )


def srat_loss(
    features: Tensor,
    logits: Tensor,
    labels: Tensor,
    *,
    separation_weight: float = 2.0,
    temperature: float = 0.07,
    empty_anchors: str = "drop",
    class_weights: Tensor | None = None,
    margins: Tensor | None = None,
    scale: float = 1.0,
    focal_gamma: float = 0.0,
    focal_weighting: str = "outside",
    reduction: str = "weighted_mean",
    backend: str = "auto",
) -> SratLoss:
    """Eq. 7: classification loss plus `separation_weight` times the separation loss of the same rows.

    Args:
        features: [B, D] float rows, already L2-normalised.
        logits: [B, C] float.
        labels: [B] int64 or int32 in [0, C).
        separation_weight: lambda >= 0.
        temperature: as in `separation_loss`.
        empty_anchors: as in `separation_loss`.
        class_weights: as in `margin_loss`.
        margins: as in `margin_loss`.
        scale: as in `margin_loss`.
        focal_gamma: as in `margin_loss`.
        focal_weighting: as in `margin_loss`.
        reduction: as in `margin_loss`.
        backend: see `resolve_backend`.

    Returns:
        `SratLoss` of scalars; ``total`` is the one to differentiate.

    Raises:
        TypeError: wrong dtype.
        ValueError: wrong shape or device, empty batch, number out of range, unknown choice.
    """
    check_positive("separation_weight", separation_weight, zero=True)
    classification = margin_loss(
        logits,
        labels,
        class_weights=class_weights,
        margins=margins,
        scale=scale,
        focal_gamma=focal_gamma,
        focal_weighting=focal_weighting,
        reduction=reduction,
        backend=backend,
    )
    separation = separation_loss(
        features, labels, temperature=temperature, empty_anchors=empty_anchors, backend=backend
    )
    return SratLoss(classification + separation_weight * separation, classification, separation)
