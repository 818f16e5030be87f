"""Training batches of a run, from memory or from ffcv's file."""

from __future__ import annotations

import torch

from srat_fast.data.augment import Augmentation
from srat_fast.data.ffcv_import import default_workers, ffcv_library
from srat_fast.data.loader import Loader
from srat_fast.data.memory import MemoryLoader
from srat_fast.data.split import DataSplit
from srat_fast.recipe import Recipe, ResolvedRecipe


def require_loader(recipe: Recipe) -> None:
    """Refuse a loader that cannot run here, before anything is read or downloaded."""
    if recipe.data.loader == "ffcv":
        ffcv_library()


def training_loader(recipe: ResolvedRecipe, split: DataSplit, device: torch.device) -> Loader:
    """The training batches of a run."""
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
