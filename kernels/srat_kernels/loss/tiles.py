# mypy: allow-untyped-defs, allow-incomplete-defs
"""What one program of a loss kernel computes of a tile, in registers.

Used by `forward_kernels.py` and `backward_kernel.py`; nothing here writes to memory except the logits' gradient.
"""

from __future__ import annotations

from srat_kernels.jit import tl, triton


@triton.jit
def matmul(left, right, PRECISION: tl.constexpr):
    """A product with float32 accumulation.

    Args:
        left: [M, K] float32.
        right: [K, N] float32.
        PRECISION: "tf32x3", "ieee" or "bf16".

    Returns:
        [M, N] float32.
    """
    if PRECISION == "bf16":
        product = tl.dot(left.to(tl.bfloat16), right.to(tl.bfloat16))
    else:
        product = tl.dot(left, right, input_precision=PRECISION)
    return product


@triton.jit
def similarity(
    features, rows, keys, batch, dims, stride_row, stride_dim, factor,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """factor * z_i . z_j for a tile of anchors and keys.

    Each product is scaled on its way into the sum. That costs nothing (it is the multiply of an FMA) and keeps
    the compiler from chaining the tensor cores' own accumulator, which truncates, through all of D.

    Args:
        features: [B, D] pointer, any float type.
        rows: [BLOCK_M] anchors. keys: [BLOCK_N] keys. Those >= batch give 0.
        batch: B. dims: D.
        stride_row: of features. stride_dim: of features.
        factor: log2(e) / tau.
        BLOCK_M: anchors. BLOCK_N: keys. BLOCK_K: columns of a step.
        PRECISION: see `matmul`.

    Returns:
        [BLOCK_M, BLOCK_N] float32.
    """
    tile = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    row_offsets = rows.to(tl.int64)[:, None] * stride_row
    key_offsets = keys.to(tl.int64)[None, :] * stride_row
    for start in range(0, dims, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        left = tl.load(
            features + row_offsets + k[None, :] * stride_dim,
            mask=(rows < batch)[:, None] & (k < dims)[None, :],
            other=0.0,
        ).to(tl.float32)
        right = tl.load(
            features + key_offsets + k[:, None] * stride_dim,
            mask=(k < dims)[:, None] & (keys < batch)[None, :],
            other=0.0,
        ).to(tl.float32)
        tile += matmul(left, right, PRECISION) * factor
    return tile


@triton.jit
def one_minus_exp(x):
    """1 - e^-x without cancellation at small x: Taylor's series where x < 1/2 (next term below 1e-9).

    Args:
        x: any values.

    Returns:
        As many.
    """
    series = 1.0 - x * (1.0 / 9.0)
    series = 1.0 - x * (1.0 / 8.0) * series
    series = 1.0 - x * (1.0 / 7.0) * series
    series = 1.0 - x * (1.0 / 6.0) * series
    series = 1.0 - x * (1.0 / 5.0) * series
    series = 1.0 - x * (1.0 / 4.0) * series
    series = 1.0 - x * (1.0 / 3.0) * series
    series = 1.0 - x * (1.0 / 2.0) * series
    return tl.where(tl.abs(x) < 0.5, x * series, 1.0 - tl.exp(-x))


@triton.jit
def focal(x, gamma):
    """(1 - e^-x)^gamma x and its derivative; the clamp and its zero gradient are the reference's.

    Args:
        x: losses, weighted or not.
        gamma: > 0.

    Returns:
        Values and derivatives.
    """
    tiny: tl.constexpr = 1.1754943508222875e-38
    raw = one_minus_exp(x)
    q = tl.where(raw < tiny, tiny, raw)  # a comparison keeps NaN, which a maximum would drop
    power = tl.exp2(gamma * tl.log2(q))
    slope = tl.where(raw < tiny, 0.0, gamma * (power / q) * tl.exp(-x) * x)
    return power * x, power + slope


@triton.jit
def shifted_logits(
    logits, biases, inverse_temperatures, rows, start, target, margin,
    batch, classes, stride_row, stride_class, scale, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """u_ic = scale (logit_ic / T_c - margin_i [c = y_i]) + bias_c for the BLOCK_C classes from `start`.

    Past the last class u is -inf.

    Args:
        logits: [B, C] pointer.
        biases: [C] pointer or None. inverse_temperatures: [C] pointer or None.
        rows: [M] rows of the program.
        start: first class.
        target: [M] y_i. margin: [M] the margin of y_i.
        batch: B. classes: C.
        stride_row: of logits. stride_class: of logits.
        scale: s of LDAM.
        BLOCK_C: classes of a tile.

    Returns:
        u [M, BLOCK_C]; whether c = y_i [M, BLOCK_C]; the classes c [BLOCK_C]; 1 / T_c [BLOCK_C], 1 where None.
    """
    c = start + tl.arange(0, BLOCK_C)
    hit = c[None, :] == target[:, None]
    u = tl.load(
        logits + rows.to(tl.int64)[:, None] * stride_row + c[None, :] * stride_class,
        mask=(rows < batch)[:, None] & (c < classes)[None, :],
        other=0.0,
    ).to(tl.float32)
    sharpness = tl.full((BLOCK_C,), 1.0, tl.float32)
    if inverse_temperatures is not None:
        sharpness = tl.load(inverse_temperatures + c, mask=c < classes, other=1.0).to(tl.float32)
        u *= sharpness[None, :]
    u = (u - tl.where(hit, margin[:, None], 0.0)) * scale
    if biases is not None:
        u += tl.load(biases + c, mask=c < classes, other=0.0).to(tl.float32)[None, :]
    return tl.where((c < classes)[None, :], u, float("-inf")), hit, c, sharpness


@triton.jit
def margin_rows(
    logits, labels, class_weights, margins, biases, inverse_temperatures, gradient, rows,
    batch, classes, stride_row, stride_class, stride_label, scale, gamma,
    FOCAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Per-row margin loss f_i and weight w_i; writes df_i/dlogits, not yet normalised, to `gradient` [B, C].

    A label outside [0, C) is never used as an index: its row reads class 0 and comes out NaN.

    Args:
        logits: [B, C] pointer. labels: [B] pointer.
        class_weights: [C] pointer or None. margins: [C] pointer or None.
        biases: [C] pointer or None. inverse_temperatures: [C] pointer or None. All four are contiguous.
        gradient: [B, C] float32 pointer, contiguous; written.
        rows: [BLOCK_M] rows of the program.
        batch: B. classes: C.
        stride_row: of logits. stride_class: of logits.
        stride_label: of labels.
        scale: s of LDAM.
        gamma: of the focal factor.
        FOCAL: "none", "outside" or "inside".
        BLOCK_M: rows. BLOCK_C: classes of a tile.

    Returns:
        f_i and w_i, [BLOCK_M] each.
    """
    inside = rows < batch
    label = tl.load(labels + rows.to(tl.int64) * stride_label, mask=inside, other=0)
    known = (label >= 0) & (label < classes)
    target = tl.where(known, label, 0).to(tl.int32)
    margin = tl.zeros((BLOCK_M,), tl.float32)
    if margins is not None:
        margin = tl.load(margins + target, mask=inside, other=0.0).to(tl.float32)
    weight = tl.full((BLOCK_M,), 1.0, tl.float32)
    if class_weights is not None:
        weight = tl.load(class_weights + target, mask=inside, other=0.0).to(tl.float32)
    weight = tl.where(known, weight, float("nan"))

    top = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    own = tl.zeros((BLOCK_M,), tl.float32)
    for start in range(0, classes, BLOCK_C):
        u, hit, _, _ = shifted_logits(
            logits, biases, inverse_temperatures, rows, start, target, margin,
            batch, classes, stride_row, stride_class, scale, BLOCK_C,
        )  # fmt: skip
        higher = tl.maximum(top, tl.max(u, axis=1))
        shift = tl.where(higher == float("-inf"), 0.0, higher)  # a tile of classes masked by -inf logits
        total = total * tl.exp(top - shift) + tl.sum(tl.exp(u - shift[:, None]), axis=1)
        own += tl.sum(tl.where(hit, u, 0.0), axis=1)
        top = higher
    loss = (top - own) + tl.log(total)  # in this order nothing cancels where the true class is on top

    if FOCAL == "outside":
        value, slope = focal(loss, gamma)
        value *= weight
        slope *= weight
    elif FOCAL == "inside":
        value, slope = focal(weight * loss, gamma)
        slope *= weight
    else:
        value = weight * loss
        slope = weight

    for start in range(0, classes, BLOCK_C):
        u, hit, c, sharpness = shifted_logits(
            logits, biases, inverse_temperatures, rows, start, target, margin,
            batch, classes, stride_row, stride_class, scale, BLOCK_C,
        )  # fmt: skip
        probability = tl.exp(u - top[:, None]) / total[:, None]
        tl.store(
            gradient + rows.to(tl.int64)[:, None] * classes + c[None, :],
            (slope * scale)[:, None] * (probability - tl.where(hit, 1.0, 0.0)) * sharpness[None, :],
            mask=inside[:, None] & (c < classes)[None, :],
        )
    return value, weight
