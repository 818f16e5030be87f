"""The public loss ops: check the arguments, choose the backend, run it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from srat_kernels.backends import choose_backend, interpreting
from srat_kernels.checks import check_choice, check_float, check_labels, check_positive
from srat_kernels.loss.fused import FLOATS, srat_forward
from srat_kernels.loss.reference import margin_loss_reference, separation_loss_reference

#: How the kernels multiply: "tf32x3" splits float32 for tensor cores, "ieee" does without them, "bf16" rounds first.
PRECISIONS = ("tf32x3", "ieee", "bf16")


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
    precision: str = "tf32x3",
    backend: str = "auto",
) -> Tensor:
    """Batch supervised-contrastive separation loss (Eq. 6).

    Args:
        features: [B, D] float rows, already L2-normalised (longer ones: less accurate gradients, `README.md`).
        labels: [B] int64 or int32.
        temperature: tau > 0.
        empty_anchors: what an anchor without a positive does to the mean: "drop" leaves it out,
            "zero" counts it as 0.
        precision: of the kernels' dot products, one of `PRECISIONS`; sums are float32 always. The "torch" backend
            computes in float32 whatever it says.
        backend: see `resolve_backend`. The kernels take float32, bfloat16, float16; "auto" leaves float64 to "torch".

    Returns:
        Scalar, float32 (float64 for float64 features), differentiable in `features`. 0 with zero gradient
        where no anchor has a positive.

    Raises:
        TypeError: wrong dtype.
        ValueError: wrong shape or device, empty batch, temperature <= 0, unknown choice.
    """
    _check_separation(features, labels, temperature, empty_anchors)
    dtypes = {"features": features.dtype}
    if choose_backend("separation_loss", backend, features.device, dtypes, FLOATS) == "torch":
        check_choice("precision", precision, PRECISIONS)
        return separation_loss_reference(
            features, labels, temperature=temperature, empty_anchors=empty_anchors
        )
    _check_precision(precision)
    drop = empty_anchors == "drop"
    return srat_forward(
        features, None, labels, None, None, None, None,
        1.0, temperature, drop, 1.0, 0.0, "outside", False, precision,
    )[2]  # fmt: skip


def margin_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | None = None,
    margins: Tensor | None = None,
    bias: Tensor | None = None,
    inverse_temperature: Tensor | None = None,
    scale: float = 1.0,
    focal_gamma: float = 0.0,
    focal_weighting: str = "outside",
    reduction: str = "weighted_mean",
    backend: str = "auto",
) -> Tensor:
    """Weighted cross-entropy of adjusted logits, or its focal loss (Table 4's L_cls and most of the field's).

        u_k = scale (logits_k inverse_temperature_k - margins_k [k = label]) + bias_k,   l = -log softmax(u)[label]

    CE: nothing given. LDAM: ``margins=m, scale=30``. CosFace, HE: one margin for all classes, cosine logits. RoBal:
    margins that grow with the frequency, ``bias=tau * log_prior``. Logit adjustment, balanced softmax:
    ``bias=tau * log_prior``. CDT: ``inverse_temperature=(counts / counts.max()) ** tau``. The focal factor is of l.

    Args:
        logits: [B, C] float.
        labels: [B] int64 or int32 in [0, C). On a GPU the range cannot be checked without waiting for it: the kernel
            then reads nothing out of bounds and the loss comes out NaN.
        class_weights: [C] float or None for ones; read at every call, so it may change in place.
        margins: [C] float or None for zeros; taken from the true class.
        bias: [C] float or None for zeros; added after the scale. A class at -inf has probability 0.
        inverse_temperature: [C] float, finite and > 0, or None for ones; the range is checked on a CPU only.
        scale: factor on the tempered and margin-shifted logits, > 0.
        focal_gamma: >= 0; 0 means no focal factor.
        focal_weighting: "outside" or "inside"; matters with `class_weights` and `focal_gamma` > 0 only.
        reduction: "weighted_mean" or "batch".
        backend: see `resolve_backend`; dtypes as in `separation_loss`.

    Returns:
        Scalar, float32 (float64 for float64 logits), differentiable in `logits`; on "torch" in the vectors as well,
        which the kernels refuse where they require a gradient.

    Raises:
        TypeError: wrong dtype.
        ValueError: wrong shape or device, empty batch, number out of range, unknown choice.
    """
    vectors = {
        "class_weights": class_weights,
        "margins": margins,
        "bias": bias,
        "inverse_temperature": inverse_temperature,
    }
    _check_margin(logits, labels, vectors, scale, focal_gamma, focal_weighting, reduction)
    if choose_backend("margin_loss", backend, logits.device, {"logits": logits.dtype}, FLOATS) == "torch":
        return margin_loss_reference(
            logits,
            labels,
            **vectors,
            scale=scale,
            focal_gamma=focal_gamma,
            focal_weighting=focal_weighting,
            reduction=reduction,
        )
    _check_constant(vectors)
    mean = reduction == "weighted_mean"
    return srat_forward(
        None, logits, labels, *vectors.values(),
        0.0, 1.0, True, scale, focal_gamma, focal_weighting, mean, "ieee",
    )[1]  # fmt: skip


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
    bias: Tensor | None = None,
    inverse_temperature: Tensor | None = None,
    scale: float = 1.0,
    focal_gamma: float = 0.0,
    focal_weighting: str = "outside",
    reduction: str = "weighted_mean",
    precision: str = "tf32x3",
    backend: str = "auto",
) -> SratLoss:
    """Eq. 7: classification loss plus `separation_weight` times the separation loss of the same rows.

    Args:
        features: [B, D] float rows, already L2-normalised (longer ones: less accurate gradients, `README.md`).
        logits: [B, C] float.
        labels: [B] int64 or int32 in [0, C).
        separation_weight: lambda >= 0.
        temperature: as in `separation_loss`.
        empty_anchors: as in `separation_loss`.
        class_weights: as in `margin_loss`.
        margins: as in `margin_loss`.
        bias: as in `margin_loss`.
        inverse_temperature: as in `margin_loss`.
        scale: as in `margin_loss`.
        focal_gamma: as in `margin_loss`.
        focal_weighting: as in `margin_loss`.
        reduction: as in `margin_loss`.
        precision: as in `separation_loss`.
        backend: see `resolve_backend`.

    Returns:
        `SratLoss` of scalars; ``total`` is the one to differentiate.

    Raises:
        TypeError: wrong dtype.
        ValueError: wrong shape or device, empty batch, number out of range, unknown choice.
    """
    check_positive("separation_weight", separation_weight, zero=True)
    vectors = {
        "class_weights": class_weights,
        "margins": margins,
        "bias": bias,
        "inverse_temperature": inverse_temperature,
    }
    _check_margin(logits, labels, vectors, scale, focal_gamma, focal_weighting, reduction)
    _check_separation(features, labels, temperature, empty_anchors)
    dtypes = {"features": features.dtype, "logits": logits.dtype}
    if choose_backend("srat_loss", backend, features.device, dtypes, FLOATS) == "torch":
        check_choice("precision", precision, PRECISIONS)
        classification = margin_loss_reference(
            logits,
            labels,
            **vectors,
            scale=scale,
            focal_gamma=focal_gamma,
            focal_weighting=focal_weighting,
            reduction=reduction,
        )
        separation = separation_loss_reference(
            features, labels, temperature=temperature, empty_anchors=empty_anchors
        )
        return SratLoss(classification + separation_weight * separation, classification, separation)
    _check_precision(precision)
    _check_constant(vectors)
    total, classification, separation, *_ = srat_forward(
        features, logits, labels, *vectors.values(), separation_weight, temperature, empty_anchors == "drop", scale,
        focal_gamma, focal_weighting, reduction == "weighted_mean", precision,
    )  # fmt: skip
    return SratLoss(total, classification, separation)


def _check_separation(features: Tensor, labels: Tensor, temperature: float, empty_anchors: str) -> None:
    check_float("features", features, 2)
    check_labels(labels, features.shape[0], features.device)
    check_positive("temperature", temperature)
    check_choice("empty_anchors", empty_anchors, ("drop", "zero"))


def _check_margin(
    logits: Tensor,
    labels: Tensor,
    vectors: dict[str, Tensor | None],
    scale: float,
    focal_gamma: float,
    focal_weighting: str,
    reduction: str,
) -> None:
    check_float("logits", logits, 2)
    check_labels(labels, logits.shape[0], logits.device, logits.shape[1])
    for name, vector in vectors.items():
        if vector is not None:
            check_float(name, vector, 1)
            if vector.shape[0] != logits.shape[1] or vector.device != logits.device:
                raise ValueError(
                    f"{name}: [{logits.shape[1]}] on {logits.device} is needed, "
                    f"got {list(vector.shape)} on {vector.device}"
                )
    sharpness = vectors["inverse_temperature"]
    if sharpness is not None and sharpness.device.type == "cpu" and not torch.compiler.is_compiling():
        low, high = (float(x) for x in sharpness.detach().aminmax())
        if not 0 < low <= high < float("inf"):
            raise ValueError(f"inverse_temperature: finite numbers > 0 are needed, got {low} to {high}")
    check_positive("scale", scale)
    check_positive("focal_gamma", focal_gamma, zero=True)
    check_choice("focal_weighting", focal_weighting, ("outside", "inside"))
    check_choice("reduction", reduction, ("weighted_mean", "batch"))


def _check_constant(vectors: dict[str, Tensor | None]) -> None:
    """Refuse a vector of which a gradient is wanted: the kernels would leave it out without a word."""
    for name, vector in vectors.items():
        if vector is not None and vector.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f'{name}: requires a gradient, which the kernels do not give; use backend = "torch"'
            )


def _check_precision(precision: str) -> None:
    """Refuse what the kernels cannot multiply in: the interpreter's bfloat16 products are wrong without a word."""
    check_choice("precision", precision, PRECISIONS[:2] if interpreting() else PRECISIONS)
