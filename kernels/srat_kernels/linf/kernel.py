# mypy: allow-untyped-defs, allow-incomplete-defs
"""The L-infinity step's kernel and its launch."""

from __future__ import annotations

import torch
from torch import Tensor

from srat_kernels.backends import count_launch
from srat_kernels.jit import INTERPRETED, tl, triton
from srat_kernels.tuning import Config, choose, power_of_two

# Three reads and a write per element and no reuse: only the bytes in flight matter, hence 4, 8 or 16 elements a thread.
CONFIGS = (
    Config({"BLOCK": 1024}, 4, 1),
    Config({"BLOCK": 1024}, 8, 1),
    Config({"BLOCK": 2048}, 4, 1),
)
INTERPRETER_CONFIGS = (Config({"BLOCK": 16384}, 4, 1),)
FORMATS = (torch.contiguous_format, torch.channels_last, torch.channels_last_3d)


@triton.jit
def linf_kernel(
    adversarial, gradient, clean, out, nonfinite, zero, numel, step, epsilon,
    WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """x' <- clamp( project_{|x' - x| <= eps}( x' + alpha sign(g) ), 0, 1 ), sign(0) = sign(NaN) = 0.

    The four tensors are dense in one order and walked as they lie; WIDE: there may be more than 2^31 elements. The
    int64 counters, where they are not None, are increased by the numbers of non-finite and of zero entries of g.
    """
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64)
    index = program * BLOCK + tl.arange(0, BLOCK)
    inside = index < numel
    x = tl.load(adversarial + index, mask=inside, other=0.0)
    g = tl.load(gradient + index, mask=inside, other=0.0)
    centre = tl.load(clean + index, mask=inside, other=0.0)
    if g.dtype != tl.float64:  # exact upwards; a float64 would lose its small values, hence their sign
        g = g.to(tl.float32)
    direction = tl.where(g > 0, 1.0, 0.0) - tl.where(g < 0, 1.0, 0.0)  # a NaN is neither
    moved = x + step * direction
    # a NaN pixel stays one: it is somebody else's error and must remain visible
    moved = tl.maximum(moved, centre - epsilon, propagate_nan=tl.PropagateNan.ALL)
    moved = tl.minimum(moved, centre + epsilon, propagate_nan=tl.PropagateNan.ALL)
    moved = tl.maximum(moved, 0.0, propagate_nan=tl.PropagateNan.ALL)
    moved = tl.minimum(moved, 1.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(out + index, moved, mask=inside)

    if nonfinite is not None:
        bad = tl.sum((tl.abs(g) < float("inf")).to(tl.int32) ^ 1, axis=0)
        if bad > 0:  # integers: the sum does not depend on the programs' order
            tl.atomic_add(nonfinite, bad.to(tl.int64), sem="relaxed")
    if zero is not None:
        still = tl.sum((inside & (g == 0)).to(tl.int32), axis=0)
        if still > 0:
            tl.atomic_add(zero, still.to(tl.int64), sem="relaxed")


def run_linf_step(
    adversarial: Tensor,
    gradient: Tensor,
    clean: Tensor,
    out: Tensor,
    *,
    step_size: float,
    epsilon: float,
    nonfinite: Tensor | None,
    zero: Tensor | None = None,
    config: Config | None = None,
) -> None:
    """Write the next images into `out`, which may be `adversarial` itself, in one launch where the layouts agree."""
    inputs, target = in_one_layout((adversarial, gradient, clean), out)
    numel = out.numel()
    wide = numel + 4096 >= 2**31  # the last program's masked elements included

    def launch(config: Config, target: Tensor, *counters: Tensor | None) -> None:
        linf_kernel[(triton.cdiv(numel, config.tiles["BLOCK"]),)](
            *inputs, target, *counters, numel, step_size, epsilon, WIDE=wide, **config.arguments()
        )

    def rehearse(config: Config) -> None:  # a timed launch must neither move the images nor count
        launch(config, torch.empty_like(target), None, None)

    with torch.cuda.device_of(out):
        if config is None:
            config = choose(
                "linf_kernel",
                (power_of_two(numel, 1 << 10, 1 << 30), str(gradient.dtype), wide),
                INTERPRETER_CONFIGS if INTERPRETED else CONFIGS,
                out.device,
                rehearse,
            )
        launch(config, target, nonfinite, zero)
        count_launch("linf_kernel")
        if target is not out:
            out.copy_(target)


def in_one_layout(inputs: tuple[Tensor, ...], out: Tensor) -> tuple[list[Tensor], Tensor]:
    """The tensors in `out`'s memory format, copied where they lie otherwise; contiguous copies where `out` has gaps."""
    for layout in FORMATS:
        if out.is_contiguous(memory_format=layout):
            return [tensor.contiguous(memory_format=layout) for tensor in inputs], out
    return [tensor.contiguous() for tensor in inputs], torch.empty(
        out.shape, dtype=out.dtype, device=out.device
    )
