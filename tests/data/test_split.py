"""The images of a run: imbalance, limit, hold-out, test subset."""

from __future__ import annotations

import numpy as np

from srat_fast.data.split import load_split, split_arrays
from srat_fast.recipe import build_recipe


def recipe(**changes: object):
    fields = {"data.name": "folder", "data.imbalance": "none"} | {
        k.replace("__", "."): v for k, v in changes.items()
    }
    return build_recipe(None, fields).resolve()


def test_none_keeps_what_is_there(uneven_arrays) -> None:
    split = split_arrays(uneven_arrays, recipe())
    assert split.counts == [30, 20, 12]
    assert (split.well, split.under) == ([0], [1, 2])
    assert len(split.validation) == 0


def test_hold_out_takes_from_every_class_and_is_disjoint(uneven_arrays) -> None:
    split = split_arrays(uneven_arrays, recipe(data__val_fraction=0.25))
    assert np.bincount(split.validation.labels).tolist() == [8, 5, 3]
    assert split.counts == [22, 15, 9]
    first_pixels = lambda images: set(images.images[:, 0, 0, 0].tolist())  # noqa: E731
    assert not first_pixels(split.train) & first_pixels(split.validation)
    assert len(first_pixels(split.train) | first_pixels(split.validation)) == 62


def test_exp_limit_and_test_limit(uneven_arrays) -> None:
    split = split_arrays(
        uneven_arrays, recipe(data__imbalance="exp", data__ratio=4, data__limit=12, data__test_limit=6)
    )
    assert split.counts == [7, 3, 2]
    assert np.bincount(split.train.labels).tolist() == split.counts
    assert np.bincount(split.test.labels).tolist() == [2, 2, 2]


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
