"""Which loader serves a run: a recipe and its images enter, the training batches leave."""

from __future__ import annotations

import torch

from srat_fast.data.augment import Augmentation
from srat_fast.data.ffcv_import import default_workers, ffcv_library
from srat_fast.data.loader import Loader
from srat_fast.data.memory import MemoryLoader
from srat_fast.data.split import DataSplit
from srat_fast.recipe import Recipe, ResolvedRecipe


def require_loader(recipe: Recipe) -> None:
    """Refuse a loader that cannot run here, before anything is read or downloaded.

    Args:
        recipe: any.

    Raises:
        MissingPackage: ffcv is asked for and not installed.
        UserError: it cannot be imported.
    """
    if recipe.data.loader == "ffcv":
        ffcv_library()


def training_loader(recipe: ResolvedRecipe, split: DataSplit, device: torch.device) -> Loader:
    """The training batches of a run.

    Args:
        recipe: resolved.
        split: its images.
        device: where batches are made.

    Returns:
        A loader to be closed.

    Raises:
        UserError: an image is damaged, the prepared file cannot be written, or more workers than there are.
        MissingPackage: ffcv is asked for and not installed.
    """
    data, batch_size = recipe.data, recipe.optim.batch_size
    if data.loader == "memory":
        return MemoryLoader(
            split.train,
            batch_size=batch_size,
            device=device,
            seed=recipe.seed,
            crop_padding=data.crop_padding,
            crop_area=data.crop_area,
            flip=data.flip == "on",
            shuffle=True,
        )
    from srat_fast.data.beton import prepare_beton
    from srat_fast.data.ffcv_loader import FfcvLoader

    return FfcvLoader(
        prepare_beton("train", split.train, recipe).path,
        batch_size=batch_size,
        device=device,
        augmentation=Augmentation(recipe.seed, data.crop_padding, data.crop_area, data.flip == "on", True),
        size=data.image_size if data.storage == "jpeg" else None,
        workers=data.workers or default_workers(device.type == "cuda"),
    )
