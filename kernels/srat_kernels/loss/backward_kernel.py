# mypy: allow-untyped-defs, allow-incomplete-defs
"""Backward of the SRAT loss: gradients of features and logits from what the forward saved.

Symbols as in `forward_kernels.py`; `README.md` beside this package derives the symmetric form.
"""

from __future__ import annotations

from srat_kernels.jit import tl, triton
from srat_kernels.loss.tiles import matmul, similarity


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

    Args:
        features: [B, D] pointer or None. labels: [B] pointer.
        log_normaliser: [B] L_i. inverse_count: [B] 1/|P(i)|.
        logit_gradient: [B, C] from the forward. normalisers: [2] from the forward.
        upstream_total: scalar pointer; None is zero, as for the next two.
        upstream_classification: scalar pointer or None. upstream_separation: scalar pointer or None.
        feature_gradient_out: [B, D] written, or None. logit_gradient_out: [B, C] written, or None.
        batch: B. dims: D. classes: C.
        stride_row: of features. stride_dim: of features. stride_label: of labels.
        to_exponent: log2(e) / tau. inverse_temperature: 1 / tau. separation_weight: lambda.
        PRECISION: see `matmul`.
        BLOCK_M: anchors. BLOCK_N: keys of a tile. BLOCK_K: columns of a step. BLOCK_D: columns of dz.
        BLOCK_C: classes of a tile.
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
