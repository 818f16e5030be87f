"""docs/theory.md: its numbers are those that the code computes."""

from __future__ import annotations

from pathlib import Path

import pytest

from srat_fast.theory.claims import describe_ranges
from srat_fast.theory.mixture import Mixture, cost, cost_ranges, gap, gap_ranges, same_eta

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "theory.md").read_text(encoding="utf-8")


def test_the_table() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in TEXT.splitlines()
        if "| eta = 1" in line
    ]
    assert len(rows) == 6
    for _, s1, s2, a1, a2, *claims in rows:
        one, two = same_eta(float(s1), 1.0, 4), same_eta(float(s2), 1.0, 4)
        assert (one.distance, two.distance) == (
            pytest.approx(float(a1), abs=5e-3),
            pytest.approx(float(a2), abs=5e-3),
        )
        found = gap_ranges(one, two), cost_ranges(one, two, None), cost_ranges(one, two, 3.0)
        assert claims == [describe_ranges(r) for r in found]


def test_the_numbers() -> None:
    mixture = Mixture(1, 2, 4)
    b = mixture.threshold(10)
    for value in (
        float(mixture.errors(b)[0]),
        float(mixture.printed_errors(b)[0]),
        gap(mixture, 10),
        gap(mixture.attacked(0.5), 10),
        cost(mixture, 10, 10),
        cost(mixture.attacked(0.5), 10, 10),
    ):
        assert f"{value:.4f}" in TEXT
