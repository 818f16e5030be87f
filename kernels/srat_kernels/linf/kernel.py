# mypy: allow-untyped-defs, allow-incomplete-defs
"""The L-infinity step's kernel: the next images, and a count of bad gradients."""

from __future__ import annotations

from srat_kernels.jit import tl, triton


@triton.jit
def offset(index, size_1, size_2, size_3, stride_0, stride_1, stride_2, stride_3):
    """Where an element of a tensor of four axes lies in memory.

    Args:
        index: of the element, row-major.
        size_1: of axis 1. size_2: of axis 2. size_3: of axis 3.
        stride_0: of axis 0. stride_1: of axis 1. stride_2: of axis 2. stride_3: of axis 3.

    Returns:
        The offset in elements.
    """
    last = index % size_3
    index = index // size_3
    third = index % size_2
    index = index // size_2
    return (index // size_1) * stride_0 + (index % size_1) * stride_1 + third * stride_2 + last * stride_3


@triton.jit
def linf_kernel(
    adversarial, gradient, clean, out, nonfinite, zero, numel, step, epsilon, size_1, size_2, size_3,
    stride_a0, stride_a1, stride_a2, stride_a3, stride_g0, stride_g1, stride_g2, stride_g3,
    stride_c0, stride_c1, stride_c2, stride_c3, stride_o0, stride_o1, stride_o2, stride_o3,
    FLAT: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """x' <- clamp( project_{|x' - x| <= eps}( x' + alpha sign(g) ), 0, 1 ), sign(0) = sign(NaN) = 0.

    FLAT: all four tensors are dense in the same order, and their memory is walked as it lies.

    Args:
        adversarial: x', pointer. gradient: g, pointer of any float type. clean: x, pointer. out: pointer, written.
        nonfinite: int64 pointer, increased by the number of non-finite g; or None.
        zero: int64 pointer, increased by the number of g that are 0; or None.
        numel: number of elements. step: alpha. epsilon: radius.
        size_1: of axis 1. size_2: of axis 2. size_3: of axis 3.
        stride_a0: of adversarial, axis 0. stride_a1: axis 1. stride_a2: axis 2. stride_a3: axis 3.
        stride_g0: of gradient, axis 0. stride_g1: axis 1. stride_g2: axis 2. stride_g3: axis 3.
        stride_c0: of clean, axis 0. stride_c1: axis 1. stride_c2: axis 2. stride_c3: axis 3.
        stride_o0: of out, axis 0. stride_o1: axis 1. stride_o2: axis 2. stride_o3: axis 3.
        FLAT: see above. WIDE: an offset may exceed 31 bits. BLOCK: elements of a program.
    """
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64)
    index = program * BLOCK + tl.arange(0, BLOCK)
    inside = index < numel
    if FLAT:
        at_a = index
        at_g = index
        at_c = index
        at_o = index
    else:
        at_a = offset(index, size_1, size_2, size_3, stride_a0, stride_a1, stride_a2, stride_a3)
        at_g = offset(index, size_1, size_2, size_3, stride_g0, stride_g1, stride_g2, stride_g3)
        at_c = offset(index, size_1, size_2, size_3, stride_c0, stride_c1, stride_c2, stride_c3)
        at_o = offset(index, size_1, size_2, size_3, stride_o0, stride_o1, stride_o2, stride_o3)

    x = tl.load(adversarial + at_a, mask=inside, other=0.0)
    g = tl.load(gradient + at_g, mask=inside, other=0.0)
    centre = tl.load(clean + at_c, mask=inside, other=0.0)
    if g.dtype != tl.float64:  # exact upwards; a float64 would lose its small values, hence their sign
        g = g.to(tl.float32)
    direction = tl.where(g > 0, 1.0, 0.0) - tl.where(g < 0, 1.0, 0.0)  # a NaN is neither
    moved = x + step * direction
    # a NaN pixel stays one: it is somebody else's error and must remain visible
    moved = tl.maximum(moved, centre - epsilon, propagate_nan=tl.PropagateNan.ALL)
    moved = tl.minimum(moved, centre + epsilon, propagate_nan=tl.PropagateNan.ALL)
    moved = tl.maximum(moved, 0.0, propagate_nan=tl.PropagateNan.ALL)
    moved = tl.minimum(moved, 1.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(out + at_o, moved, mask=inside)

    if nonfinite is not None:
        bad = tl.sum((tl.abs(g) < float("inf")).to(tl.int32) ^ 1, axis=0)
        if bad > 0:  # integers: the sum does not depend on the programs' order
            tl.atomic_add(nonfinite, bad.to(tl.int64), sem="relaxed")
    if zero is not None:
        still = tl.sum((inside & (g == 0)).to(tl.int32), axis=0)
        if still > 0:
            tl.atomic_add(zero, still.to(tl.int64), sem="relaxed")
