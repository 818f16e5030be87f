"""BatchNorm (train mode), sum and ReLU as one step, there and back: channels_last activations enter and leave.

Only the input and the other branch get gradients: an attack needs no others.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

#: The summing launches: elements of a tile (32 KB in flight), at most one program a multiprocessor of an H200, as
#: the last of them reads what all others left. The applying launches share nothing: small tiles, many programs.
SUM_TILE, SUM_WARPS, PROGRAMS = 16384, 16, 132
APPLY_TILE, APPLY_WARPS = 4096, 4


class Plan:
    """Tiles of one shape.

    Args:
        rows: B * H * W.
        channels: C.
    """

    def __init__(self, rows: int, channels: int) -> None:
        self.block_c = min(64, 1 << (channels - 1).bit_length())
        self.blocks = -(-channels // self.block_c)
        most = max(16, 1 << (-(-rows * self.blocks // PROGRAMS) - 1).bit_length())  # rows of an even share
        self.block_r = min(SUM_TILE // self.block_c, most)
        tiles = -(-rows // self.block_r)
        each = -(-tiles // max(1, min(tiles, PROGRAMS // self.blocks)))  # tiles of a share
        self.rows_per_share = each * self.block_r
        self.shares = -(-tiles // each)
        self.apply_r = min(APPLY_TILE // self.block_c, max(16, 1 << (rows - 1).bit_length()))
        self.applying = (-(-rows // self.apply_r), self.blocks)

    @property
    def summing(self) -> tuple[int, int]:
        """The grid of the summing launches."""
        return self.shares, self.blocks

    def sums(self) -> dict[str, int]:
        """Tiles and warps of a summing launch."""
        return {"BLOCK_R": self.block_r, "BLOCK_C": self.block_c, "num_warps": SUM_WARPS}

    def applies(self) -> dict[str, int]:
        """Tiles and warps of an applying launch."""
        return {"BLOCK_R": self.apply_r, "BLOCK_C": self.block_c, "num_warps": APPLY_WARPS}


class Saved(NamedTuple):
    """What the way back needs of a layer: its input, output and statistics."""

    x: Tensor
    y: Tensor
    mean: Tensor
    rstd: Tensor
    weight: Tensor
    counter: Tensor
    relu: bool
    plan: Plan


def norm_forward(
    x: Tensor, module: nn.BatchNorm2d, counter: Tensor, *, residual: Tensor | None = None, relu: bool = True
) -> Saved:
    """y = relu( BatchNorm(x) + residual ) with batch statistics; the running ones are updated.

    Args:
        x: [B, C, H, W] in channels_last.
        module: affine, with running statistics; its mode is not read, `num_batches_tracked` is not counted.
        counter: [at least C / 64] int32 zeros, of this layer alone.
        residual: like x.
        relu: whether the last step is one.

    Returns:
        y, like x, and what `norm_backward` needs.
    """
    from benchmarks.attempts.norm_kernels import forward_apply_kernel, forward_sums_kernel

    assert x.is_contiguous(memory_format=torch.channels_last)
    assert residual is None or residual.stride() == x.stride()
    channels = x.shape[1]
    rows = x.numel() // channels
    plan = Plan(rows, channels)
    partial = x.new_empty((2, plan.shares, channels), dtype=torch.float32)
    mean, rstd = x.new_empty((2, channels), dtype=torch.float32)
    forward_sums_kernel[plan.summing](
        x, module.running_mean, module.running_var, partial, mean, rstd, counter,
        rows, channels, plan.rows_per_share, module.momentum, module.eps, **plan.sums(),
    )  # fmt: skip
    y = torch.empty_like(x)
    forward_apply_kernel[plan.applying](
        x, mean, rstd, module.weight, module.bias, residual, y, rows, channels, RELU=relu, **plan.applies()
    )
    return Saved(x, y, mean, rstd, module.weight, counter, relu, plan)


def norm_backward(
    saved: Saved, upstream: Tensor, *, other: Tensor | None = None, branch: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Gradients of x and, with `branch`, of the residual; parameters get none.

    Args:
        saved: as `norm_forward` gave it.
        upstream: gradient of y, in channels_last.
        other: another gradient of y, to be added: y may have two readers.
        branch: whether there was a residual whose gradient is wanted.

    Returns:
        Like x; the second None where it is not wanted.
    """
    from benchmarks.attempts.norm_kernels import backward_apply_kernel, backward_sums_kernel

    x, y, mean, rstd, weight, counter, relu, plan = saved
    assert upstream.stride() == x.stride()
    assert other is None or other.stride() == x.stride()
    channels = x.shape[1]
    rows = x.numel() // channels
    partial = x.new_empty((2, plan.shares, channels), dtype=torch.float32)
    centre, slope = x.new_empty((2, channels), dtype=torch.float32)
    backward_sums_kernel[plan.summing](
        upstream, other, x, y, mean, rstd, partial, centre, slope, counter,
        rows, channels, plan.rows_per_share, RELU=relu, **plan.sums(),
    )  # fmt: skip
    gradient = torch.empty_like(x)
    second = torch.empty_like(x) if branch else None
    backward_apply_kernel[plan.applying](
        upstream, other, x, y, mean, rstd, weight, centre, slope, gradient, second,
        rows, channels, RELU=relu, **plan.applies(),
    )  # fmt: skip
    return gradient, second


def masked_sum(upstream: Tensor, y: Tensor, other: Tensor | None = None) -> Tensor:
    """The gradient before a ReLU.

    Args:
        upstream: gradient of y.
        y: what left the ReLU; dense, all laid out alike.
        other: another gradient of y, to be added.

    Returns:
        Like y.
    """
    from benchmarks.attempts.norm_kernels import masked_sum_kernel

    assert upstream.stride() == y.stride()
    assert other is None or other.stride() == y.stride()
    gradient = torch.empty_like(y)
    programs = -(-y.numel() // APPLY_TILE)
    masked_sum_kernel[(programs,)](
        upstream, other, y, gradient, y.numel(), BLOCK=APPLY_TILE, num_warps=APPLY_WARPS
    )
    return gradient
