"""Lemma 3.1 and the errors: against independent integration, a minimiser and samples, over random parameters."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from srat_fast.errors import UserError
from srat_fast.theory.mixture import Mixture, same_eta, same_sigma, weighted_error
from srat_fast.theory.numerics import _objective, best_linear

#: Mixtures whose classes are told apart neither by chance only nor without any error.
mixtures = st.builds(
    lambda a, sigma, d: Mixture(a * sigma / math.sqrt(d), sigma, d),
    st.floats(0.2, 5),
    st.floats(0.01, 100),
    st.integers(1, 64),
)
ratios = st.floats(1.01, 1e4)
weights = st.floats(1, 1e4)


@given(mixtures, st.floats(-3, 3))
def test_errors_are_those_of_the_sum_s_distribution(mixture: Mixture, at: float) -> None:
    b = at * mixture.d * mixture.eta
    total = stats.norm(mixture.d * mixture.eta, math.sqrt(mixture.d * mixture.sigma**2))  # variances add up
    plus, minus = mixture.errors(b)
    assert float(plus) == pytest.approx(total.cdf(b), rel=1e-9, abs=1e-300)
    assert float(minus) == pytest.approx(total.cdf(-b), rel=1e-9, abs=1e-300)


@given(mixtures, ratios, weights)
def test_no_other_threshold_is_better(mixture: Mixture, ratio: float, weight: float) -> None:
    b = mixture.threshold(ratio, weight)
    unit = math.sqrt(mixture.d) * mixture.sigma
    others = b + unit * np.concatenate([np.linspace(-8, 8, 81), [-1e-3, 1e-3]])
    best = float(weighted_error(mixture.errors(b), ratio, weight))
    assert (weighted_error(mixture.errors(others), ratio, weight) >= best * (1 - 1e-12)).all()


@settings(max_examples=40, deadline=None)
@given(mixtures, st.floats(1.01, 100), st.floats(1, 100), st.integers(0, 2**31))
def test_no_other_direction_is_better(mixture: Mixture, ratio: float, weight: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    unit = math.sqrt(mixture.d) * mixture.sigma
    lemma = np.append(np.ones(mixture.d), mixture.threshold(ratio, weight) / unit)
    best, slope = _objective(lemma, mixture, ratio, weight)
    assert np.abs(slope).max() < 1e-9
    assert best == pytest.approx(
        float(weighted_error(mixture.errors(mixture.threshold(ratio, weight)), ratio, weight))
    )
    for scale in (0.01, 0.3, 3.0):
        other = lemma + scale * generator.normal(size=len(lemma))
        assert _objective(other, mixture, ratio, weight)[0] >= best * (1 - 1e-12)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.3, 3), st.floats(0.1, 10), st.integers(1, 12), st.floats(1.1, 100), st.floats(1, 100))
def test_a_minimiser_finds_the_lemma(a: float, sigma: float, d: int, ratio: float, weight: float) -> None:
    mixture = Mixture(a * sigma / math.sqrt(d), sigma, d)
    # with one class nearly alone, all classifiers that name it always are as good as the best
    assume(abs(math.log(weight / ratio)) / (2 * a) < 3)
    found = best_linear(mixture, ratio, weight)
    unit = math.sqrt(d) * sigma
    assert found.excess <= 1e-12
    assert found.spread < 1e-3
    assert abs(found.threshold - mixture.threshold(ratio, weight)) < 1e-3 * unit


def test_the_minimiser_s_gradient_is_that_of_its_objective() -> None:
    mixture, generator = Mixture(0.7, 1.3, 5), np.random.default_rng(0)
    v = generator.normal(1, 0.3, 6)
    _, gradient = _objective(v, mixture, 7, 3)
    for k in range(6):
        step = 1e-6 * np.eye(6)[k]
        slope = (_objective(v + step, mixture, 7, 3)[0] - _objective(v - step, mixture, 7, 3)[0]) / 2e-6
        assert gradient[k] == pytest.approx(slope, abs=1e-8)


@given(mixtures, ratios, weights, st.floats(1e-3, 1e3))
def test_another_unit_changes_s_and_nothing_else(
    mixture: Mixture, ratio: float, weight: float, unit: float
) -> None:
    scaled = Mixture(mixture.eta * unit, mixture.sigma * unit, mixture.d)
    assert scaled.separability == pytest.approx(mixture.separability / unit)
    assert scaled.distance == pytest.approx(mixture.distance)
    for one, two in zip(
        mixture.errors(mixture.threshold(ratio, weight)),
        scaled.errors(scaled.threshold(ratio, weight)),
        strict=True,
    ):
        assert float(one) == pytest.approx(float(two), rel=1e-6, abs=1e-300)


@given(mixtures, ratios)
def test_the_errors_depend_on_the_distance_alone(mixture: Mixture, ratio: float) -> None:
    a, shift = mixture.distance, -math.log(ratio) / (2 * mixture.distance)
    plus, minus = mixture.errors(mixture.threshold(ratio))
    assert float(plus) == pytest.approx(stats.norm.cdf(-a + shift), rel=1e-6, abs=1e-300)
    assert float(minus) == pytest.approx(stats.norm.cdf(-a - shift), rel=1e-6)


def test_the_printed_formula_is_right_for_one_dimension_only() -> None:
    one, four = Mixture(1, 2, 1), Mixture(1, 2, 4)
    assert one.printed_errors(0.3) == one.errors(0.3)
    assert float(four.errors(0.0)[0]) == pytest.approx(0.15865525)  # Phi(-1)
    assert float(four.printed_errors(0.0)[0]) == pytest.approx(0.30853754)  # Phi(-1/2)


def test_separabilities_and_attacks() -> None:
    assert same_eta(0.5, 2.0, 3) == Mixture(2.0, 2.0, 3)
    assert same_sigma(0.5, 2.0, 3) == Mixture(2.0, 2.0, 3)
    assert Mixture(1, 2, 4).attacked(0.25) == Mixture(0.75, 2, 4)
    for epsilon in (-0.1, 1.0, math.nan):
        with pytest.raises(UserError, match="--epsilon"):
            Mixture(1, 2, 4).attacked(epsilon)


@pytest.mark.parametrize(
    ("arguments", "option"), [((0, 1, 1), "--eta"), ((1, math.inf, 1), "--sigma"), ((1, 1, 0), "--d")]
)
def test_impossible_mixtures(arguments, option) -> None:
    with pytest.raises(UserError, match=option):
        Mixture(*arguments)
