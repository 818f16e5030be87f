# mypy: allow-untyped-defs, allow-incomplete-defs
"""BatchNorm in train mode with its neighbours, two launches a direction: pointers enter, tensors in memory leave.

A tensor [B, C, H, W] in channels_last is a matrix of B*H*W rows and C columns. A first launch sums over the rows in
shares; the last program of a block of columns to finish adds the shares up, always in the same order, so that nothing
is launched in between. A second launch normalises, adds the other branch and applies the ReLU. For the attempts
"fused-norm" and, `masked_sum_kernel`, "fused-convolution".
"""

from __future__ import annotations

from srat_kernels.jit import tl, triton


@triton.jit
def last_to_finish(counter, shares):
    """Whether this program is the last of `shares` to arrive at `counter` (int32 pointer), which it puts back to 0."""
    tl.debug_barrier()  # what this program's threads wrote comes before its arrival
    arrived = tl.atomic_add(counter, 1, sem="acq_rel")
    last = arrived == shares - 1
    if last:
        tl.atomic_xchg(counter, 0)
    return last


@triton.jit
def added_up(partial, shares, channels, c, known, BLOCK_C: tl.constexpr):
    """Both sums [BLOCK_C] of `partial` [2, shares, channels] over the shares, many loads in flight at a time."""
    at_once: tl.constexpr = 64
    sum_1 = tl.zeros((at_once, BLOCK_C), tl.float32)
    sum_2 = tl.zeros((at_once, BLOCK_C), tl.float32)
    for start in range(0, shares, at_once):
        s = start + tl.arange(0, at_once)
        mask = (s < shares)[:, None] & known[None, :]
        at = partial + s[:, None] * channels + c[None, :]
        # past the first cache, which other programs' writes do not reach
        sum_1 += tl.load(at, mask=mask, other=0.0, cache_modifier=".cg")
        sum_2 += tl.load(at + shares * channels, mask=mask, other=0.0, cache_modifier=".cg")
    return tl.sum(sum_1, axis=0), tl.sum(sum_2, axis=0)


@triton.jit
def forward_sums_kernel(
    x, running_mean, running_var, partial, mean, rstd, counter,
    rows, channels, rows_per_share, momentum, eps,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Batch mean and 1/deviation of each column; the running statistics follow, with the unbiased variance.

    The sums are taken about the running mean, so that no digits are lost where the mean is far from 0.

    Args:
        x: [rows, channels] pointer. running_mean: [channels] float32, updated. running_var: likewise.
        partial: [2, shares, channels] float32, written. mean: [channels] float32, written. rstd: likewise.
        counter: [blocks of columns] int32, 0 before and after.
        rows: of x. channels: of x. rows_per_share: a multiple of BLOCK_R.
        momentum: of the running statistics. eps: added to the variance.
        BLOCK_R: rows at a time. BLOCK_C: columns of a program.
    """
    share, shares = tl.program_id(0), tl.num_programs(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    known = c < channels
    old_mean = tl.load(running_mean + c, mask=known, other=0.0)
    total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    square = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    first = share * rows_per_share
    for start in range(first, tl.minimum(first + rows_per_share, rows), BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        mask = (r < rows)[:, None] & known[None, :]
        value = tl.load(x + r[:, None] * channels + c[None, :], mask=mask, other=0.0).to(tl.float32)
        value = tl.where(mask, value - old_mean[None, :], 0.0)
        total += value
        square += value * value
    tl.store(partial + share * channels + c, tl.sum(total, axis=0), mask=known)
    tl.store(partial + (shares + share) * channels + c, tl.sum(square, axis=0), mask=known)

    if last_to_finish(counter + tl.program_id(1), shares):
        sum_1, sum_2 = added_up(partial, shares, channels, c, known, BLOCK_C)
        off = sum_1 / rows
        variance = tl.maximum(sum_2 / rows - off * off, 0.0)
        old_var = tl.load(running_var + c, mask=known, other=0.0)
        unbiased = variance * (rows / tl.maximum(rows - 1, 1).to(tl.float32))
        tl.store(mean + c, old_mean + off, mask=known)
        tl.store(rstd + c, 1.0 / tl.sqrt(variance + eps), mask=known)
        tl.store(running_mean + c, old_mean + momentum * off, mask=known)
        tl.store(running_var + c, old_var + momentum * (unbiased - old_var), mask=known)


@triton.jit
def forward_apply_kernel(
    x, mean, rstd, weight, bias, residual, y, rows, channels,
    RELU: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """y = relu( (x - mean) rstd weight + bias + residual ).

    Args:
        x: [rows, channels] pointer. mean: [channels]. rstd: [channels]. weight: [channels]. bias: [channels].
        residual: [rows, channels] pointer or None. y: likewise, written.
        rows: of x. channels: of x. RELU: whether there is one. BLOCK_R: rows. BLOCK_C: columns.
    """
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    known = c < channels
    mask = (r < rows)[:, None] & known[None, :]
    at = r[:, None] * channels + c[None, :]
    gain = tl.load(rstd + c, mask=known, other=0.0) * tl.load(weight + c, mask=known, other=0.0)
    shift = tl.load(bias + c, mask=known, other=0.0) - tl.load(mean + c, mask=known, other=0.0) * gain
    value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32) * gain[None, :] + shift[None, :]
    if residual is not None:
        value += tl.load(residual + at, mask=mask, other=0.0).to(tl.float32)
    if RELU:
        value = tl.where(value <= 0.0, 0.0, value)  # a NaN stays one
    tl.store(y + at, value.to(y.dtype.element_ty), mask=mask)


@triton.jit
def backward_sums_kernel(
    upstream, other, x, y, mean, rstd, partial, centre, slope, counter, rows, channels, rows_per_share,
    RELU: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The two means that the input's gradient needs: of g, the gradient after the ReLU, and of g (x - mean) rstd^2.

    Args:
        upstream: [rows, channels] pointer, gradient of y. other: another one to be added, or None.
        x: [rows, channels]. y: [rows, channels], read for RELU only.
        mean: [channels]. rstd: [channels]. partial: [2, shares, channels] float32, written.
        centre: [channels] float32, written. slope: likewise. counter: as in the forward.
        rows: of x. channels: of x. rows_per_share: a multiple of BLOCK_R.
        RELU: whether there is one. BLOCK_R: rows at a time. BLOCK_C: columns of a program.
    """
    share, shares = tl.program_id(0), tl.num_programs(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    known = c < channels
    middle = tl.load(mean + c, mask=known, other=0.0)
    total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    product = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    first = share * rows_per_share
    for start in range(first, tl.minimum(first + rows_per_share, rows), BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        mask = (r < rows)[:, None] & known[None, :]
        at = r[:, None] * channels + c[None, :]
        g = tl.load(upstream + at, mask=mask, other=0.0).to(tl.float32)
        if other is not None:
            g += tl.load(other + at, mask=mask, other=0.0).to(tl.float32)
        if RELU:
            g = tl.where(tl.load(y + at, mask=mask, other=0.0) <= 0.0, 0.0, g)
        value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
        total += g
        product += g * (value - middle[None, :])  # g is 0 outside
    tl.store(partial + share * channels + c, tl.sum(total, axis=0), mask=known)
    tl.store(partial + (shares + share) * channels + c, tl.sum(product, axis=0), mask=known)

    if last_to_finish(counter + tl.program_id(1), shares):
        sum_1, sum_2 = added_up(partial, shares, channels, c, known, BLOCK_C)
        scale = tl.load(rstd + c, mask=known, other=0.0)
        tl.store(centre + c, sum_1 / rows, mask=known)
        tl.store(slope + c, sum_2 / rows * scale * scale, mask=known)


@triton.jit
def backward_apply_kernel(
    upstream, other, x, y, mean, rstd, weight, centre, slope, gradient, residual_gradient, rows, channels,
    RELU: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """dx = rstd weight ( g - centre - (x - mean) slope ), and g itself for the other branch.

    Args:
        upstream: [rows, channels] pointer, gradient of y. other: another one to be added, or None.
        x: [rows, channels]. y: [rows, channels], read for RELU only.
        mean: [channels]. rstd: [channels]. weight: [channels]. centre: [channels]. slope: [channels].
        gradient: [rows, channels], written. residual_gradient: likewise, or None.
        rows: of x. channels: of x. RELU: whether there is one. BLOCK_R: rows. BLOCK_C: columns.
    """
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    known = c < channels
    mask = (r < rows)[:, None] & known[None, :]
    at = r[:, None] * channels + c[None, :]
    gain = tl.load(rstd + c, mask=known, other=0.0) * tl.load(weight + c, mask=known, other=0.0)
    middle = tl.load(mean + c, mask=known, other=0.0)
    g = tl.load(upstream + at, mask=mask, other=0.0).to(tl.float32)
    if other is not None:
        g += tl.load(other + at, mask=mask, other=0.0).to(tl.float32)
    if RELU:
        g = tl.where(tl.load(y + at, mask=mask, other=0.0) <= 0.0, 0.0, g)
    value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32) - middle[None, :]
    value *= tl.load(slope + c, mask=known, other=0.0)[None, :]
    value = gain[None, :] * (g - tl.load(centre + c, mask=known, other=0.0)[None, :] - value)
    tl.store(gradient + at, value.to(gradient.dtype.element_ty), mask=mask)
    if residual_gradient is not None:
        tl.store(residual_gradient + at, g.to(residual_gradient.dtype.element_ty), mask=mask)


@triton.jit
def masked_sum_kernel(upstream, other, y, gradient, numel, BLOCK: tl.constexpr):
    """The gradient before a ReLU: upstream + other where y > 0, else 0.

    Args:
        upstream: pointer. other: another gradient, or None. y: what left the ReLU. gradient: written.
        numel: elements of each, laid out alike. BLOCK: elements of a program.
    """
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < numel
    g = tl.load(upstream + at, mask=inside, other=0.0).to(tl.float32)
    if other is not None:
        g += tl.load(other + at, mask=inside, other=0.0).to(tl.float32)
    g = tl.where(tl.load(y + at, mask=inside, other=0.0) <= 0.0, 0.0, g)
    tl.store(gradient + at, g.to(gradient.dtype.element_ty), mask=inside)
