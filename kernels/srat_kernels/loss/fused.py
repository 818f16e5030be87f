"""The loss kernels as torch operators with gradients.

Registered with a fake implementation and an autograd formula, so that `torch.compile(fullgraph=True)` and CUDA graph
capture go through. Triton itself is imported when an operator first runs, not here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

#: Types that the kernels read; they compute in float32.
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@torch.library.custom_op("srat_kernels::srat_forward", mutates_args=())
def srat_forward(
    features: Tensor | None,
    logits: Tensor | None,
    labels: Tensor,
    class_weights: Tensor | None,
    margins: Tensor | None,
    bias: Tensor | None,
    inverse_temperature: Tensor | None,
    separation_weight: float,
    temperature: float,
    drop_empty: bool,
    scale: float,
    focal_gamma: float,
    focal_weighting: str,
    weighted_mean: bool,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Eq. 7 for one batch; either half may be left out.

    Args:
        features: [B, D] or None (separation = 0).
        logits: [B, C] or None (classification = 0).
        labels: [B].
        class_weights: [C] or None.
        margins: [C] or None.
        bias: [C] or None.
        inverse_temperature: [C] or None.
        separation_weight: lambda.
        temperature: tau.
        drop_empty: ``empty_anchors == "drop"``.
        scale: s of LDAM.
        focal_gamma: gamma.
        focal_weighting: "outside" or "inside".
        weighted_mean: ``reduction == "weighted_mean"``.
        precision: of the dot products.

    Returns:
        total, classification, separation (scalars); what the backward needs: L [B], 1/|P| [B], the logits' gradient
        before its common factor [B, C], the factors [2]. All float32.
    """
    from srat_kernels.loss.launch import run_forward

    outputs = _outputs(features, logits, labels)
    run_forward(
        features, logits, labels, class_weights, margins, bias, inverse_temperature, outputs,
        separation_weight=separation_weight, temperature=temperature, drop_empty=drop_empty, scale=scale,
        focal_gamma=focal_gamma, focal_weighting=focal_weighting, weighted_mean=weighted_mean, precision=precision,
    )  # fmt: skip
    return outputs


@srat_forward.register_fake
def _(
    features: Tensor | None, logits: Tensor | None, labels: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _outputs(features, logits, labels)


def _outputs(
    features: Tensor | None, logits: Tensor | None, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Unfilled outputs of `srat_forward`; the shapes depend on the inputs' shapes only."""

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=labels.device)

    anchors = 0 if features is None else labels.shape[0]
    gradient = empty(0, 0) if logits is None else empty(*logits.shape)
    return empty(), empty(), empty(), empty(anchors), empty(anchors), gradient, empty(2)


@torch.library.custom_op("srat_kernels::srat_backward", mutates_args=())
def srat_backward(
    features: Tensor | None,
    labels: Tensor,
    log_normaliser: Tensor,
    inverse_count: Tensor,
    logit_slope: Tensor,
    normalisers: Tensor,
    upstream_total: Tensor | None,
    upstream_classification: Tensor | None,
    upstream_separation: Tensor | None,
    logit_dtype: torch.dtype | None,
    separation_weight: float,
    temperature: float,
    precision: str,
) -> tuple[Tensor, Tensor]:
    """Gradients of the features and logits, in one launch. It has no derivative of its own.

    Args:
        features: [B, D] or None where their gradient is not wanted.
        labels: [B].
        log_normaliser: [B], from `srat_forward`.
        inverse_count: [B], from `srat_forward`.
        logit_slope: [B, C], from `srat_forward`.
        normalisers: [2], from `srat_forward`.
        upstream_total: gradient of total, scalar; None is zero.
        upstream_classification: gradient of classification, scalar; None is zero.
        upstream_separation: gradient of separation, scalar; None is zero.
        logit_dtype: of the logits; None where their gradient is not wanted.
        separation_weight: lambda.
        temperature: tau.
        precision: of the dot products.

    Returns:
        [B, D] and [B, C], contiguous, in the inputs' types; empty where not wanted.
    """
    from srat_kernels.loss.launch import run_backward

    gradients = _gradients(features, logit_slope, logit_dtype)
    run_backward(
        features, labels, (log_normaliser, inverse_count, logit_slope, normalisers),
        (upstream_total, upstream_classification, upstream_separation),
        None if features is None else gradients[0], None if logit_dtype is None else gradients[1],
        separation_weight=separation_weight, temperature=temperature, precision=precision,
    )  # fmt: skip
    return gradients


@srat_backward.register_fake
def _(
    features: Tensor | None,
    labels: Tensor,
    log_normaliser: Tensor,
    inverse_count: Tensor,
    logit_slope: Tensor,
    normalisers: Tensor,
    upstream_total: Tensor | None,
    upstream_classification: Tensor | None,
    upstream_separation: Tensor | None,
    logit_dtype: torch.dtype | None,
    *_: Any,
) -> tuple[Tensor, Tensor]:
    return _gradients(features, logit_slope, logit_dtype)


def _gradients(
    features: Tensor | None, logit_slope: Tensor, logit_dtype: torch.dtype | None
) -> tuple[Tensor, Tensor]:
    device = logit_slope.device
    return (
        torch.empty((0, 0), device=device)
        if features is None
        else torch.empty(features.shape, dtype=features.dtype, device=device),
        torch.empty((0, 0), device=device)
        if logit_dtype is None
        else torch.empty(logit_slope.shape, dtype=logit_dtype, device=device),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    features, logits, labels = inputs[:3]
    ctx.separation_weight, ctx.temperature, ctx.precision = inputs[7], inputs[8], inputs[14]
    ctx.logit_dtype = None if logits is None else logits.dtype
    ctx.set_materialize_grads(False)  # a scalar that nobody differentiates costs no launch
    ctx.save_for_backward(features, labels, *output[3:])


def _backward(
    ctx: Any,
    upstream_total: Tensor | None,
    upstream_classification: Tensor | None,
    upstream_separation: Tensor | None,
    *_: Tensor | None,
) -> tuple[Tensor | None, ...]:
    features, *saved = ctx.saved_tensors
    wants_features, wants_logits = ctx.needs_input_grad[:2]
    upstream = (upstream_total, upstream_classification, upstream_separation)
    if all(gradient is None for gradient in upstream):
        return (None,) * 15
    feature_gradient, logit_gradient = srat_backward(
        features if wants_features else None, *saved, *upstream,
        ctx.logit_dtype if wants_logits else None, ctx.separation_weight, ctx.temperature, ctx.precision,
    )  # fmt: skip
    return (
        feature_gradient if wants_features else None,
        logit_gradient if wants_logits else None,
        *(None,) * 13,
    )


srat_forward.register_autograd(_backward, setup_context=_setup_context)
