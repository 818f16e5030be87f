"""The margin-loss kernels against the float64 oracle and the torch reference: values, gradients, corner cases."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from srat_kernels import last_backend, margin_loss
from srat_kernels.loss.op import Settings, srat_forward
from srat_kernels.loss.reference import margin_loss_reference
from tests.kernels import oracle
from tests.kernels.accuracy import assert_as_accurate

DEFAULTS: dict[str, Any] = {
    "class_weights": None,
    "margins": None,
    "bias": None,
    "inverse_temperature": None,
    "scale": 1.0,
    "focal_gamma": 0.0,
    "focal_weighting": "outside",
    "reduction": "weighted_mean",
}


def compare(logits: Tensor, labels: Tensor, *, gradients: bool = True, **options: Any) -> None:
    """Kernel, reference and oracle on one input: value and gradient."""
    options = {**DEFAULTS, **options}
    x = logits.detach().requires_grad_()
    exact_x = logits.detach().double().requires_grad_()
    kernel = margin_loss(x, labels, backend="triton", **options)
    assert last_backend("margin_loss") == "triton"
    assert kernel.dtype == torch.float32
    assert kernel.shape == ()
    reference = margin_loss(x, labels, backend="torch", **options)
    exact = oracle.margin(exact_x, labels, **options)
    assert_as_accurate(kernel, reference, exact)
    if gradients:
        (kernel_gradient,) = torch.autograd.grad(kernel, x)
        assert kernel_gradient.dtype == x.dtype
        (reference_gradient,) = torch.autograd.grad(reference, x)
        (exact_gradient,) = torch.autograd.grad(exact, exact_x)
        assert_as_accurate(kernel_gradient, reference_gradient, exact_gradient, "gradient")


def ldam(classes: int, device: torch.device) -> dict[str, Any]:
    """Class weights over two orders of magnitude, LDAM's margins and scale."""
    return {
        "class_weights": torch.logspace(0, 2, classes, device=device),
        "margins": torch.linspace(0.1, 0.5, classes, device=device),
        "scale": 30.0,
    }


def adjusted(classes: int, device: torch.device) -> dict[str, Any]:
    """Every vector of the adjusted cross-entropy at once."""
    return {
        **ldam(classes, device),
        "bias": torch.linspace(-1, -5, classes, device=device),
        "inverse_temperature": torch.linspace(1, 0.3, classes, device=device),
        "scale": 10.0,
    }


@pytest.mark.parametrize("batch", [1, 2, 63, 128])
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_sizes(batch: int, classes: int, device: torch.device) -> None:
    logits, labels = (
        torch.randn(batch, classes, device=device),
        torch.randint(classes, (batch,), device=device),
    )
    compare(logits, labels)
    compare(logits, labels, **ldam(classes, device))
    compare(logits, labels, **adjusted(classes, device))


@pytest.mark.parametrize(("batch", "classes"), [(1000, 10), (20, 1000)])
def test_more_than_a_tile_holds(batch: int, classes: int, device: torch.device) -> None:
    compare(torch.randn(batch, classes, device=device), torch.randint(classes, (batch,), device=device))


@pytest.mark.parametrize("reduction", ["weighted_mean", "batch"])
@pytest.mark.parametrize("focal_weighting", ["outside", "inside"])
@pytest.mark.parametrize("focal_gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("vectors", ["none", "weights", "bias", "temperature"])
def test_every_choice(
    reduction: str, focal_weighting: str, focal_gamma: float, vectors: str, device: torch.device
) -> None:
    compare(
        3 * torch.randn(40, 10, device=device),
        torch.randint(10, (40,), device=device),
        class_weights=torch.logspace(-1, 1, 10, device=device) if vectors != "none" else None,
        bias=torch.linspace(-1, -5, 10, device=device) if vectors == "bias" else None,
        inverse_temperature=torch.linspace(1, 0.3, 10, device=device) if vectors == "temperature" else None,
        reduction=reduction,
        focal_weighting=focal_weighting,
        focal_gamma=focal_gamma,
    )


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_neutral_vectors_change_no_bit(backend: str, device: torch.device) -> None:
    x = torch.randn(40, 10, device=device, requires_grad=True)
    labels = torch.randint(10, (40,), device=device)
    neutral = {"bias": torch.zeros(10, device=device), "inverse_temperature": torch.ones(10, device=device)}
    results = []
    for vectors in ({}, neutral):
        options = {**ldam(10, device), "focal_gamma": 1.0, **vectors}
        loss = margin_loss(x, labels, backend=backend, **options)
        results.append((loss.detach(), *torch.autograd.grad(loss, x)))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_published_losses_are_settings(backend: str, device: torch.device) -> None:
    """CIFAR-10-LT of ratio 50: logit adjustment, CDT, CosFace and RoBal's margin loss as their papers write them."""
    counts = torch.tensor([5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100.0], device=device)
    prior = (counts / counts.sum()).log()
    logits, labels = torch.randn(40, 10, device=device), torch.randint(10, (40,), device=device)
    true = one_hot(labels, 10)
    temperature = (counts.max() / counts) ** 0.3
    robal = 0.1 + 0.3 / 10 * (counts / counts.min()).log()
    torch.testing.assert_close(prior[[0, 9]].cpu(), torch.tensor([-1.029, -4.941]), rtol=0, atol=6e-4)
    torch.testing.assert_close(temperature[[1, 9]].cpu(), torch.tensor([1.139, 3.234]), rtol=0, atol=6e-4)
    torch.testing.assert_close(robal[[0, 9]].cpu(), torch.tensor([0.217, 0.100]), rtol=0, atol=6e-4)
    for options, written in (
        ({"bias": prior}, logits + prior),
        ({"bias": counts.log()}, logits + prior),  # balanced softmax: the constant ln N cancels
        ({"inverse_temperature": 1 / temperature}, logits / temperature),
        ({"margins": torch.full_like(counts, 0.2), "scale": 15.0}, 15 * (logits - 0.2 * true)),
        (
            {"margins": robal, "scale": 10.0, "bias": 1.5 * prior},
            10 * (logits - robal * true) + 1.5 * prior,
        ),
    ):
        torch.testing.assert_close(
            margin_loss(logits, labels, backend=backend, **options), cross_entropy(written, labels)
        )


@pytest.mark.parametrize("labels", [[3] * 12, list(range(12)), [0, 11] * 6])
def test_classes_all_one_all_distinct_or_mostly_absent(labels: list[int], device: torch.device) -> None:
    compare(torch.randn(12, 12, device=device), torch.tensor(labels, device=device), **ldam(12, device))


@pytest.mark.parametrize("focal_gamma", [0.0, 1.0])
@pytest.mark.parametrize("size", [1e2, 1e4])
def test_large_logits(size: float, focal_gamma: float, device: torch.device) -> None:
    """Where the true class is far on top the loss is 0, far below it is the distance: nothing overflows."""
    logits = size * torch.randn(32, 10, device=device)
    compare(logits, torch.randint(10, (32,), device=device), focal_gamma=focal_gamma)
    compare(logits, logits.argmax(dim=1), focal_gamma=focal_gamma, scale=30.0)


def test_classes_masked_by_minus_infinity(device: torch.device) -> None:
    """More of them than a tile holds: their probability and gradient are 0."""
    logits = torch.randn(8, 200, device=device)
    logits[:, :190] = -float("inf")
    compare(logits, torch.randint(190, 200, (8,), device=device))


def test_a_class_without_images_may_have_the_bias_minus_infinity(device: torch.device) -> None:
    logits, labels = torch.randn(8, 200, device=device), torch.randint(150, (8,), device=device)
    bias = torch.zeros(200, device=device)
    bias[150:] = -float("inf")
    compare(logits, labels, bias=bias)


@pytest.mark.parametrize("name", ["class_weights", "margins", "bias", "inverse_temperature"])
def test_the_kernels_refuse_a_vector_that_wants_a_gradient(name: str, device: torch.device) -> None:
    logits, labels = torch.randn(8, 4, device=device), torch.randint(4, (8,), device=device)
    vector = torch.ones(4, device=device, requires_grad=True)
    with pytest.raises(ValueError, match=f"{name}: requires a gradient"):
        margin_loss(logits, labels, backend="triton", **{name: vector})
    (gradient,) = torch.autograd.grad(margin_loss(logits, labels, backend="torch", **{name: vector}), vector)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("focal_gamma", [0.5, 1.0, 2.0])
def test_focal_keeps_its_accuracy_where_the_loss_is_small(focal_gamma: float, device: torch.device) -> None:
    logits = torch.zeros(24, 5, device=device)
    logits[:, 1] = torch.linspace(1, 14, 24, device=device)  # 1 - p from 0.6 down to 3e-6
    compare(logits, torch.ones(24, dtype=torch.long, device=device), focal_gamma=focal_gamma)


def test_int32_labels_and_strided_inputs(device: torch.device) -> None:
    wide = torch.randn(30, 40, device=device)
    labels = torch.randint(10, (60,), device=device, dtype=torch.int32)
    weights = torch.rand(20, device=device) + 0.5
    compare(wide[:, ::4], labels[::2], class_weights=weights[::2], margins=weights[1::2])
    compare(wide[:, ::4], labels[::2], bias=weights[::2], inverse_temperature=weights[1::2])
    compare(wide[:10].T.contiguous().T[:, :10], labels[:10])
    compare(wide[:1, :10].expand(30, 10), labels[:30])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits(dtype: torch.dtype, device: torch.device) -> None:
    """See the test of the same name in test_separation.py for bfloat16 gradients."""
    rounds = dtype != torch.bfloat16 or torch.cuda.is_available()
    logits, labels = torch.randn(40, 10, device=device).to(dtype), torch.randint(10, (40,), device=device)
    compare(logits, labels, gradients=rounds, **ldam(10, device))


def test_float64_weights_beside_float32_logits(device: torch.device) -> None:
    weights = torch.rand(10, dtype=torch.float64, device=device) + 0.5
    compare(
        torch.randn(20, 10, device=device), torch.randint(10, (20,), device=device), class_weights=weights
    )


def test_class_weights_are_read_at_every_call(device: torch.device) -> None:
    logits, labels = torch.randn(20, 4, device=device), torch.randint(4, (20,), device=device)
    weights = torch.ones(4, device=device)
    before = margin_loss(logits, labels, class_weights=weights, reduction="batch", backend="triton")
    weights.mul_(3.0)
    after = margin_loss(logits, labels, class_weights=weights, reduction="batch", backend="triton")
    torch.testing.assert_close(after, 3 * before)


@pytest.mark.parametrize("reduction", ["weighted_mean", "batch"])
@pytest.mark.parametrize("label", [-1, 10, 1 << 30, 1 << 33])
def test_a_label_out_of_range_gives_nan_and_touches_nothing(
    label: int, reduction: str, device: torch.device
) -> None:
    """Called below the public op, whose check on a CPU would refuse the label.

    A kernel that used 2^30 as an index would read four gigabytes away and not live to tell.
    """
    logits, ones = torch.randn(10, 10, device=device), torch.ones(10, device=device)
    labels = torch.randint(10, (10,), device=device)
    labels[4] = label
    weighted = reduction == "weighted_mean"
    settings = Settings(focal_gamma=1.0, weighted_mean=weighted)
    _, loss, *_, slopes, _ = srat_forward(None, logits, labels, ones, ones, ones, ones, *settings)
    assert loss.isnan()
    bad = slopes.isnan().any(dim=1).nonzero().flatten().tolist()
    assert bad == [4], "the other rows are computed as ever"


def test_all_weights_zero_is_nan_as_in_the_reference(device: torch.device) -> None:
    logits, labels = torch.randn(5, 3, device=device), torch.zeros(5, dtype=torch.long, device=device)
    weights = torch.zeros(3, device=device)
    for backend in ("triton", "torch"):
        assert margin_loss(logits, labels, class_weights=weights, backend=backend).isnan()


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 40),
    classes=st.integers(1, 40),
    scale=st.floats(0.1, 30),
    gamma=st.sampled_from([0.0, 0.7, 1.0, 3.0]),
    weighting=st.sampled_from(["outside", "inside"]),
    reduction=st.sampled_from(["weighted_mean", "batch"]),
    seed=st.integers(0, 1000),
)
def test_any_small_batch(
    batch: int, classes: int, scale: float, gamma: float, weighting: str, reduction: str, seed: int
) -> None:
    where = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(seed)
    compare(
        torch.randn(batch, classes, generator=generator).to(where),
        torch.randint(classes, (batch,), generator=generator).to(where),
        class_weights=(torch.rand(classes, generator=generator) + 0.1).to(where),
        margins=torch.rand(classes, generator=generator).to(where),
        bias=torch.randn(classes, generator=generator).to(where) if seed % 2 else None,
        inverse_temperature=(torch.rand(classes, generator=generator) + 0.1).to(where) if seed % 3 else None,
        scale=scale,
        focal_gamma=gamma,
        focal_weighting=weighting,
        reduction=reduction,
    )


@pytest.mark.parametrize("focal_weighting", ["outside", "inside"])
@pytest.mark.parametrize("focal_gamma", [0.0, 1.0, 2.5])
def test_gradcheck_of_the_reference(focal_gamma: float, focal_weighting: str) -> None:
    logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 1, 3, 0, 2])
    weights, margins = torch.rand(4, dtype=torch.float64) + 0.5, torch.rand(4, dtype=torch.float64)
    bias, sharpness = torch.randn(4, dtype=torch.float64), torch.rand(4, dtype=torch.float64) + 0.5
    for reduction in ("weighted_mean", "batch"):
        assert torch.autograd.gradcheck(
            lambda x, how=reduction: margin_loss_reference(
                x,
                labels,
                class_weights=weights,
                margins=margins,
                bias=bias,
                inverse_temperature=sharpness,
                scale=2.0,
                focal_gamma=focal_gamma,
                focal_weighting=focal_weighting,
                reduction=how,
            ),
            logits,
        )
