"""Theorems 3.1 and 3.2: for which K they hold, over random pairs; the comparison far in the tails against mpmath."""

from __future__ import annotations

import math

import mpmath
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from srat_fast.theory.claims import describe_ranges
from srat_fast.theory.mixture import (
    Mixture,
    cost,
    cost_margin,
    cost_ranges,
    gap,
    gap_margin,
    gap_ranges,
    grid,
    pairs,
    ranges,
)

distances = st.floats(0.1, 6)


def at(a: float) -> Mixture:
    """A mixture of half distance a."""
    return Mixture(a, 1.0, 1)


def difference(high, low) -> tuple[mpmath.mpf, mpmath.mpf]:
    """Phi(high) - Phi(low) and what it lacks of 1, both to 60 digits however small."""
    return mpmath.ncdf(high) - mpmath.ncdf(low), mpmath.ncdf(-high) + mpmath.ncdf(low)


def gaps_and_costs(a: float, log_ratio: float, log_weight: float):
    """G and C of `mixture`, each with what it lacks of 1."""
    a, level, shift = mpmath.mpf(a), mpmath.mpf(log_ratio), mpmath.mpf(log_weight)
    low = -a - level / (2 * a)
    return difference(-a + level / (2 * a), low), difference(-a + (shift - level) / (2 * a), low)


def below(one, two) -> bool | None:
    """Whether a value is below another, by whichever of value and rest is smaller; None where they are too near."""
    (x, y), sign = ((one[0], two[0]), 1) if max(one[0], two[0]) < 0.5 else ((one[1], two[1]), -1)
    return None if abs(x - y) <= 1e-6 * max(x, y) else bool(sign * (y - x) > 0)


@given(distances, distances, st.floats(1e-3, 25), st.floats(1e-3, 25))
def test_the_comparison_is_that_of_sixty_digits(a1, a2, log_ratio, log_weight) -> None:
    assume(abs(a1 - a2) > 1e-3)
    with mpmath.workdps(60):
        (g1, c1), (g2, c2) = (gaps_and_costs(a, log_ratio, log_weight) for a in (a1, a2))
        gaps, costs = below(g1, g2), below(c1, c2)
    assert gaps is None or gaps == (gap_margin(at(a1), at(a2), log_ratio) > 0)
    assert costs is None or costs == (cost_margin(at(a1), at(a2), log_ratio, log_weight) > 0)


@given(distances, distances, st.floats(1.001, 1e6))
def test_gap_and_cost_fall_in_the_distance_for_every_ratio(a1, a2, ratio) -> None:
    assume(a1 - a2 > 1e-3)
    level = math.log(ratio)
    assert gap_margin(at(a1), at(a2), level) > 0
    assert cost_margin(at(a1), at(a2), level, level) > 0
    assert gap_margin(at(a2), at(a1), level) < 0
    assert cost_margin(at(a2), at(a1), level, level) < 0


@settings(max_examples=25, deadline=None)
@given(distances, distances)
def test_the_claims_begin_at_one_or_never(a1, a2) -> None:
    assume(abs(a1 - a2) > 1e-2)
    expected = [(1.0, math.inf)] if a1 > a2 else []
    assert gap_ranges(at(a1), at(a2)) == expected
    assert cost_ranges(at(a1), at(a2), None) == expected


@settings(max_examples=25, deadline=None)
@given(st.floats(0.3, 2.5), st.floats(0.3, 2.5), st.floats(1.5, 1e4))
def test_with_a_fixed_weight_the_ends_are_crossings(a1, a2, weight) -> None:
    assume(a1 - a2 > 0.05)
    shift = math.log(weight)
    found = cost_ranges(at(a1), at(a2), weight)
    assert found, "small K are among those where the claim holds"
    for low, high in found:
        for end, inward in ((low, 1), (high, -1)):
            if end in (1.0, math.inf):
                continue
            step = 1e-4 * inward
            assert cost_margin(at(a1), at(a2), math.log(end) + step, shift) > 0
            assert cost_margin(at(a1), at(a2), math.log(end) - step, shift) < 0


def test_a_weight_far_above_k_squared_has_a_first_k_too() -> None:
    """The one place where "K large enough" is needed: a weight so large that the frequent class is given up."""
    ((low, high),) = cost_ranges(at(1.0), at(0.5), 1e6)
    assert 1.0 < low < high
    assert cost(at(1.0), low / 2, 1e6) > cost(at(0.5), low / 2, 1e6)
    assert cost(at(1.0), low * 2, 1e6) < cost(at(0.5), low * 2, 1e6)


def test_values_by_hand() -> None:
    ratio = math.exp(2.0)  # a = 1: shift 1, so R+ = Phi(-2) and R- = Phi(0)
    assert gap(at(1.0), ratio) == pytest.approx(0.5 - 0.0227501319)
    assert cost(at(1.0), ratio, ratio) == pytest.approx(0.1586552539 - 0.0227501319)
    assert cost(at(1.0), ratio, 1.0) == 0


def test_ranges_of_known_functions() -> None:
    assert ranges(lambda x: 1.0) == [(1.0, math.inf)]
    assert ranges(lambda x: -1.0) == []
    ((low, high),) = ranges(lambda x: (x - 1) * (3 - x))
    assert (low, high) == (pytest.approx(math.e), pytest.approx(math.exp(3)))
    one, two = ranges(lambda x: (x - 1) * (x - 2))
    assert one == (1.0, pytest.approx(math.e))
    assert two == (pytest.approx(math.exp(2)), math.inf)
    assert describe_ranges([one, two]) == "K < 2.718 and K > 7.389"
    assert describe_ranges([(low, high)]) == "2.718 < K < 20.09"
    assert describe_ranges([]) == "no K"


def test_the_grid_has_every_cell() -> None:
    rows = grid((0.25, 1, 0.5), (2, 100), (None, 3), eta=1, sigma=2, d=4)
    assert len(rows) == 2 * 3 * 2 * 2
    assert {(row.s1, row.s2) for row in rows} == {(1, 0.5), (1, 0.25), (0.5, 0.25)}
    for row in rows:
        assert row.gap_holds == (row.gap1 < row.gap2)
        assert row.cost_holds == (row.cost1 < row.cost2)
        assert row.weight in (row.ratio, 3)
    for _, s1, s2, one, two in pairs((0.25, 1), 1, 2, 4):
        assert (one.separability, two.separability) == (pytest.approx(s1), pytest.approx(s2))
