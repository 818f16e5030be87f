"""Separability by hand: scatter, silhouettes, confusion, correlation, and samples that are even over the classes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from srat_fast.evaluation import separability

#: Two classes on a line: {0, 2} and {10, 12}.
LINE = np.array([[0.0], [2.0], [10.0], [12.0]], np.float32)
TWO = np.array([0, 0, 1, 1])


def test_scatter_ratio_by_hand() -> None:
    # means 1 and 11, centre 6: between 4 * 25, within 4 * 1
    assert separability.scatter_ratio(LINE, TWO) == pytest.approx(25)
    # a shift changes nothing, a stretch of all axes neither
    assert separability.scatter_ratio(3 * LINE + 7, TWO) == pytest.approx(25)
    # uneven classes: means 0 and 3 with 3 and 1 points, centre 0.75: between 3 * 0.5625 + 5.0625, within 2
    x, y = np.array([[-1.0], [0.0], [1.0], [3.0]]), np.array([0, 0, 0, 1])
    assert separability.scatter_ratio(x, y) == pytest.approx(6.75 / 2)
    assert separability.scatter_ratio(x, np.array([1, 1, 1, 0])) == pytest.approx(6.75 / 2)


def test_scatter_ratio_is_that_of_the_matrices() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(60, 5)), generator.integers(0, 4, 60)
    total = np.cov(x.T, bias=True) * len(x)
    within = sum(np.cov(x[y == c].T, bias=True) * (y == c).sum() for c in range(4))
    assert separability.scatter_ratio(x, y) == pytest.approx(np.trace(total - within) / np.trace(within))


def test_scatter_at_its_ends() -> None:
    assert separability.scatter_ratio(np.array([[1.0], [1.0], [2.0]]), np.array([0, 0, 1])) == math.inf
    assert math.isnan(separability.scatter_ratio(np.ones((3, 2)), np.array([0, 0, 1])))
    assert separability.scatter_ratio(np.array([[0.0], [2.0], [0.0], [2.0]]), TWO) == 0


def test_silhouette_by_hand() -> None:
    result = separability.silhouettes(LINE, TWO)
    # 0: a = 2, b = 11; 2: a = 2, b = 9; 10 and 12 likewise
    expected = (9 / 11 + 7 / 9) / 2
    assert result["silhouette"] == pytest.approx(expected)
    assert result["silhouette_per_class"] == pytest.approx([expected, expected])
    assert result["silhouette_points"] == 4
    rays = np.array([[1.0, 0.0], [9.0, 0.0], [0.0, 1.0], [0.0, 9.0]])
    assert separability.silhouettes(rays, TWO)["silhouette_cosine"] == pytest.approx(1)
    assert separability.silhouettes(rays, TWO)["silhouette"] < 0.2


def test_silhouettes_that_do_not_exist() -> None:
    one = separability.silhouettes(LINE, np.zeros(4, np.int64))
    assert math.isnan(one["silhouette"])
    assert math.isnan(one["silhouette_cosine"])
    dead = separability.silhouettes(np.zeros((4, 3)), TWO)  # a collapsed network: all features are off
    assert dead["silhouette"] == dead["silhouette_cosine"] == 0
    absent = separability.silhouettes(LINE, np.array([0, 0, 2, 2]))
    assert math.isnan(absent["silhouette_per_class"][1])


def test_confusion_and_who_takes_whom() -> None:
    labels, predictions = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 0, 0, 2])
    matrix = separability.confusion(predictions, labels, 4)
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [2, 0, 1, 0], [0, 0, 0, 0]]
    assert separability.taken_by(matrix, [2, 3], [0, 1]) == pytest.approx(2 / 3)
    assert separability.taken_by(matrix, [0, 1], [2, 3]) == 0
    assert math.isnan(separability.taken_by(matrix, [3], [0]))


def test_rank_correlation() -> None:
    assert separability.rank_correlation([100, 10, 5], [0.9, 0.5, 0.1])["spearman"] == pytest.approx(1)
    assert separability.rank_correlation([100, 10, 5], [0.1, 0.5, 0.9])["spearman"] == pytest.approx(-1)
    # ranks 4 3 2 1 against 4 2 3 1: 1 - 6 * 2 / (4 * 15)
    assert separability.rank_correlation([8, 4, 2, 1], [0.9, 0.2, 0.3, 0.1])["spearman"] == pytest.approx(0.8)
    left_out = separability.rank_correlation([8, 4, 2, 1], [0.9, 0.5, math.nan, 0.1])
    assert left_out["spearman"] == pytest.approx(1)
    for counts, accuracies in (([5, 5, 5], [0.1, 0.2, 0.3]), ([1, 2, 3], [0.5, 0.5, 0.5])):
        assert math.isnan(separability.rank_correlation(counts, accuracies)["spearman"])


def test_samples_are_even_over_the_classes() -> None:
    labels = np.repeat([0, 1, 2], [100, 20, 3])
    index = separability.spread_sample(labels, 23, seed=0)
    assert np.bincount(labels[index]).tolist() == [10, 10, 3]
    assert len(set(index.tolist())) == 23
    assert (np.diff(index) > 0).all()
    assert (index == separability.spread_sample(labels, 23, seed=0)).all()
    assert (index != separability.spread_sample(labels, 23, seed=1)).any()
    assert separability.spread_sample(labels, 1000, seed=0).tolist() == list(range(123))


def test_silhouettes_of_many_points_are_of_a_sample(monkeypatch) -> None:
    monkeypatch.setattr(separability, "SILHOUETTE_POINTS", 50)
    generator = np.random.default_rng(0)
    y = generator.integers(0, 3, 400)
    x = generator.normal(size=(400, 2)) + 20 * y[:, None]
    result = separability.silhouettes(x, y)
    assert result["silhouette_points"] == 50
    assert result["silhouette"] > 0.8


def test_an_embedding_keeps_groups_apart_and_repeats() -> None:
    generator = np.random.default_rng(0)
    y = np.repeat([0, 1], 20)
    x = generator.normal(size=(40, 10)).astype(np.float32) + 30 * y[:, None]
    one = separability.embed(x, seed=1)
    assert one.shape == (40, 2)
    assert (one == separability.embed(x, seed=1)).all()
    assert separability.scatter_ratio(one, y) > 5
    assert separability.embed(x[:8]).shape == (8, 2)
