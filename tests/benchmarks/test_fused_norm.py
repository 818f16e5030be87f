"""The fused BatchNorm of the attempts against torch's own, in triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from benchmarks.engine.fused_norm import Plan, norm


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
    residual, upstream = (torch.randn_like(x) for _ in range(2))
    counter = torch.zeros(4, dtype=torch.int32, device=device)
    results = []
    for module in (ours, theirs):
        for _ in range(2):  # the second call needs the counters back at 0
            inputs = [t.clone().requires_grad_() for t in ([x, residual] if with_residual else [x])]
            other = inputs[1] if with_residual else None
            if module is ours:
                y = norm(inputs[0], module, counter, residual=other, relu=relu)
            else:
                y = module(inputs[0]) + (0 if other is None else other)
                y = functional.relu(y) if relu else y
            gradients = torch.autograd.grad(y, inputs, upstream)
        results.append((y, *gradients, module.running_mean, module.running_var))
    for got, wanted in zip(*results, strict=True):
        close = torch.isclose(got, wanted, rtol=1e-4, atol=1e-4)
        # rounding may put a value on the other side of the ReLU's kink
        assert float((~close).double().mean()) <= (1e-4 if got.dim() == 4 and relu else 0)
    assert not counter.any()


def test_a_nan_is_not_swallowed(device) -> None:
    x = torch.randn(2, 4, 3, 3, device=device).contiguous(memory_format=torch.channels_last)
    x[0, 1] = float("nan")
    module = nn.BatchNorm2d(4).to(device).requires_grad_(False)
    y = norm(x, module, torch.zeros(1, dtype=torch.int32, device=device))
    assert y.isnan().any(dim=(0, 2, 3)).tolist() == [False, True, False, False]


@pytest.mark.parametrize(("rows", "channels"), [(131072, 64), (32768, 128), (8192, 256), (2048, 512), (7, 3)])
def test_every_row_is_in_one_share(rows: int, channels: int) -> None:
    plan = Plan(rows, channels)
    assert (plan.shares - 1) * plan.rows_per_share < rows <= plan.shares * plan.rows_per_share
    assert plan.rows_per_share % plan.block_r == 0
    assert plan.shares * plan.blocks <= 132
    assert plan.applying[0] * plan.apply_r >= rows
