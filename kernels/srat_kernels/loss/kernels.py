# mypy: allow-untyped-defs, allow-incomplete-defs
"""Kernels of the SRAT loss and their launches: forward (two), backward (one).

Exponentials of the separation loss are powers of two: s_ij stands for log2(e) z_i.z_j / tau, and L_i for
log2 sum_{a != i} 2^s_ia. Names follow Eq. 6; the package's README derives the backward's symmetric form.

Features are [B, D] and logits [B, C] of any strides, class vectors [C], what a kernel leaves for another is contiguous;
a pointer may be None where a half of the loss, or one of its options, is left out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from srat_kernels.backends import count_launch
from srat_kernels.jit import INTERPRETED, tl, triton
from srat_kernels.loss.op import Settings, Vectors
from srat_kernels.tuning import Config, choose, power_of_two

LOG2_E = 1.4426950408889634
FINISH_BLOCK = 1024


def _config(warps: int, stages: int, **tiles: int) -> Config:
    return Config(tiles, warps, stages)


# Few anchors a program where the batch is small, because latency and idle multiprocessors dominate there; wide tiles
# where it is large, because each element loaded is then used more often. SPLITS brings B = 4096 to 128-256 programs
# (an H200 has 132 multiprocessors). K stays short: tf32x3 keeps each operand as two parts. At B = 128 a launch is a
# chain of loads that wait for each other, one a tile of keys and of columns: some configurations have few.
FORWARD = (
    _config(4, 2, BLOCK_M=16, BLOCK_N=64, BLOCK_K=64, SPLITS=2),
    _config(4, 2, BLOCK_M=16, BLOCK_N=32, BLOCK_K=64, SPLITS=4),
    _config(4, 2, BLOCK_M=16, BLOCK_N=32, BLOCK_K=128, SPLITS=4),
    _config(4, 2, BLOCK_M=32, BLOCK_N=64, BLOCK_K=32, SPLITS=2),
    _config(4, 2, BLOCK_M=64, BLOCK_N=64, BLOCK_K=32, SPLITS=4),
    _config(8, 2, BLOCK_M=128, BLOCK_N=64, BLOCK_K=32, SPLITS=4),
    _config(8, 2, BLOCK_M=64, BLOCK_N=128, BLOCK_K=32, SPLITS=4),
)
# The accumulator is [BLOCK_M, BLOCK_D]; every block of D recomputes the similarities, so a large batch wants it wide.
BACKWARD = (
    _config(4, 2, BLOCK_M=16, BLOCK_N=32, BLOCK_K=64, BLOCK_D=128),
    _config(8, 2, BLOCK_M=16, BLOCK_N=128, BLOCK_K=64, BLOCK_D=64),
    _config(4, 2, BLOCK_M=32, BLOCK_N=32, BLOCK_K=32, BLOCK_D=128),
    _config(8, 2, BLOCK_M=64, BLOCK_N=32, BLOCK_K=32, BLOCK_D=128),
    _config(8, 2, BLOCK_M=64, BLOCK_N=32, BLOCK_K=32, BLOCK_D=256),
    _config(8, 2, BLOCK_M=64, BLOCK_N=64, BLOCK_K=32, BLOCK_D=256),
    _config(8, 2, BLOCK_M=128, BLOCK_N=32, BLOCK_K=32, BLOCK_D=128),
)
# The interpreter pays per tile, not per element.
INTERPRETER_FORWARD = (_config(4, 1, BLOCK_M=128, BLOCK_N=128, BLOCK_K=128, SPLITS=2),)
INTERPRETER_BACKWARD = (_config(4, 1, BLOCK_M=128, BLOCK_N=128, BLOCK_K=128, BLOCK_D=128),)


@triton.jit
def matmul(left, right, PRECISION: tl.constexpr):
    """A product with float32 accumulation."""
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
    """1 - e^-x without cancellation at small x: Taylor's series where x < 1/2 (next term below 1e-9)."""
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
    """(1 - e^-x)^gamma x and its derivative; the clamp and its zero gradient are the reference's."""
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


@triton.jit(do_not_specialize=["batch"])
def forward_kernel(
    features, logits, labels, class_weights, margins, biases, inverse_temperatures,
    partial_top, partial_total, partial_positive, partial_count, row_loss, row_weight, logit_gradient,
    batch, dims, classes, stride_row, stride_dim, stride_logit_row, stride_class,
    stride_label, to_exponent, scale, gamma,
    FOCAL: tl.constexpr, PRECISION: tl.constexpr, SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Program (i, s): anchors of block i against the s-th share of the keys, and (s = 0) the margin loss of its rows.

    Leaves, per share and anchor, the running maximum, sum of powers, sum of s_ij over positives and their count
    ([SPLITS, B] each). The shares exist because B / BLOCK_M programs alone do not fill the GPU.
    """
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    share = tl.program_id(1)
    inside = rows < batch

    if logits is not None:  # noqa: SIM102 - known at compile time, unlike the share
        if share == 0:
            value, weight = margin_rows(
                logits, labels, class_weights, margins, biases, inverse_temperatures, logit_gradient, rows,
                batch, classes, stride_logit_row, stride_class, stride_label, scale, gamma, FOCAL, BLOCK_M, BLOCK_C,
            )  # fmt: skip
            tl.store(row_loss + rows, value, mask=inside)
            tl.store(row_weight + rows, weight, mask=inside)

    if features is not None:
        label = tl.load(labels + rows.to(tl.int64) * stride_label, mask=inside, other=0)
        top = tl.full((BLOCK_M,), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK_M,), tl.float32)
        positive_sum = tl.zeros((BLOCK_M,), tl.float32)
        count = tl.zeros((BLOCK_M,), tl.int32)
        tiles = tl.cdiv(tl.cdiv(batch, BLOCK_N), SPLITS)
        first = share * tiles * BLOCK_N
        for start in range(first, tl.minimum(first + tiles * BLOCK_N, batch), BLOCK_N):
            keys = start + tl.arange(0, BLOCK_N)
            key_label = tl.load(labels + keys.to(tl.int64) * stride_label, mask=keys < batch, other=0)
            s = similarity(
                features, rows, keys, batch, dims, stride_row, stride_dim, to_exponent,
                BLOCK_M, BLOCK_N, BLOCK_K, PRECISION,
            )  # fmt: skip
            other = (keys < batch)[None, :] & (rows[:, None] != keys[None, :])  # A(i): everything but i
            positive = other & (label[:, None] == key_label[None, :])  # P(i)
            positive_sum += tl.sum(tl.where(positive, s, 0.0), axis=1)
            count += tl.sum(positive.to(tl.int32), axis=1)
            s = tl.where(other, s, float("-inf"))
            higher = tl.maximum(top, tl.max(s, axis=1))
            shift = tl.where(higher == float("-inf"), 0.0, higher)  # A(i) may be empty so far
            total = total * tl.exp2(top - shift) + tl.sum(tl.exp2(s - shift[:, None]), axis=1)
            top = higher
        at = share * batch + rows
        tl.store(partial_top + at, top, mask=inside)
        tl.store(partial_total + at, total, mask=inside)
        tl.store(partial_positive + at, positive_sum, mask=inside)
        tl.store(partial_count + at, count, mask=inside)


@triton.jit(do_not_specialize=["batch"])
def finish_kernel(
    partial_top, partial_total, partial_positive, partial_count, row_loss, row_weight,
    log_normaliser, inverse_count, total_loss, classification_loss, separation_loss, normalisers,
    batch, separation_weight,
    HAS_FEATURES: tl.constexpr, HAS_LOGITS: tl.constexpr, DROP_EMPTY: tl.constexpr, WEIGHTED_MEAN: tl.constexpr,
    SPLITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: merges the shares of every anchor and adds the rows up, always in the same order.

    Leaves L_i ([B], +inf where P(i) is empty, so that 2^(s - L_i) = 0), 1/|P(i)| ([B], 0 there), the three scalars,
    and the factors 1/#anchors and 1/sum(w) that the backward needs ([2]).
    """
    anchors = tl.zeros((BLOCK,), tl.float32)
    separation = tl.zeros((BLOCK,), tl.float32)
    weights = tl.zeros((BLOCK,), tl.float32)
    losses = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, batch, BLOCK):
        rows = start + tl.arange(0, BLOCK)
        inside = rows < batch
        if HAS_LOGITS:
            losses += tl.load(row_loss + rows, mask=inside, other=0.0)
            weights += tl.load(row_weight + rows, mask=inside, other=0.0)
        if HAS_FEATURES:
            top = tl.full((BLOCK,), float("-inf"), tl.float32)
            for share in tl.static_range(SPLITS):
                top = tl.maximum(
                    top, tl.load(partial_top + share * batch + rows, mask=inside, other=float("-inf"))
                )
            shift = tl.where(top == float("-inf"), 0.0, top)
            total = tl.zeros((BLOCK,), tl.float32)
            positive_sum = tl.zeros((BLOCK,), tl.float32)
            count = tl.zeros((BLOCK,), tl.int32)
            for share in tl.static_range(SPLITS):
                at = share * batch + rows
                part = tl.load(partial_top + at, mask=inside, other=float("-inf"))
                total += tl.load(partial_total + at, mask=inside, other=0.0) * tl.exp2(part - shift)
                positive_sum += tl.load(partial_positive + at, mask=inside, other=0.0)
                count += tl.load(partial_count + at, mask=inside, other=0)
            valid = count > 0
            inverse = tl.where(valid, 1.0 / tl.maximum(count, 1).to(tl.float32), 0.0)
            exponent = shift + tl.log2(tl.where(valid, total, 1.0))
            separation += tl.where(valid, exponent - positive_sum * inverse, 0.0)
            anchors += valid.to(tl.float32)
            tl.store(log_normaliser + rows, tl.where(valid, exponent, float("inf")), mask=inside)
            tl.store(inverse_count + rows, inverse, mask=inside)

    if DROP_EMPTY:
        per_anchor = 1.0 / tl.maximum(tl.sum(anchors, axis=0), 1.0)
    else:
        per_anchor = 1.0 / batch.to(tl.float32)
    if WEIGHTED_MEAN:
        weight = tl.sum(weights, axis=0)  # all zero: there is no mean, as in the reference
        per_weight = tl.where(weight == 0.0, float("nan"), 1.0 / tl.where(weight == 0.0, 1.0, weight))
    else:
        per_weight = 1.0 / batch.to(tl.float32)
    separation_value = tl.sum(separation, axis=0) * 0.6931471805599453 * per_anchor  # ln 2: back to nats
    classification_value = tl.zeros((), tl.float32)
    if HAS_LOGITS:
        classification_value = tl.sum(losses, axis=0) * per_weight
    tl.store(separation_loss, separation_value)
    tl.store(classification_loss, classification_value)
    tl.store(total_loss, classification_value + separation_weight * separation_value)
    tl.store(normalisers, per_anchor)
    tl.store(normalisers + 1, per_weight)


@triton.jit(do_not_specialize=["batch"])
def backward_kernel(
    features, labels, log_normaliser, inverse_count, logit_gradient, normalisers,
    upstream_total, upstream_classification, upstream_separation, feature_gradient_out, logit_gradient_out,
    batch, dims, classes, stride_row, stride_dim, stride_label, to_exponent, inverse_temperature, separation_weight,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Program (i, d): dz for anchors of block i, feature columns of block d; (d = 0) the logits' gradient of its rows.

        A_ij = 2^(s_ij - L_i) + 2^(s_ij - L_j) - 2 m_ij / |P(i)|,   A_ii = 0,   dz_i = g / (n tau) sum_j A_ij z_j

    m_ij = 1 where j is in P(i); n = #anchors. It is w_i (p_ij - m_ij/|P(i)|) + w_j (p_ji - m_ij/|P(j)|): a positive
    pair shares its class, hence |P(i)| = |P(j)|, and an anchor with w = 0 has L = +inf. A is symmetric, so the
    program of row i gathers what row i receives as an anchor and as a key: nothing is scattered, no atomics.
    """
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    block = tl.program_id(1)
    inside = rows < batch
    g_total = tl.zeros((), tl.float32)
    if upstream_total is not None:
        g_total = tl.load(upstream_total).to(tl.float32)

    if logit_gradient_out is not None:  # noqa: SIM102
        if block == 0:
            g = g_total
            if upstream_classification is not None:
                g += tl.load(upstream_classification).to(tl.float32)
            g *= tl.load(normalisers + 1)
            row_offsets = rows.to(tl.int64)[:, None] * classes
            for start in range(0, classes, BLOCK_C):
                c = start + tl.arange(0, BLOCK_C)
                mask = inside[:, None] & (c < classes)[None, :]
                slope = tl.load(logit_gradient + row_offsets + c[None, :], mask=mask, other=0.0)
                tl.store(
                    logit_gradient_out + row_offsets + c[None, :],
                    (slope * g).to(logit_gradient_out.dtype.element_ty),
                    mask=mask,
                )

    if feature_gradient_out is not None:
        g = g_total * separation_weight
        if upstream_separation is not None:
            g += tl.load(upstream_separation).to(tl.float32)
        g *= tl.load(normalisers) * inverse_temperature
        columns = block * BLOCK_D + tl.arange(0, BLOCK_D)
        label = tl.load(labels + rows.to(tl.int64) * stride_label, mask=inside, other=0)
        own_log = tl.load(log_normaliser + rows, mask=inside, other=float("inf"))
        pull = 2.0 * tl.load(inverse_count + rows, mask=inside, other=0.0)
        gradient = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
        for start in range(0, batch, BLOCK_N):
            keys = start + tl.arange(0, BLOCK_N)
            key_label = tl.load(labels + keys.to(tl.int64) * stride_label, mask=keys < batch, other=0)
            key_log = tl.load(log_normaliser + keys, mask=keys < batch, other=float("inf"))
            s = similarity(
                features, rows, keys, batch, dims, stride_row, stride_dim, to_exponent,
                BLOCK_M, BLOCK_N, BLOCK_K, PRECISION,
            )  # fmt: skip
            other = (keys < batch)[None, :] & (rows[:, None] != keys[None, :])
            a = tl.exp2(tl.where(other, s - own_log[:, None], float("-inf")))
            a += tl.exp2(tl.where(other, s - key_log[None, :], float("-inf")))
            a -= tl.where(other & (label[:, None] == key_label[None, :]), pull[:, None], 0.0)
            z = tl.load(
                features + keys.to(tl.int64)[:, None] * stride_row + columns[None, :] * stride_dim,
                mask=(keys < batch)[:, None] & (columns < dims)[None, :],
                other=0.0,
            ).to(tl.float32)
            gradient += matmul(a, z, PRECISION) * g  # scaled here for the reason given in `similarity`
        tl.store(
            feature_gradient_out + rows.to(tl.int64)[:, None] * dims + columns[None, :],
            gradient.to(feature_gradient_out.dtype.element_ty),
            mask=inside[:, None] & (columns < dims)[None, :],
        )


def candidates(configs: tuple[Config, ...], batch: int, dims: int) -> tuple[Config, ...]:
    """Those of `configs` that make sense for a shape class of B and D, cut down to it; at least one.

    Anchors a program: between B / 128, fewer re-read the keys too often, and B / 4.
    """
    low, high = min(batch // 128, 64), max(16, batch // 4)
    kept = [config for config in configs if low <= config.tiles["BLOCK_M"] <= high] or [configs[0]]
    fitted = [fit(config, dims) for config in kept]
    return tuple(config for place, config in enumerate(fitted) if config not in fitted[:place])


def fit(config: Config, dims: int) -> Config:
    """`config` with no tile wider than the features; D is a shape class of at least 16, which a dot needs."""
    tiles = {
        name: min(size, dims) if name in ("BLOCK_K", "BLOCK_D") else size
        for name, size in config.tiles.items()
    }
    return config._replace(tiles=tiles)


def block_of_classes(classes: int, config: Config) -> int:
    """BLOCK_C: the classes that a program holds at a time, so that its tile of logits stays in few registers."""
    return power_of_two(classes, 16, 2048 // config.tiles["BLOCK_M"])


def run_forward(
    features: Tensor | None,
    logits: Tensor | None,
    labels: Tensor,
    vectors: Vectors,
    outputs: tuple[Tensor, ...],
    settings: Settings,
    config: Config | None = None,
) -> None:
    """Fill `outputs` = (total, classification, separation, L [B], 1/|P| [B], logits' gradient [B, C], factors [2]).

    Two launches: one does all the work, the second, a single program, merges and adds up its [B] results. One launch
    could do both only by counting finished programs in a counter that starts at zero, which takes a launch of its
    own or a hidden state that two streams would share.
    """
    total, classification, separation, log_normaliser, inverse_count, logit_gradient, normalisers = outputs
    batch, dims = labels.shape[0], 1 if features is None else features.shape[1]
    classes = 1 if logits is None else logits.shape[1]
    per_class = [None if vector is None else vector.contiguous() for vector in vectors]
    rows = torch.empty((2, batch), dtype=torch.float32, device=labels.device)

    def launch(config: Config) -> tuple[Tensor, Tensor]:
        splits = 1 if features is None else config.tiles["SPLITS"]
        partial = torch.empty((3, splits, batch), dtype=torch.float32, device=labels.device)
        count = torch.empty((splits, batch), dtype=torch.int32, device=labels.device)
        grid = (triton.cdiv(batch, config.tiles["BLOCK_M"]), splits)
        forward_kernel[grid](
            features, logits, labels, *per_class,
            partial[0], partial[1], partial[2], count, rows[0], rows[1], logit_gradient,
            batch, dims, classes, *_strides(features, 2), *_strides(logits, 2),
            *_strides(labels, 1), LOG2_E / settings.temperature, settings.scale, settings.focal_gamma,
            FOCAL=settings.focal_weighting if settings.focal_gamma > 0 else "none",
            PRECISION=settings.precision, BLOCK_C=block_of_classes(classes, config),
            **{**config.arguments(), "SPLITS": splits},
        )  # fmt: skip
        return partial, count

    with torch.cuda.device_of(labels):  # the tensors' GPU need not be the current one
        if config is None:
            shape = (power_of_two(batch, 16, 8192), power_of_two(dims, 16, 8192))
            config = choose(
                "forward_kernel",
                (*shape, _dtype(features), _dtype(logits), settings.precision),
                INTERPRETER_FORWARD if INTERPRETED else candidates(FORWARD, *shape),
                labels.device,
                launch,
            )
        partial, count = launch(config)
        count_launch("forward_kernel")
        finish_kernel[(1,)](
            partial[0], partial[1], partial[2], count, rows[0], rows[1],
            log_normaliser, inverse_count, total, classification, separation, normalisers,
            batch, settings.separation_weight,
            HAS_FEATURES=features is not None, HAS_LOGITS=logits is not None, DROP_EMPTY=settings.drop_empty,
            WEIGHTED_MEAN=settings.weighted_mean and logits is not None, SPLITS=count.shape[0],
            BLOCK=power_of_two(batch, 16, FINISH_BLOCK), num_warps=4,
        )  # fmt: skip
        count_launch("finish_kernel")


def run_backward(
    features: Tensor | None,
    labels: Tensor,
    saved: tuple[Tensor, Tensor, Tensor, Tensor],
    upstream: tuple[Tensor | None, Tensor | None, Tensor | None],
    feature_gradient: Tensor | None,
    logit_gradient: Tensor | None,
    settings: Settings,
    config: Config | None = None,
) -> None:
    """Fill the gradients that are not None, in one launch."""
    batch, dims = labels.shape[0], 1 if features is None else features.shape[1]
    classes = 1 if logit_gradient is None else logit_gradient.shape[1]

    def launch(config: Config) -> None:
        grid = (triton.cdiv(batch, config.tiles["BLOCK_M"]), triton.cdiv(dims, config.tiles["BLOCK_D"]))
        backward_kernel[grid](
            features, labels, *saved, *upstream, feature_gradient, logit_gradient,
            batch, dims, classes, *_strides(features, 2), *_strides(labels, 1),
            LOG2_E / settings.temperature, 1.0 / settings.temperature, settings.separation_weight,
            PRECISION=settings.precision, BLOCK_C=block_of_classes(classes, config), **config.arguments(),
        )  # fmt: skip

    with torch.cuda.device_of(labels):
        if config is None:
            shape = (power_of_two(batch, 16, 8192), power_of_two(dims, 16, 8192))
            config = choose(
                "backward_kernel",
                (*shape, _dtype(features), _dtype(logit_gradient), settings.precision),
                INTERPRETER_BACKWARD if INTERPRETED else candidates(BACKWARD, *shape),
                labels.device,
                launch,
            )
        launch(config)
        count_launch("backward_kernel")


def _strides(tensor: Tensor | None, axes: int) -> tuple[int, ...]:
    return (0,) * axes if tensor is None else tensor.stride()


def _dtype(tensor: Tensor | None) -> str:
    return "" if tensor is None else str(tensor.dtype)
