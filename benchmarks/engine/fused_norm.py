"""BatchNorm (train mode), sum and ReLU as one differentiable step: channels_last activations enter and leave.

Only the input and the other branch get gradients: an attack needs no others.
"""

from __future__ import annotations

from typing import Any

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


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor | None, norm: nn.BatchNorm2d, counter: Tensor, relu: bool
    ) -> Tensor:
        from benchmarks.engine.norm_kernels import forward_apply_kernel, forward_sums_kernel

        assert x.is_contiguous(memory_format=torch.channels_last)
        assert residual is None or residual.stride() == x.stride()
        channels = x.shape[1]
        rows = x.numel() // channels
        plan = Plan(rows, channels)
        partial = x.new_empty((2, plan.shares, channels), dtype=torch.float32)
        mean, rstd = x.new_empty((2, channels), dtype=torch.float32)
        forward_sums_kernel[plan.summing](
            x, norm.running_mean, norm.running_var, partial, mean, rstd, counter,
            rows, channels, plan.rows_per_share, norm.momentum, norm.eps, **plan.sums(),
        )  # fmt: skip
        y = torch.empty_like(x)
        forward_apply_kernel[plan.applying](
            x, mean, rstd, norm.weight, norm.bias, residual, y, rows, channels, RELU=relu, **plan.applies()
        )
        ctx.save_for_backward(x, y, mean, rstd, norm.weight, counter)
        ctx.relu, ctx.has_residual, ctx.plan = relu, residual is not None, plan
        return y

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        from benchmarks.engine.norm_kernels import backward_apply_kernel, backward_sums_kernel

        x, y, mean, rstd, weight, counter = ctx.saved_tensors
        plan, channels = ctx.plan, x.shape[1]
        rows = x.numel() // channels
        upstream = upstream.contiguous(memory_format=torch.channels_last)
        partial = x.new_empty((2, plan.shares, channels), dtype=torch.float32)
        centre, slope = x.new_empty((2, channels), dtype=torch.float32)
        backward_sums_kernel[plan.summing](
            upstream, x, y, mean, rstd, partial, centre, slope, counter,
            rows, channels, plan.rows_per_share, RELU=ctx.relu, **plan.sums(),
        )  # fmt: skip
        gradient = torch.empty_like(x)
        other = torch.empty_like(x) if ctx.has_residual else None
        backward_apply_kernel[plan.applying](
            upstream, x, y, mean, rstd, weight, centre, slope, gradient, other,
            rows, channels, RELU=ctx.relu, **plan.applies(),
        )  # fmt: skip
        return gradient, other, None, None, None


def norm(
    x: Tensor, module: nn.BatchNorm2d, counter: Tensor, *, residual: Tensor | None = None, relu: bool = True
) -> Tensor:
    """relu( BatchNorm(x) + residual ) with batch statistics; the running ones are updated.

    Args:
        x: [B, C, H, W] in channels_last.
        module: affine, with running statistics; its mode is not read, `num_batches_tracked` is not counted.
        counter: [at least C / 64] int32 zeros, of this layer alone.
        residual: like x.
        relu: whether the last step is one.

    Returns:
        Like x.
    """
    return _Norm.apply(x, residual, module, counter, relu)
