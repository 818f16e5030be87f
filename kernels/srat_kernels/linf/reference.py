"""The L-infinity step in plain torch: ascend by the sign, project, clip."""

from __future__ import annotations

import torch
from torch import Tensor


def linf_step_reference(
    adversarial: Tensor,
    gradient: Tensor,
    clean: Tensor,
    *,
    step_size: float | Tensor,
    epsilon: float | Tensor,
    nonfinite: Tensor | None = None,
    zero: Tensor | None = None,
    inplace: bool = False,
) -> Tensor:
    """x' <- clamp( project_{|x' - x| <= eps}( x' + alpha sign(g) ), 0, 1 ), with sign(0) = sign(NaN) = 0."""
    if nonfinite is not None:
        nonfinite += (~torch.isfinite(gradient)).sum()
    if zero is not None:
        zero += (gradient == 0).sum()
    direction = torch.nan_to_num(torch.sign(gradient), nan=0.0).to(adversarial.dtype)
    moved = adversarial + step_size * direction
    moved = torch.minimum(torch.maximum(moved, clean - epsilon), clean + epsilon).clamp(0.0, 1.0)
    return adversarial.copy_(moved) if inplace else moved
