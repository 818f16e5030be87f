"""Class counts against method.md's table; subsets and halves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srat_fast.data.imbalance import draw_subset, imbalanced_counts, limited_counts, split_by_frequency
from srat_fast.data.plan import base_counts, planned_counts
from srat_fast.errors import UserError
from srat_fast.recipe import build_recipe


@pytest.mark.parametrize(
    ("name", "imbalance", "ratio", "counts"),
    [
        ("cifar10", "exp", 100, [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]),
        ("cifar10", "exp", 10, [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500]),
        ("cifar10", "exp", 50, [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100]),
        ("cifar10", "step", 10, [5000] * 5 + [500] * 5),
        ("cifar10", "step", 100, [5000] * 5 + [50] * 5),
        ("cifar100", "step", 10, [500] * 50 + [50] * 50),
        ("cifar10", "none", 100, [5000] * 10),
        ("svhn", "exp", 10, [4659, 3607, 2792, 2162, 1674, 1296, 1003, 777, 601, 465]),
    ],
)
def test_counts_of_the_paper(name: str, imbalance: str, ratio: float, counts: list[int]) -> None:
    recipe = build_recipe(None, {"data.name": name, "data.imbalance": imbalance, "data.ratio": ratio})
    assert planned_counts(recipe, base_counts(recipe)[0]) == counts


@pytest.mark.parametrize(
    ("name", "imbalance", "ratio", "total"),
    [("cifar10", "exp", 100, 12406), ("cifar10", "exp", 10, 20431), ("cifar10", "step", 10, 27500),
     ("cifar10", "step", 100, 25250), ("cifar100", "exp", 10, 19573), ("cifar100", "step", 10, 27500)],
)  # fmt: skip
def test_totals_of_the_paper(name: str, imbalance: str, ratio: float, total: int) -> None:
    recipe = build_recipe(None, {"data.name": name, "data.imbalance": imbalance, "data.ratio": ratio})
    assert sum(planned_counts(recipe, base_counts(recipe)[0])) == total


def test_counts_of_the_fields_larger_sets() -> None:
    """CIFAR-100-LT and Tiny-ImageNet-LT at ratio 10."""
    hundred, tiny = imbalanced_counts([500] * 100, "exp", 10), imbalanced_counts([500] * 200, "exp", 10)
    assert (hundred[:5], hundred[-5:], sum(hundred)) == (
        [500, 488, 477, 466, 455],
        [54, 53, 52, 51, 50],
        19573,
    )
    assert (tiny[0], tiny[-1], sum(tiny)) == (500, 50, 39072)


def test_uneven_base_keeps_the_ratio_exact() -> None:
    assert imbalanced_counts([40, 30, 20], "exp", 10) == [20, 6, 2]
    assert imbalanced_counts([40, 30, 20], "none", 10) == [40, 30, 20]


@pytest.mark.parametrize(
    ("imbalance", "counts"),
    [
        ("exp", [4948, 10732, 6345, 3943, 2680, 1914, 1233, 933, 651, 465]),
        ("step", [4948, 13861, 10585, 8497, 7458, 688, 572, 559, 504, 465]),
        ("none", [4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659]),
    ],
)
def test_each_class_of_svhn_by_its_own_count(imbalance: str, counts: list[int]) -> None:
    fields = {
        "data.name": "svhn",
        "data.imbalance": imbalance,
        "data.ratio": 10,
        "data.imbalance_base": "own",
    }
    recipe = build_recipe(None, fields)
    assert planned_counts(recipe, base_counts(recipe)[0]) == counts
    cifar = build_recipe(None, fields | {"data.name": "cifar10"})
    smallest = cifar.replace({"data.imbalance_base": "smallest"})
    assert planned_counts(cifar, base_counts(cifar)[0]) == planned_counts(smallest, base_counts(smallest)[0])


def test_own_counts_refuse_a_ratio_that_empties_a_class() -> None:
    assert imbalanced_counts([40, 30, 20], "step", 20, "own") == [40, 1, 1]
    with pytest.raises(UserError, match=r"class 2 would have no images; at most 20"):
        imbalanced_counts([40, 30, 20], "step", 21, "own")
    assert imbalanced_counts([40, 3, 20], "exp", 9, "own") == [40, 1, 2]
    with pytest.raises(UserError, match=r"class 1 would have no images; at most 9"):
        imbalanced_counts([40, 3, 20], "exp", 10, "own")


def test_a_class_left_without_images_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.ratio = 21: class 2 would have no images; at most 20"):
        imbalanced_counts([40, 30, 20], "exp", 21)
    with pytest.raises(UserError, match="class 180 would have no images; at most 500 is possible here"):
        imbalanced_counts([500] * 200, "exp", 1000)  # 500 ** 199 is no float
    with pytest.raises(UserError, match="class 1 has no training images"):
        imbalanced_counts([40, 0, 20], "none", 1)


@given(
    st.lists(st.integers(1, 5000), min_size=2, max_size=30),
    st.integers(30, 3000),
)
def test_limits_keep_every_class_and_the_total(counts: list[int], limit: int) -> None:
    kept = limited_counts(counts, limit)
    assert sum(kept) == min(limit, sum(counts))
    assert all(1 <= k <= n for k, n in zip(kept, counts, strict=True))
    for count in set(counts):
        smaller = [k for k, n in zip(kept, counts, strict=True) if n < count]
        assert max(smaller, default=0) <= min(k for k, n in zip(kept, counts, strict=True) if n == count)


def test_a_tight_limit_keeps_the_order_of_the_classes() -> None:
    """What "at least one image a class" takes from the largest leaves none behind a smaller one."""
    counts = imbalanced_counts([5000] * 10, "exp", 100)
    assert limited_counts(counts, 11) == [2, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    assert limited_counts(counts, 14) == [3, 2, 2, 1, 1, 1, 1, 1, 1, 1]
    assert limited_counts([40, 40, 4, 4], 11) == [4, 5, 1, 1]  # of equal classes the first one, as ever


def test_a_limit_below_one_image_a_class_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.limit = 2: an integer >= 3"):
        limited_counts([5, 5, 5], 2)


def test_subsets_are_seeded_and_exact() -> None:
    labels = np.random.default_rng(0).integers(0, 4, 1000)
    first, again, other = (draw_subset(labels, [50, 20, 10, 1], seed) for seed in (3, 3, 4))
    assert (first == again).all()
    assert (first != other).any()
    assert np.bincount(labels[first]).tolist() == [50, 20, 10, 1]
    assert len(set(first.tolist())) == 81


def test_halves_by_count_then_label() -> None:
    assert split_by_frequency([10, 30, 20, 40]) == ([1, 3], [0, 2])
    assert split_by_frequency([5, 5, 5, 5]) == ([0, 1], [2, 3])
    assert split_by_frequency([9, 8, 7]) == ([0], [1, 2])


@pytest.mark.parametrize(
    ("name", "imbalance", "well", "under"),
    [
        ("cifar100", "step", range(50), range(50, 100)),
        ("cifar100", "none", range(50), range(50, 100)),  # all equal: ties go by label order
        ("svhn", "exp", range(5), range(5, 10)),
        ("svhn", "none", [1, 2, 3, 4, 5], [0, 6, 7, 8, 9]),  # by its own uneven counts
    ],
)
def test_halves_of_the_published_sets(name, imbalance, well, under) -> None:
    recipe = build_recipe(None, {"data.name": name, "data.imbalance": imbalance, "data.ratio": 10})
    assert split_by_frequency(planned_counts(recipe, base_counts(recipe)[0])) == (list(well), list(under))


def test_an_uneven_folder_is_cut_to_its_smallest_class(image_folder) -> None:
    for k in range(3, 6):
        next((image_folder / "train" / "dog").glob(f"{k}.*")).unlink()
    fields = {
        "data.name": "folder",
        "data.root": str(image_folder),
        "data.imbalance": "step",
        "data.ratio": 3,
    }
    recipe = build_recipe(None, fields)
    assert base_counts(recipe) == ([6, 3], ["cat", "dog"])
    assert planned_counts(recipe, [6, 3]) == [3, 1]
