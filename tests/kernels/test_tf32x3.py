"""Why `similarity` scales every product on its way into the sum: tensor cores, emulated, with and without it.

An emulation (operands split in two TF32 parts, exact products, sums of 8 terms truncated to float32), no measurement.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def tf32(x: Tensor) -> Tensor:
    """Rounded to 10 bits of mantissa."""
    return ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def truncated(x: Tensor) -> Tensor:
    """Float64 to float32 towards zero."""
    nearest = x.float()
    return torch.where(nearest.double().abs() > x.abs(), torch.nextafter(nearest, torch.zeros(())), nearest)


def product(z: Tensor, tile: int) -> Tensor:
    """z z^T by three TF32 products, the accumulator emptied after every `tile` columns."""
    big = tf32(z)
    small = tf32(z - big)
    total = torch.zeros(len(z), len(z))
    for start in range(0, z.shape[1], tile):
        accumulator = torch.zeros_like(total)
        for left, right in ((small, big), (big, small), (big, big)):
            for k in range(start, start + tile, 8):
                step = left[:, k : k + 8].double() @ right[:, k : k + 8].double().T
                accumulator = truncated(accumulator.double() + step)
        total += accumulator
    return total


def test_short_chains_are_as_good_as_float32() -> None:
    torch.manual_seed(0)
    z = normalize(torch.randn(96, 512), dim=1)
    exact = z.double() @ z.double().T

    def error(result: Tensor) -> float:
        return float((result.double() - exact).abs().max())

    assert error(product(z, 32)) <= 1.5 * error(z @ z.T)
    assert error(product(z, 64)) <= 1.5 * error(z @ z.T)
    # float32 itself rounds differently with the BLAS and its threads: 3.9 to 5 times on the machines seen
    assert error(product(z, 512)) > 3 * error(z @ z.T), "the chain that the kernels avoid"
