"""Some classes of a set: order, labels, counts and everything that is refused."""

from __future__ import annotations

import numpy as np
import pytest

from srat_fast import UserError, build_recipe
from srat_fast.data.imbalance import chosen_labels, only_classes
from srat_fast.data.plan import base_counts, planned_counts
from srat_fast.data.split import split_arrays


def test_classes_are_relabelled_in_the_order_given(uneven_arrays) -> None:
    chosen = only_classes(uneven_arrays, "c, a")
    assert chosen.classes == ("c", "a")
    assert np.bincount(chosen.train.labels).tolist() == [12, 30]
    before = {
        int(i): int(c)
        for i, c in zip(uneven_arrays.train.images[:, 0, 0, 0], uneven_arrays.train.labels, strict=True)
    }
    for image, label in zip(chosen.train.images, chosen.train.labels, strict=True):
        assert uneven_arrays.classes[before[int(image[0, 0, 0])]] == chosen.classes[label]
    assert len(chosen.test) == 10
    assert only_classes(uneven_arrays, "all") is uneven_arrays
    assert only_classes(uneven_arrays, "2,0").classes == ("c", "a")


def test_a_two_class_problem(uneven_arrays) -> None:
    recipe = build_recipe(
        "paper", {"data.name": "digits", "data.classes": "3,8", "data.imbalance": "step", "data.ratio": 5}
    )
    counts, names = base_counts(recipe)
    assert names == ["3", "8"]
    assert planned_counts(recipe, counts) == [124, 24]
    recipe = build_recipe(
        "paper", {"data.name": "digits", "data.classes": "b,c", "data.imbalance": "step", "data.ratio": 4}
    )
    split = split_arrays(uneven_arrays, recipe.resolve())
    assert split.counts == [12, 3]
    assert (split.well, split.under, split.classes) == ([0], [1], ("b", "c"))
    assert recipe.fingerprint() != recipe.replace({"data.classes": "c,b"}).fingerprint()


@pytest.mark.parametrize(
    ("text", "says"),
    [("a,x", "'x' is none of its classes: a, b, c"), ("a,7", "'7' is none"), ("a,0", "twice"), ("b", "two classes"),
     ("", "none of")],
)  # fmt: skip
def test_bad_classes(text, says) -> None:
    with pytest.raises(UserError, match=says):
        chosen_labels(text, ("a", "b", "c"))


def test_numbers_that_are_names_are_not_mixed_with_labels() -> None:
    """Folders 1, 2, 10 have the labels 0, 2, 1: of "0,2" one would be a label and the other a name."""
    names = ("1", "10", "2")
    assert chosen_labels("2,10", names) == [2, 1]
    with pytest.raises(UserError, match=r"data\.classes = '0,2': 2 is the name of a class and 0 is none"):
        chosen_labels("0,2", names)
    assert chosen_labels("0,2", ("101", "102", "201")) == [0, 2]


def test_two_classes_are_trained_and_judged(tmp_path) -> None:
    from srat_fast import evaluate, train
    from tests.training.short_runs import short

    changes = {
        "data__classes": "8,0",
        "data__imbalance": "step",
        "data__limit": None,
        "data__val_fraction": 0,
    }
    record = train(short(method="natural", **changes), tmp_path / "run")
    assert (record["classes"], record["counts"]) == (["8", "0"], [124, 12])
    assert len(record["standard"]["per_class"]) == 2
    assert (
        evaluate(tmp_path / "run", "clean", device="cpu")["clean"]["overall"] == record["standard"]["overall"]
    )
