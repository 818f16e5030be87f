# mypy: allow-untyped-defs, allow-incomplete-defs
"""Forward of the SRAT loss: the scalars, what the backward needs, the logits' gradient.

Exponentials of the separation loss are powers of two: s_ij below stands for log2(e) z_i.z_j / tau, and L_i for
log2 sum_{a != i} 2^s_ia. Names follow Eq. 6; `README.md` beside this package has the formulas.
"""

from __future__ import annotations

from srat_kernels.jit import tl, triton
from srat_kernels.loss.tiles import margin_rows, similarity


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

    Args:
        features: [B, D] pointer or None. logits: [B, C] pointer or None. labels: [B] pointer.
        class_weights: [C] pointer or None. margins: [C] pointer or None.
        biases: [C] pointer or None. inverse_temperatures: [C] pointer or None. All four are contiguous.
        partial_top: [SPLITS, B] written. partial_total: [SPLITS, B] written.
        partial_positive: [SPLITS, B] written. partial_count: [SPLITS, B] int32 written.
        row_loss: [B] f_i, written. row_weight: [B] w_i, written. logit_gradient: [B, C] written.
        batch: B. dims: D. classes: C.
        stride_row: of features. stride_dim: of features.
        stride_logit_row: of logits. stride_class: of logits.
        stride_label: of labels.
        to_exponent: log2(e) / tau. scale: s of LDAM. gamma: of the focal factor.
        FOCAL: see `margin_rows`. PRECISION: see `matmul`.
        SPLITS: shares of the keys.
        BLOCK_M: anchors. BLOCK_N: keys of a tile. BLOCK_K: columns of a step. BLOCK_C: classes of a tile.
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

    Args:
        partial_top: [SPLITS, B]. partial_total: [SPLITS, B]. partial_positive: [SPLITS, B]. partial_count: [SPLITS, B].
        row_loss: [B]. row_weight: [B].
        log_normaliser: [B] L_i, written. inverse_count: [B] 1/|P(i)|, written.
        total_loss: scalar, written. classification_loss: scalar, written. separation_loss: scalar, written.
        normalisers: [2] written.
        batch: B. separation_weight: lambda.
        HAS_FEATURES: whether there is a separation loss. HAS_LOGITS: whether there is a margin loss.
        DROP_EMPTY: mean over anchors with a positive, not over B. WEIGHTED_MEAN: divide by sum(w), not by B.
        SPLITS: shares of the keys. BLOCK: rows at a time.
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
