"""The separation kernels against the float64 oracle and the torch reference: values, gradients, corner cases."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from srat_kernels import last_backend, separation_loss
from srat_kernels.loss.reference import separation_loss_reference
from tests.kernels import oracle
from tests.kernels.accuracy import assert_as_accurate


def gradient_of(loss: Tensor, features: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, features)
    return gradient


def compare(
    features: Tensor,
    labels: Tensor,
    temperature: float = 0.07,
    empty_anchors: str = "drop",
    precision: str = "tf32x3",
    *,
    gradients: bool = True,
    growth: float = 1.0,
) -> None:
    """Kernel, reference and oracle on one input: value and gradient; `growth` as in `assert_as_accurate`."""
    z = features.detach().requires_grad_()
    exact_z = features.detach().double().requires_grad_()
    kernel = separation_loss(
        z, labels, temperature=temperature, empty_anchors=empty_anchors, precision=precision, backend="triton"
    )
    assert last_backend("separation_loss") == "triton"
    assert kernel.dtype == torch.float32
    assert kernel.shape == ()
    reference = separation_loss(
        z, labels, temperature=temperature, empty_anchors=empty_anchors, backend="torch"
    )
    assert last_backend("separation_loss") == "torch"
    exact = oracle.separation(exact_z, labels, temperature, empty_anchors)
    assert_as_accurate(kernel, reference, exact)
    if not gradients:
        return
    kernel_gradient = gradient_of(kernel, z)
    assert kernel_gradient.dtype == z.dtype
    right = gradient_of(exact, exact_z)
    assert_as_accurate(kernel_gradient, gradient_of(reference, z), right, "gradient", growth)


def unit(batch: int, dims: int, device: torch.device) -> Tensor:
    return normalize(torch.randn(batch, dims), dim=1).to(device)


@pytest.mark.parametrize("batch", [1, 2, 63, 128])
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_sizes(batch: int, classes: int, device: torch.device) -> None:
    compare(unit(batch, 32, device), torch.randint(classes, (batch,), device=device))


def test_a_thousand_anchors_that_fill_no_tile(device: torch.device) -> None:
    compare(unit(1000, 48, device), torch.randint(10, (1000,), device=device))


@pytest.mark.parametrize("dims", [1, 3, 100, 128, 130, 512])
def test_widths(dims: int, device: torch.device) -> None:
    compare(unit(40, dims, device), torch.randint(3, (40,), device=device))


@pytest.mark.parametrize("empty_anchors", ["drop", "zero"])
@pytest.mark.parametrize(
    "labels",
    [
        pytest.param([7] * 20, id="all-one-class"),
        pytest.param([0, 0, *range(1, 19)], id="one-pair-among-singletons"),
        pytest.param([5, -3, 1 << 40, 5, 900, -3], id="labels-need-not-be-small"),
    ],
)
def test_anchors_and_positives(labels: list[int], empty_anchors: str, device: torch.device) -> None:
    compare(unit(len(labels), 24, device), torch.tensor(labels, device=device), empty_anchors=empty_anchors)


@pytest.mark.parametrize("empty_anchors", ["drop", "zero"])
@pytest.mark.parametrize("batch", [1, 2, 50])
def test_no_positive_at_all_is_zero_with_zero_gradient(
    batch: int, empty_anchors: str, device: torch.device
) -> None:
    z = unit(batch, 16, device).requires_grad_()
    loss = separation_loss(
        z, torch.arange(batch, device=device), empty_anchors=empty_anchors, backend="triton"
    )
    assert loss.item() == 0.0
    torch.testing.assert_close(gradient_of(loss, z), torch.zeros_like(z), rtol=0, atol=0)


@pytest.mark.parametrize("temperature", [0.005, 0.07, 1.0, 50.0])
def test_temperatures(temperature: float, device: torch.device) -> None:
    compare(unit(64, 32, device), torch.randint(4, (64,), device=device), temperature)


@pytest.mark.parametrize("norm", [0.01, 1.0, 4.0, 45.0, 450.0])
def test_features_need_not_be_normalised(norm: float, device: torch.device) -> None:
    """Beyond unit rows the gradient's error grows with the exponents that the backward computes again."""
    z = norm * unit(48, 20, device)
    compare(z, torch.randint(4, (48,), device=device), growth=max(1.0, norm**2))


def test_identical_features(device: torch.device) -> None:
    compare(unit(1, 16, device).repeat(30, 1), torch.randint(2, (30,), device=device))


def test_int32_labels_and_strided_inputs(device: torch.device) -> None:
    wide = unit(60, 64, device)
    labels = torch.randint(3, (120,), device=device, dtype=torch.int32)
    compare(wide[:, ::2], labels[::2])
    compare(wide.T.contiguous().T, labels[:60])
    compare(wide[:1].expand(5, 64), labels[:5])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features(dtype: torch.dtype, device: torch.device) -> None:
    """Loaded as they are, computed in float32: only the gradient is rounded to the input's type.

    The interpreter rounds towards zero when it stores bfloat16, so that gradient is compared on a GPU only.
    """
    rounds = dtype != torch.bfloat16 or torch.cuda.is_available()
    compare(unit(70, 40, device).to(dtype), torch.randint(5, (70,), device=device), gradients=rounds)


def test_both_precisions_that_are_faithful(device: torch.device) -> None:
    z, labels = unit(128, 128, device), torch.randint(10, (128,), device=device)
    for precision in ("tf32x3", "ieee"):
        compare(z, labels, precision=precision)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the interpreter multiplies bfloat16 wrongly")
def test_bf16_dots_err_no_more_than_bf16_features(device: torch.device) -> None:
    z, labels = unit(256, 128, device), torch.randint(10, (256,), device=device)
    inputs = z.requires_grad_(), z.detach().bfloat16().requires_grad_(), z.detach().double().requires_grad_()
    kernel = separation_loss(inputs[0], labels, precision="bf16", backend="triton")
    rounded = separation_loss(inputs[1], labels, backend="torch")
    exact = oracle.separation(inputs[2], labels, 0.07, "drop")
    torch.testing.assert_close(kernel.double(), exact, rtol=1e-2, atol=0)  # one number may be right by luck
    gradients = (gradient_of(loss, z) for loss, z in zip((kernel, rounded, exact), inputs, strict=True))
    assert_as_accurate(*gradients, what="gradient")


def test_the_upstream_gradient_multiplies(device: torch.device) -> None:
    z = unit(32, 16, device).requires_grad_()
    labels = torch.randint(3, (32,), device=device)
    once = gradient_of(separation_loss(z, labels, backend="triton"), z)
    thrice = gradient_of(-3.0 * separation_loss(z, labels, backend="triton"), z)
    torch.testing.assert_close(thrice, -3.0 * once)


def test_a_nan_feature_is_not_hidden(device: torch.device) -> None:
    z = unit(32, 16, device)
    z[5, 3] = float("nan")
    assert separation_loss(z, torch.randint(3, (32,), device=device), backend="triton").isnan()


def test_twice_the_same_bits(device: torch.device) -> None:
    z = unit(300, 64, device).requires_grad_()
    labels = torch.randint(10, (300,), device=device)
    losses = [separation_loss(z, labels, backend="triton") for _ in range(2)]
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=0)
    torch.testing.assert_close(gradient_of(losses[0], z), gradient_of(losses[1], z), rtol=0, atol=0)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    dims=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
def test_any_small_batch(labels: list[int], dims: int, seed: int) -> None:
    where = "cuda" if torch.cuda.is_available() else "cpu"
    z = normalize(torch.randn(len(labels), dims, generator=torch.Generator().manual_seed(seed)), dim=1)
    compare(z.to(where), torch.tensor(labels, device=where))


@settings(max_examples=6, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000))
def test_the_order_of_the_batch_does_not_matter(seed: int) -> None:
    where = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(seed)
    z = normalize(torch.randn(70, 16, generator=generator), dim=1).to(where)
    labels = torch.randint(5, (70,), generator=generator).to(where)
    order = torch.randperm(70, generator=generator).to(where)
    torch.testing.assert_close(
        separation_loss(z[order], labels[order], backend="triton"),
        separation_loss(z, labels, backend="triton"),
    )


def test_gradcheck_of_the_reference() -> None:
    z = normalize(torch.randn(9, 5, dtype=torch.float64), dim=1).requires_grad_()
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 3, 0, 2])
    for empty_anchors in ("drop", "zero"):
        assert torch.autograd.gradcheck(
            lambda f, how=empty_anchors: separation_loss_reference(f, labels, empty_anchors=how), z
        )
