"""The images of one run: imbalanced training, validation and test sets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from srat_fast.data.arrays import ImageArrays, ImageSet, checksum, in_memory
from srat_fast.data.folder import load_files
from srat_fast.data.imbalance import draw_subset, limited_counts, only_classes, split_by_frequency
from srat_fast.data.notices import LOG
from srat_fast.data.paths import expanded
from srat_fast.data.plan import planned_counts
from srat_fast.data.sources import load_arrays
from srat_fast.errors import UserError
from srat_fast.recipe import ResolvedRecipe
from srat_fast.seeds import seed_for


@dataclass(frozen=True)
class DataSplit:
    """What a run trains and is judged on.

    Attributes:
        train: imbalanced training images, validation images taken out.
        validation: held-out training images; empty unless `data.val_fraction` > 0.
        test: uniform test images.
        counts: training images per class after imbalance, limit and hold-out: weights and margins follow these.
        classes: names in label order.
        well: labels of the well-represented half.
        under: labels of the half with the fewest training images ("Under" in Table 4).
        checksum: SHA-256 over all images and labels used.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    counts: list[int]
    classes: tuple[str, ...]
    well: list[int]
    under: list[int]
    checksum: str


def load_split(recipe: ResolvedRecipe, arrays: ImageArrays | None = None) -> DataSplit:
    """The images of a run."""
    data = recipe.data
    if arrays is None:
        root = expanded("data.root", data.root)
        if data.storage == "jpeg":  # decoded while training goes on: the training images stay in their files
            arrays = load_files(root, data.image_size)
        else:
            arrays = load_arrays(data.name, root, data.image_size, data.mirror)
    return split_arrays(arrays, recipe)


def split_arrays(arrays: ImageArrays, recipe: ResolvedRecipe) -> DataSplit:
    """Imbalance, limits and hold-out on images that are in memory."""
    arrays = only_classes(arrays, recipe.data.classes)
    data, classes = recipe.data, len(arrays.classes)
    counts = planned_counts(recipe, np.bincount(arrays.train.labels, minlength=classes).tolist())
    chosen = draw_subset(arrays.train.labels, counts, data.subset_seed)  # [n] indices into the full set
    held_out = _validation(arrays.train.labels, chosen, counts, recipe)
    train = arrays.train.select(np.setdiff1d(chosen, held_out))
    counts = np.bincount(train.labels, minlength=classes).tolist()
    test = arrays.test
    if data.test_limit is not None:
        available = np.bincount(test.labels, minlength=classes).tolist()
        wanted = limited_counts([min(available)] * classes, data.test_limit, "data.test_limit")
        if sum(wanted) < (asked := min(data.test_limit, len(test))):
            LOG.warning(
                "data.test_limit = %d: %d test images of %d, equally many of each class, as the smallest has %d",
                data.test_limit, sum(wanted), asked, min(available),
            )  # fmt: skip
        test = test.select(draw_subset(test.labels, wanted, seed_for(0, "test")))
    validation = in_memory(arrays.train.select(held_out))
    well, under = split_by_frequency(counts)
    return DataSplit(
        train, validation, test, counts, arrays.classes, well, under, checksum(train, validation, test)
    )


def _validation(
    labels: np.ndarray, chosen: np.ndarray, counts: list[int], recipe: ResolvedRecipe
) -> np.ndarray:
    """Indices of the validation images; of `chosen` at least one image a class is not among them."""
    data = recipe.data
    seed = seed_for(data.subset_seed, "validation")
    if data.val_fraction == 0:
        return np.zeros(0, np.int64)
    if data.val_source == "imbalanced":
        # a class of one image is not validated
        held = [min(n - 1, max(1, round(n * data.val_fraction))) for n in counts]
        if not any(held):
            problem = "holds nothing out: no class has more than one image; 0 is possible"
            raise UserError("data.val_fraction", problem, data.val_fraction)
        return chosen[draw_subset(labels[chosen], held, seed)]
    each = max(1, round(data.val_fraction * sum(counts) / len(counts)))
    left = np.setdiff1d(np.arange(len(labels)), chosen)
    spare = np.bincount(labels[left], minlength=len(counts)).tolist()
    given = [max(0, each - s) for s in spare]  # the largest class often has none left out
    for label, (gives, has) in enumerate(zip(given, counts, strict=True)):
        if gives >= has:
            raise UserError(
                "data.val_fraction",
                f"asks for {each} validation images of each class, and class {label} has {spare[label]} that the "
                f"imbalance left out and {has} for training",
                data.val_fraction,
            )
    from_left = left[draw_subset(labels[left], [min(each, s) for s in spare], seed_for(seed, "left"))]
    return np.sort(np.concatenate([from_left, chosen[draw_subset(labels[chosen], given, seed)]]))
