"""Class counts before any image is read: a recipe enters, training images per class leave. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from srat_fast.data.folder import class_files, class_folders
from srat_fast.data.imbalance import imbalanced_counts, limited_counts
from srat_fast.datasets import DATASETS
from srat_fast.errors import UserError
from srat_fast.recipe import Recipe


def base_counts(recipe: Recipe) -> tuple[list[int], list[str]]:
    """Training images per class of the full set, without reading an image.

    Args:
        recipe: its `data.name` and `data.root` matter.

    Returns:
        (counts, class names) in label order.

    Raises:
        UserError: a `folder` set that is not there.
    """
    facts = DATASETS[recipe.data.name]
    if recipe.data.name != "folder":
        return list(facts.train_counts), list(facts.classes)
    root = Path(recipe.data.root).expanduser()
    if not root.is_dir():
        raise UserError("data.root", "is not a directory", str(root))
    classes = class_folders(root)
    return [len(files) for files in class_files(root, "train", classes)], classes


def planned_counts(recipe: Recipe, base: list[int]) -> list[int]:
    """Training images per class that the recipe asks for, hold-out included.

    Args:
        recipe: its `data` section matters.
        base: images per class of the full set.

    Returns:
        Counts in label order.

    Raises:
        UserError: a class would have no images.
    """
    data = recipe.data
    return limited_counts(imbalanced_counts(base, data.imbalance, data.ratio), data.limit)
