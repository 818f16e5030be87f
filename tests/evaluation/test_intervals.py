"""Wilson's interval against scipy's, and at the ends."""

from __future__ import annotations

import pytest
import scipy.stats
import torch

from srat_fast.evaluation.intervals import intervals, wilson


@pytest.mark.parametrize(("right", "total"), [(0, 10), (1, 10), (5, 10), (10, 10), (372, 500), (9973, 10000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_as_scipy(right, total, confidence) -> None:
    expected = scipy.stats.binomtest(right, total).proportion_ci(confidence, method="wilson")
    assert wilson(right, total, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_nothing_counted_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_of_halves_and_classes() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    predictions = torch.tensor([0, 0, 1, 1, 1, 0])
    found = intervals(predictions, labels, well=[0], under=[1, 2])
    assert found["overall"] == list(wilson(4, 6))
    assert found["well"] == list(wilson(2, 3))
    assert found["under"] == list(wilson(2, 3))
    assert found["per_class"] == [list(wilson(2, 3)), list(wilson(2, 2)), list(wilson(0, 1))]
