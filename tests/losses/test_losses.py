"""Every loss against the NumPy float64 oracle to 1e-6 relative, edge cases included; gradients by gradcheck."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from srat_fast.reference import losses as plain
from srat_kernels import margin_loss, separation_loss, srat_loss
from tests.losses import oracle

COUNTS = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]


def unit_rows(rows: int, width: int, seed: int = 0) -> np.ndarray:
    z = np.random.default_rng(seed).normal(size=(rows, width))
    return z / np.linalg.norm(z, axis=1, keepdims=True)


LABELS = {
    "mixed": [0, 1, 1, 2, 0, 3, 1, 9],
    "one class": [4] * 8,
    "all distinct (no positives)": list(range(8)),
    "one pair": [0, 1, 2, 3, 4, 5, 6, 6],
    "two items, one class": [7, 7],
    "two items, no positive": [1, 2],
    "one item": [3],
}


@pytest.mark.parametrize("empty_anchors", ["drop", "zero"])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
@pytest.mark.parametrize("tau", [0.07, 1.0])
def test_separation(labels: list[int], empty_anchors: str, tau: float) -> None:
    z, y = unit_rows(len(labels), 16), np.array(labels)
    expected = oracle.separation(z, y, tau, empty_anchors)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        features = torch.from_numpy(z).to(dtype).requires_grad_(True)
        value = separation_loss(features, torch.from_numpy(y), temperature=tau, empty_anchors=empty_anchors)
        slow = plain.separation(features, torch.from_numpy(y), tau, empty_anchors)
        assert value.item() == pytest.approx(expected, rel=tolerance, abs=1e-12)
        assert slow.item() == pytest.approx(expected, rel=tolerance, abs=1e-12)
        (fast_gradient,) = torch.autograd.grad(value, features)
        (slow_gradient,) = torch.autograd.grad(slow, features)
        assert torch.isfinite(fast_gradient).all()
        assert torch.allclose(
            fast_gradient, slow_gradient, rtol=0, atol=1e-10 if dtype == torch.float64 else 2e-5
        )
        if expected == 0 and len(set(labels)) == len(labels):
            assert not fast_gradient.any()


CHOICES = list(
    itertools.product(
        [False, True], [False, True], [0.0, 0.5, 1.0, 2.0], ["outside", "inside"], ["weighted_mean", "batch"]
    )
)


@pytest.mark.parametrize(("weighted", "margined", "gamma", "where", "reduction"), CHOICES)
def test_margin(weighted: bool, margined: bool, gamma: float, where: str, reduction: str) -> None:
    generator = np.random.default_rng(5)
    logits, labels = (
        generator.normal(size=(12, 10)) * 3,
        generator.integers(0, 6, 12),
    )  # classes 6 to 9 are absent
    weights = oracle.class_balanced(COUNTS, 0.9999) if weighted else None
    margins = oracle.ldam(COUNTS, 0.5) if margined else None
    scale = 30.0 if margined else 1.0
    expected = oracle.margin(
        logits, labels, weights, margins, scale, gamma, where == "inside", reduction == "batch"
    )
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
        value = margin_loss(
            torch.from_numpy(logits).to(dtype),
            torch.from_numpy(labels),
            class_weights=None if weights is None else torch.from_numpy(weights),
            margins=None if margins is None else torch.from_numpy(margins),
            scale=scale,
            focal_gamma=gamma,
            focal_weighting=where,
            reduction=reduction,
        )
        # float32 logits are rounded before they are multiplied by s = 30: that rounding, not the formula, is bounded
        assert value.item() == pytest.approx(expected, rel=tolerance, abs=1e-12)


@pytest.mark.parametrize("base", ["ce", "ldam", "focal"])
@pytest.mark.parametrize("where", ["outside", "inside"])
@pytest.mark.parametrize("reduction", ["weighted_mean", "batch"])
def test_the_reference_losses_equal_the_oracle(base: str, where: str, reduction: str) -> None:
    generator = np.random.default_rng(6)
    logits, labels = generator.normal(size=(12, 10)) * 3, generator.integers(0, 10, 12)
    weights, margins = oracle.class_balanced(COUNTS, 0.9999), oracle.ldam(COUNTS, 0.5)
    expected = oracle.margin(
        logits, labels, weights, margins if base == "ldam" else None, 30.0 if base == "ldam" else 1.0,
        1.0 if base == "focal" else 0.0, where == "inside", reduction == "batch",
    )  # fmt: skip
    none = torch.zeros(10)
    value = plain.classification(
        torch.from_numpy(logits), torch.from_numpy(labels), base=base, weights=torch.from_numpy(weights),
        adjustment=plain.Adjustment(30.0, torch.from_numpy(margins), none, none + 1), gamma=1.0,
        focal_weighting=where, reduction=reduction,
    )  # fmt: skip
    assert value.item() == pytest.approx(expected, rel=1e-12)


@given(
    rows=st.integers(1, 12),
    classes=st.integers(2, 12),
    spread=st.floats(0.01, 300),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_margin_holds_for_any_logits(rows: int, classes: int, spread: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    logits, labels = generator.normal(size=(rows, classes)) * spread, generator.integers(0, classes, rows)
    weights = generator.uniform(0.1, 80, classes)
    value = margin_loss(
        torch.from_numpy(logits), torch.from_numpy(labels), class_weights=torch.from_numpy(weights)
    )
    assert value.item() == pytest.approx(oracle.margin(logits, labels, weights), rel=1e-9, abs=1e-9)


def test_eq_7_adds_the_two_losses() -> None:
    z, logits = torch.from_numpy(unit_rows(8, 16)), torch.randn(8, 10, dtype=torch.float64)
    labels = torch.tensor(LABELS["mixed"])
    loss = srat_loss(z, logits, labels, separation_weight=3.0, temperature=0.2)
    assert loss.separation.item() == separation_loss(z, labels, temperature=0.2).item()
    assert loss.classification.item() == margin_loss(logits, labels).item()
    assert loss.total.item() == pytest.approx(
        loss.classification.item() + 3.0 * loss.separation.item(), rel=1e-14
    )


def test_gradients() -> None:
    labels = torch.tensor([0, 1, 1, 2, 0])
    z = torch.from_numpy(unit_rows(5, 6)).requires_grad_(True)
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([1.0, 5.0, 70.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda f: separation_loss(f, labels), z)
    for where in ("outside", "inside"):
        assert torch.autograd.gradcheck(
            lambda u, where=where: margin_loss(
                u,
                labels,
                class_weights=weights,
                margins=weights / 140,
                scale=3.0,
                focal_gamma=1.0,
                focal_weighting=where,
            ),
            logits,
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_give_float32_losses(dtype: torch.dtype) -> None:
    z, labels = torch.from_numpy(unit_rows(8, 16)).to(dtype), torch.tensor(LABELS["mixed"])
    assert separation_loss(z, labels).dtype == torch.float32
    assert margin_loss(torch.randn(8, 10).to(dtype), labels).dtype == torch.float32


TWO, Y = torch.ones(2, 3), torch.tensor([1, 0])


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: separation_loss(torch.ones(2, 3, dtype=torch.int64), Y), TypeError, "features"),
        (lambda: separation_loss(torch.ones(6), Y), ValueError, "2 axes"),
        (lambda: separation_loss(torch.ones(0, 3), torch.zeros(0).long()), ValueError, "is empty"),
        (lambda: separation_loss(TWO, torch.zeros(3).long()), ValueError, r"shape \(2,\)"),
        (lambda: separation_loss(TWO, torch.zeros(2)), TypeError, "int64 or int32"),
        (lambda: separation_loss(TWO, Y, temperature=0), ValueError, "temperature"),
        (lambda: separation_loss(TWO, Y, empty_anchors="nan"), ValueError, "drop, zero"),
        (lambda: separation_loss(TWO, Y, backend="cuda"), ValueError, "backend"),
        (lambda: margin_loss(TWO, torch.tensor([0, 3])), ValueError, "0 to 2"),
        (lambda: margin_loss(TWO, torch.tensor([-1, 0])), ValueError, "0 to 2"),
        (lambda: margin_loss(TWO, Y, class_weights=torch.ones(4)), ValueError, "class_weights"),
        (lambda: margin_loss(TWO, Y, focal_gamma=-1), ValueError, "focal_gamma"),
        (lambda: margin_loss(TWO, Y, reduction="sum"), ValueError, "reduction"),
        (lambda: srat_loss(TWO, TWO, Y, separation_weight=-1), ValueError, "separation_weight"),
    ],
)
def test_wrong_arguments(call, error, says) -> None:
    with pytest.raises(error, match=says):
        call()
