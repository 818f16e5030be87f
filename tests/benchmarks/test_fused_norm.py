"""The fused BatchNorm of the attempts against torch's own, in triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from benchmarks.attempts.fused_norm import Plan, masked_sum, norm_backward, norm_forward


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.parametrize("shape", [(3, 5, 7, 7), (2, 130, 4, 4), (24, 16, 12, 12)])
def test_values_gradients_and_statistics(device, shape, with_residual: bool, relu: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = (nn.BatchNorm2d(shape[1]).to(device).requires_grad_(False) for _ in range(2))
    for module in (ours, theirs):
        generator = torch.Generator().manual_seed(1)
        for tensor in (module.weight, module.bias, module.running_mean):
            tensor.copy_(torch.randn(shape[1], generator=generator))
    x = (3 * torch.randn(shape, device=device) + 5).contiguous(memory_format=torch.channels_last)
    residual, upstream, other = (torch.randn_like(x) for _ in range(3))
    residual = residual if with_residual else None
    other = other if relu else None
    counter = torch.zeros(4, dtype=torch.int32, device=device)
    for _ in range(2):  # the second call needs the counters back at 0
        saved = norm_forward(x, ours, counter, residual=residual, relu=relu)
        found = norm_backward(saved, upstream, other=other, branch=with_residual)
        leaves = [t.clone().requires_grad_() for t in (x, residual) if t is not None]
        y = theirs(leaves[0]) + (leaves[1] if with_residual else 0)
        y = functional.relu(y) if relu else y
        wanted = torch.autograd.grad(y, leaves, upstream if other is None else upstream + other)
    assert (found[1] is not None) == with_residual
    pairs = [(saved.y, y), *zip([g for g in found if g is not None], wanted, strict=True)]
    for got, right in [
        *pairs,
        (ours.running_mean, theirs.running_mean),
        (ours.running_var, theirs.running_var),
    ]:
        close = torch.isclose(got, right, rtol=1e-4, atol=1e-4)
        # rounding may put a value on the other side of the ReLU's kink
        assert float((~close).double().mean()) <= (1e-4 if got.dim() == 4 and relu else 0)
    assert not counter.any()


def test_a_nan_is_not_swallowed(device) -> None:
    x = torch.randn(2, 4, 3, 3, device=device).contiguous(memory_format=torch.channels_last)
    x[0, 1] = float("nan")
    module = nn.BatchNorm2d(4).to(device).requires_grad_(False)
    saved = norm_forward(x, module, torch.zeros(1, dtype=torch.int32, device=device))
    wanted = [False, True, False, False]
    assert saved.y.isnan().any(dim=(0, 2, 3)).tolist() == wanted
    gradient, _ = norm_backward(saved, torch.ones_like(x))
    assert gradient.isnan().any(dim=(0, 2, 3)).tolist() == wanted


@pytest.mark.parametrize("two", [True, False])
def test_gradient_before_a_relu(device, two: bool) -> None:
    torch.manual_seed(0)
    before = torch.randn(3, 5, 7, 11, device=device).contiguous(memory_format=torch.channels_last)
    upstream, other = torch.randn_like(before), torch.randn_like(before) if two else None
    leaf = before.clone().requires_grad_()
    y = functional.relu(leaf)
    (wanted,) = torch.autograd.grad(y, leaf, upstream if other is None else upstream + other)
    assert torch.equal(masked_sum(upstream, y.detach(), other), wanted)


@pytest.mark.parametrize(("rows", "channels"), [(131072, 64), (32768, 128), (8192, 256), (2048, 512), (7, 3)])
def test_every_row_is_in_one_share(rows: int, channels: int) -> None:
    plan = Plan(rows, channels)
    assert (plan.shares - 1) * plan.rows_per_share < rows <= plan.shares * plan.rows_per_share
    assert plan.rows_per_share % plan.block_r == 0
    assert plan.shares * plan.blocks <= 132
    assert plan.applying[0] * plan.apply_r >= rows
