"""The images of one run: a recipe enters; imbalanced training, validation and test sets leave."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from srat_fast.data.arrays import ImageArrays, ImageSet, checksum
from srat_fast.data.files import in_memory, load_files
from srat_fast.data.imbalance import draw_subset, halves, limited_counts
from srat_fast.data.plan import planned_counts
from srat_fast.data.sources import load_arrays
from srat_fast.recipe import Recipe
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


def load_split(recipe: Recipe, arrays: ImageArrays | None = None) -> DataSplit:
    """The images of a run.

    Args:
        recipe: resolved.
        arrays: the images, where they are in memory already.

    Returns:
        Its training, validation and test sets.

    Raises:
        UserError: images missing or damaged, or a class left with none.
    """
    data = recipe.data
    if arrays is None:
        root = Path(data.root).expanduser()
        if data.storage == "jpeg":  # decoded while training goes on: the training images stay in their files
            assert data.image_size is not None, "folder has a size"
            arrays = load_files(root, data.image_size)
        else:
            arrays = load_arrays(data.name, root, data.image_size, data.mirror)
    return split_arrays(arrays, recipe)


def split_arrays(arrays: ImageArrays, recipe: Recipe) -> DataSplit:
    """Imbalance, limits and hold-out on images that are in memory.

    Args:
        arrays: a whole data set.
        recipe: resolved.

    Returns:
        The run's images.

    Raises:
        UserError: a class left with no images.
    """
    data, classes = recipe.data, len(arrays.classes)
    assert data.subset_seed is not None, "the recipe is resolved"
    counts = planned_counts(recipe, np.bincount(arrays.train.labels, minlength=classes).tolist())
    chosen = arrays.train.select(draw_subset(arrays.train.labels, counts, data.subset_seed))
    held_out = np.zeros(0, np.int64)
    if data.val_fraction > 0:
        # at least one image a class stays for training; a class of one image is not validated
        held = [min(n - 1, max(1, round(n * data.val_fraction))) for n in counts]
        held_out = draw_subset(chosen.labels, held, seed_for(data.subset_seed, "validation"))
        counts = [n - h for n, h in zip(counts, held, strict=True)]
    train = chosen.select(np.setdiff1d(np.arange(len(chosen)), held_out))
    test = arrays.test
    if data.test_limit is not None:
        available = np.bincount(test.labels, minlength=classes).tolist()
        wanted = limited_counts([min(available)] * classes, data.test_limit)
        test = test.select(draw_subset(test.labels, wanted, seed_for(0, "test")))
    validation = in_memory(chosen.select(held_out))
    well, under = halves(counts)
    return DataSplit(
        train, validation, test, counts, arrays.classes, well, under, checksum(train, validation, test)
    )
