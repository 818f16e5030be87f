"""The public loss ops, and the kernels as torch operators with gradients.

The operators have fake implementations and an autograd formula, so that `torch.compile(fullgraph=True)` and CUDA graph
capture go through; triton is imported when one first runs, not here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from srat_kernels.backends import choose_backend, interpreting
from srat_kernels.checks import check_choice, check_float, check_labels, check_positive
from srat_kernels.loss.reference import margin_loss_reference, separation_loss_reference

#: How the kernels multiply: "tf32x3" splits float32 for tensor cores, "ieee" does without them, "bf16" rounds first.
PRECISIONS = ("tf32x3", "ieee", "bf16")
#: Types that the kernels read; they compute in float32.
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


class SratLoss(NamedTuple):
    """The scalars of Eq. 7: ``total = classification + separation_weight * separation``."""

    total: Tensor
    classification: Tensor
    separation: Tensor


class Vectors(NamedTuple):
    """[C] each, or None."""

    class_weights: Tensor | None = None
    margins: Tensor | None = None
    bias: Tensor | None = None
    inverse_temperature: Tensor | None = None


class Settings(NamedTuple):
    """Numbers and choices of Eq. 7; an operator takes them one by one, in this order."""

    separation_weight: float = 0.0
    temperature: float = 1.0
    drop_empty: bool = True
    scale: float = 1.0
    focal_gamma: float = 0.0
    focal_weighting: str = "outside"
    weighted_mean: bool = False
    precision: str = "ieee"


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
    settings = Settings(1.0, temperature, empty_anchors == "drop", precision=precision)
    return srat_forward(features, None, labels, *Vectors(), *settings)[2]


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
    vectors = Vectors(class_weights, margins, bias, inverse_temperature)
    choices: dict[str, Any] = {
        "scale": scale, "focal_gamma": focal_gamma, "focal_weighting": focal_weighting, "reduction": reduction,
    }  # fmt: skip
    _check_margin(logits, labels, vectors, **choices)
    if choose_backend("margin_loss", backend, logits.device, {"logits": logits.dtype}, FLOATS) == "torch":
        return margin_loss_reference(logits, labels, **vectors._asdict(), **choices)
    _check_constant(vectors)
    settings = Settings(0.0, 1.0, True, scale, focal_gamma, focal_weighting, reduction == "weighted_mean")
    return srat_forward(None, logits, labels, *vectors, *settings)[1]


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
    vectors = Vectors(class_weights, margins, bias, inverse_temperature)
    choices: dict[str, Any] = {
        "scale": scale, "focal_gamma": focal_gamma, "focal_weighting": focal_weighting, "reduction": reduction,
    }  # fmt: skip
    _check_margin(logits, labels, vectors, **choices)
    _check_separation(features, labels, temperature, empty_anchors)
    dtypes = {"features": features.dtype, "logits": logits.dtype}
    if choose_backend("srat_loss", backend, features.device, dtypes, FLOATS) == "torch":
        check_choice("precision", precision, PRECISIONS)
        classification = margin_loss_reference(logits, labels, **vectors._asdict(), **choices)
        separation = separation_loss_reference(
            features, labels, temperature=temperature, empty_anchors=empty_anchors
        )
        return SratLoss(classification + separation_weight * separation, classification, separation)
    _check_precision(precision)
    _check_constant(vectors)
    settings = Settings(
        separation_weight, temperature, empty_anchors == "drop",
        scale, focal_gamma, focal_weighting, reduction == "weighted_mean", precision,
    )  # fmt: skip
    total, classification, separation, *_ = srat_forward(features, logits, labels, *vectors, *settings)
    return SratLoss(total, classification, separation)


def _check_separation(features: Tensor, labels: Tensor, temperature: float, empty_anchors: str) -> None:
    check_float("features", features, 2)
    check_labels(labels, features.shape[0], features.device)
    check_positive("temperature", temperature)
    check_choice("empty_anchors", empty_anchors, ("drop", "zero"))


def _check_margin(
    logits: Tensor,
    labels: Tensor,
    vectors: Vectors,
    *,
    scale: float,
    focal_gamma: float,
    focal_weighting: str,
    reduction: str,
) -> None:
    check_float("logits", logits, 2)
    check_labels(labels, logits.shape[0], logits.device, logits.shape[1])
    for name, vector in vectors._asdict().items():
        if vector is not None:
            check_float(name, vector, 1)
            if vector.shape[0] != logits.shape[1] or vector.device != logits.device:
                raise ValueError(
                    f"{name}: [{logits.shape[1]}] on {logits.device} is needed, "
                    f"got {list(vector.shape)} on {vector.device}"
                )
    sharpness = vectors.inverse_temperature
    if sharpness is not None and sharpness.device.type == "cpu" and not torch.compiler.is_compiling():
        low, high = (float(x) for x in sharpness.detach().aminmax())
        if not 0 < low <= high < float("inf"):
            raise ValueError(f"inverse_temperature: finite numbers > 0 are needed, got {low} to {high}")
    check_positive("scale", scale)
    check_positive("focal_gamma", focal_gamma, zero=True)
    check_choice("focal_weighting", focal_weighting, ("outside", "inside"))
    check_choice("reduction", reduction, ("weighted_mean", "batch"))


def _check_constant(vectors: Vectors) -> None:
    """Refuse a vector of which a gradient is wanted: the kernels would leave it out without a word."""
    for name, vector in vectors._asdict().items():
        if vector is not None and vector.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f'{name}: requires a gradient, which the kernels do not give; use backend = "torch"'
            )


def _check_precision(precision: str) -> None:
    """Refuse what the kernels cannot multiply in: the interpreter's bfloat16 products are wrong without a word."""
    check_choice("precision", precision, PRECISIONS[:2] if interpreting() else PRECISIONS)


_VECTORS = "Tensor? class_weights, Tensor? margins, Tensor? bias, Tensor? inverse_temperature"
_SETTINGS = (
    "float separation_weight, float temperature, bool drop_empty, float scale, "
    "float focal_gamma, str focal_weighting, bool weighted_mean, str precision"
)


@torch.library.custom_op(
    "srat_kernels::srat_forward",
    mutates_args=(),
    schema=f"(Tensor? features, Tensor? logits, Tensor labels, {_VECTORS}, {_SETTINGS}) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def srat_forward(
    features: Tensor | None, logits: Tensor | None, labels: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    """Eq. 7 for one batch, `rest` the `Vectors` and `Settings`; either half may be left out and is 0 then.

    Returns total, classification, separation (scalars) and what the backward needs: L [B], 1/|P| [B], the logits'
    gradient before its common factor [B, C], the factors [2]. All float32.
    """
    from srat_kernels.loss.kernels import run_forward

    outputs = _outputs(features, logits, labels)
    run_forward(features, logits, labels, Vectors(*rest[:4]), outputs, Settings(*rest[4:]))
    return outputs


@srat_forward.register_fake
def _outputs(features: Tensor | None, logits: Tensor | None, labels: Tensor, *_: Any) -> tuple[Tensor, ...]:
    """Unfilled outputs of `srat_forward`; the shapes depend on the inputs' shapes only."""

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=labels.device)

    anchors = 0 if features is None else labels.shape[0]
    gradient = empty(0, 0) if logits is None else empty(*logits.shape)
    return empty(), empty(), empty(), empty(anchors), empty(anchors), gradient, empty(2)


@torch.library.custom_op(
    "srat_kernels::srat_backward",
    mutates_args=(),
    schema="(Tensor? features, Tensor labels, Tensor log_normaliser, Tensor inverse_count, Tensor logit_slope, "
    "Tensor normalisers, Tensor? upstream_total, Tensor? upstream_classification, Tensor? upstream_separation, "
    f"ScalarType? logit_dtype, {_SETTINGS}) -> (Tensor, Tensor)",
)
def srat_backward(features: Tensor | None, labels: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """Gradients of features [B, D] and logits [B, C] in one launch, in their types, empty where not wanted.

    `rest` is what `srat_forward` saved, the gradients of its three scalars (None is zero), the logits' dtype (None:
    their gradient is not wanted) and the `Settings`. It has no derivative of its own.
    """
    from srat_kernels.loss.kernels import run_backward

    saved, upstream, dtype, settings = rest[:4], rest[4:7], rest[7], Settings(*rest[8:])
    gradients = _gradients(features, labels, *rest)
    run_backward(
        features, labels, saved, upstream,
        None if features is None else gradients[0], None if dtype is None else gradients[1], settings,
    )  # fmt: skip
    return gradients


@srat_backward.register_fake
def _gradients(features: Tensor | None, labels: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """Unfilled outputs of `srat_backward`."""
    slope, dtype = rest[2], rest[7]
    feature_shape, feature_dtype = ((0, 0), None) if features is None else (features.shape, features.dtype)
    return (
        torch.empty(feature_shape, dtype=feature_dtype, device=labels.device),
        torch.empty((0, 0) if dtype is None else slope.shape, dtype=dtype, device=labels.device),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    features, logits, labels = inputs[:3]
    ctx.settings, ctx.logit_dtype = inputs[7:], None if logits is None else logits.dtype
    ctx.set_materialize_grads(False)  # a scalar that nobody differentiates costs no launch
    ctx.save_for_backward(features, labels, *output[3:])


def _backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
    features, *saved = ctx.saved_tensors
    wants_features, wants_logits = ctx.needs_input_grad[:2]
    constants = (None,) * (1 + len(Vectors._fields) + len(Settings._fields))
    if all(gradient is None for gradient in upstream[:3]):
        return None, None, *constants
    feature_gradient, logit_gradient = srat_backward(
        features if wants_features else None, *saved, *upstream[:3],
        ctx.logit_dtype if wants_logits else None, *ctx.settings,
    )  # fmt: skip
    return (
        feature_gradient if wants_features else None,
        logit_gradient if wants_logits else None,
        *constants,
    )


srat_forward.register_autograd(_backward, setup_context=_setup_context)
