"""The images of a run: imbalance, limit, hold-out, test subset."""

from __future__ import annotations

import numpy as np
import pytest

from srat_fast.data.arrays import ImageArrays, ImageSet
from srat_fast.data.split import load_split, split_arrays
from srat_fast.errors import UserError
from srat_fast.recipe import build_recipe


def recipe(**changes: object):
    fields = {"data.name": "folder", "data.imbalance": "none"} | {
        k.replace("__", "."): v for k, v in changes.items()
    }
    return build_recipe(None, fields).resolve()


def test_none_keeps_what_is_there(uneven_arrays) -> None:
    split = split_arrays(uneven_arrays, recipe())
    assert split.counts == [30, 20, 12]
    assert split.train.images is uneven_arrays.train.images  # and no second time in memory
    assert (split.well, split.under) == ([0], [1, 2])
    assert len(split.validation) == 0


def test_hold_out_takes_from_every_class_and_is_disjoint(uneven_arrays) -> None:
    split = split_arrays(uneven_arrays, recipe(data__val_fraction=0.25))
    assert np.bincount(split.validation.labels).tolist() == [8, 5, 3]
    assert split.counts == [22, 15, 9]
    first_pixels = lambda images: set(images.images[:, 0, 0, 0].tolist())  # noqa: E731
    assert not first_pixels(split.train) & first_pixels(split.validation)
    assert len(first_pixels(split.train) | first_pixels(split.validation)) == 62


def test_a_hold_out_of_nothing_is_refused(uneven_arrays) -> None:
    with pytest.raises(
        UserError, match=r"data\.val_fraction = 0\.25: holds nothing out: no class has more than one"
    ):
        split_arrays(uneven_arrays, recipe(data__val_fraction=0.25, data__limit=3))
    few = split_arrays(uneven_arrays, recipe(data__val_fraction=0.25, data__limit=4))
    assert (len(few.validation), few.counts) == (1, [1, 1, 1])


def test_exp_limit_and_test_limit(uneven_arrays) -> None:
    split = split_arrays(
        uneven_arrays, recipe(data__imbalance="exp", data__ratio=4, data__limit=12, data__test_limit=6)
    )
    assert split.counts == [7, 3, 2]
    assert np.bincount(split.train.labels).tolist() == split.counts
    assert np.bincount(split.test.labels).tolist() == [2, 2, 2]


def test_fewer_test_images_than_asked_for_are_told(uneven_arrays, caplog) -> None:
    few = ImageArrays(uneven_arrays.train, uneven_arrays.test.select(np.arange(12)), uneven_arrays.classes)
    split = split_arrays(few, recipe(data__test_limit=100))  # 5, 5 and 2 images
    assert np.bincount(split.test.labels).tolist() == [2, 2, 2]
    assert caplog.messages == [
        "data.test_limit = 100: 6 test images of 12, equally many of each class, as the smallest has 2"
    ]
    split_arrays(few, recipe(data__test_limit=6))
    assert len(caplog.messages) == 1


def test_the_subset_follows_its_own_seed(uneven_arrays) -> None:
    def pixels(**changes: object) -> np.ndarray:
        return split_arrays(
            uneven_arrays, recipe(data__imbalance="exp", data__ratio=4, **changes)
        ).train.images

    assert (pixels(seed=0) != pixels(seed=1)).any()  # the authors tie the two together
    assert (pixels(seed=0, data__subset_seed=5) == pixels(seed=1, data__subset_seed=5)).all()


def test_checksum_is_of_the_content(uneven_arrays) -> None:
    one, two = (split_arrays(uneven_arrays, recipe()).checksum for _ in range(2))
    assert one == two
    uneven_arrays.test.images[0, 0, 0, 0] ^= 1
    assert split_arrays(uneven_arrays, recipe()).checksum != one


def test_digits_exp_10() -> None:
    split = load_split(build_recipe(None, {"data.name": "digits"}).resolve())
    assert split.counts == [124, 96, 74, 57, 44, 34, 26, 20, 16, 12]
    assert len(split.test) == 500


def test_a_balanced_hold_out_comes_from_what_the_imbalance_left_out(uneven_arrays) -> None:
    """Counts 30, 20, 12 with n_max = 12: step 4 trains on 12, 3, 3; 2 validation images of each class are asked for."""
    changes = {"data__imbalance": "step", "data__ratio": 4, "data__val_source": "balanced"}
    split = split_arrays(uneven_arrays, recipe(data__val_fraction=0.34, **changes))
    assert np.bincount(split.validation.labels).tolist() == [2, 2, 2]
    assert split.counts == [12, 3, 3]  # enough was left out of every class: training gives nothing
    pixels = lambda images: set(images.images[:, 0, 0, 0].tolist())  # noqa: E731
    assert not pixels(split.train) & pixels(split.validation)
    plain = split_arrays(uneven_arrays, recipe(data__imbalance="step", data__ratio=4))
    assert (split.train.images == plain.train.images).all()


def test_a_class_of_which_nothing_is_left_gives_training_images(uneven_arrays) -> None:
    """As for CIFAR's first class: the largest class of the imbalance is all that the set has of it."""
    order = np.argsort(
        -uneven_arrays.train.labels, kind="stable"
    )  # classes 0, 1, 2 now have 12, 20, 30 images
    images = uneven_arrays.train.select(order)
    turned = ImageArrays(
        ImageSet(images.images, 2 - images.labels), uneven_arrays.test, uneven_arrays.classes
    )
    changes = {"data__imbalance": "step", "data__ratio": 4, "data__val_source": "balanced"}
    split = split_arrays(turned, recipe(data__val_fraction=0.34, **changes))
    assert np.bincount(split.validation.labels).tolist() == [2, 2, 2]
    assert split.counts == [10, 3, 3]
    assert np.bincount(split.train.labels).tolist() == split.counts


def test_a_balanced_hold_out_that_is_not_there_is_refused(uneven_arrays) -> None:
    with pytest.raises(
        UserError, match=r"val_source = 'balanced': data.imbalance = none leaves no images out"
    ):
        recipe(data__val_source="balanced", data__val_fraction=0.1)
    with pytest.raises(UserError, match=r"has an effect with data\.val_fraction > 0 only"):
        recipe(data__val_source="balanced", data__imbalance="step", data__ratio=4)
    changes = {"data__imbalance": "exp", "data__ratio": 1, "data__val_source": "balanced"}
    all_of_it = recipe(data__val_fraction=0.99, **changes)
    with pytest.raises(
        UserError, match="asks for 12 validation images of each class, and class 2 has 0 that"
    ):
        split_arrays(uneven_arrays, all_of_it)
