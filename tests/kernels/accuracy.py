"""The numerics contract as one function: a kernel may err at most twice as much as the torch reference does.

Both are compared with the float64 oracle. FLOOR is added because the reference may be exact by luck: eight units in the
last place of float32, relative to the largest entry.
"""

from __future__ import annotations

import torch
from torch import Tensor

FLOOR = 8 * torch.finfo(torch.float32).eps


def assert_as_accurate(
    kernel: Tensor, reference: Tensor, oracle: Tensor, what: str = "value", growth: float = 1.0
) -> None:
    """Fail unless max |kernel - oracle| <= 2 max |reference - oracle| + growth FLOOR max |oracle|."""
    assert torch.isfinite(kernel).all(), f"{what}: not finite"
    exact = oracle.detach().double().cpu()
    error = float((kernel.detach().double().cpu() - exact).abs().max())
    allowed = 2 * float((reference.detach().double().cpu() - exact).abs().max())
    allowed += growth * FLOOR * float(exact.abs().max())
    assert error <= allowed, f"{what}: error {error:.3g}, allowed {allowed:.3g}"
