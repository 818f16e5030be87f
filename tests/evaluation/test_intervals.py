"""Wilson's interval against its formula, and at the ends."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch

from srat_fast.evaluation.intervals import intervals, wilson


@pytest.mark.parametrize(("right", "total"), [(0, 10), (1, 10), (5, 10), (10, 10), (372, 500), (9973, 10000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_as_the_formula(right, total, confidence) -> None:
    z, p = NormalDist().inv_cdf(0.5 + confidence / 2), right / total
    centre = (p + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z * math.sqrt(p * (1 - p) / total + z**2 / (4 * total**2)) / (1 + z**2 / total)
    assert wilson(right, total, confidence) == pytest.approx((centre - half, centre + half), abs=1e-12)


def test_nothing_counted_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_of_halves_and_classes() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    predictions = torch.tensor([0, 0, 1, 1, 1, 0])
    found = intervals(predictions, labels, well=[0], under=[1, 2])
    assert found["overall"] == list(wilson(4, 6))
    assert found["well"] == list(wilson(2, 3))
    assert found["under"] == list(wilson(2, 3))
    together = [wilson(right, of, 1 - 0.05 / 3) for right, of in ((2, 3), (2, 2), (0, 1))]
    assert found["worst"] == [min(low for low, _ in together), min(high for _, high in together)]
    assert found["worst"][0] < found["per_class"][2][0] + 1e-12
    assert found["worst"][1] > min(high for _, high in found["per_class"])
    assert found["per_class"] == [list(wilson(2, 3)), list(wilson(2, 2)), list(wilson(0, 1))]
