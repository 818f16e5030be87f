"""Class counts and image size of a run before any image is decoded. No torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from srat_fast.data.arrays import ImageArrays
from srat_fast.data.folder import class_files
from srat_fast.data.imbalance import chosen_labels, imbalanced_counts, limited_counts
from srat_fast.data.npz import npz_counts, npz_size
from srat_fast.data.paths import expanded
from srat_fast.datasets import DATASETS
from srat_fast.errors import UserError
from srat_fast.recipe import Recipe, ResolvedRecipe


def resolve_recipe(recipe: Recipe, arrays: ImageArrays | None = None) -> ResolvedRecipe:
    """The recipe as it is run, with the size that for `npz` and images in memory only these tell."""
    if recipe.filled().data.image_size is None:
        if arrays is None and recipe.data.name == "arrays":
            raise _not_given()
        size = npz_size(_root(recipe)) if arrays is None else arrays.train.images.shape[1]
        recipe = recipe.replace({"data.image_size": size})
    return recipe.resolve()


def _not_given() -> UserError:
    return UserError("data.name", "images in memory come through srat_fast.train(recipe, data=...)", "arrays")


def _root(recipe: Recipe) -> Path:
    return expanded("data.root", recipe.data.root)


def base_counts(
    recipe: Recipe, arrays: ImageArrays | None = None, *, tell: bool = False
) -> tuple[list[int], list[str]]:
    """(Training images per class, class names) of the full set, or of its `data.classes`, without decoding an image.

    `tell` says what is passed over in folders, which `load_split` says too.
    """
    counts, names = _whole_counts(recipe, arrays, tell)
    labels = chosen_labels(recipe.data.classes, names)
    return [counts[label] for label in labels], [names[label] for label in labels]


def _whole_counts(recipe: Recipe, arrays: ImageArrays | None, tell: bool) -> tuple[list[int], list[str]]:
    facts, root = DATASETS[recipe.data.name], _root(recipe)
    if arrays is not None:
        counts = np.bincount(arrays.train.labels, minlength=len(arrays.classes))
        return counts.tolist(), list(arrays.classes)
    if recipe.data.name == "arrays":
        raise _not_given()
    if recipe.data.name == "npz":
        return npz_counts(root)
    if recipe.data.name != "folder":
        return list(facts.train_counts), list(facts.classes)
    classes, files = class_files(root, tell=tell)
    return [len(one_class) for one_class in files["train"]], classes


def planned_counts(recipe: Recipe, base: list[int]) -> list[int]:
    """Training images per class that the recipe asks for, hold-out included."""
    data = recipe.data
    counts = imbalanced_counts(base, data.imbalance, data.ratio, data.imbalance_base)
    return limited_counts(counts, data.limit)
