"""Training batches: what a loader does, and which of the two serves a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from srat_fast.data.augment import Augmentation
from srat_fast.data.ffcv_loader import FfcvLoader, default_workers, ffcv_library
from srat_fast.data.memory import MemoryLoader
from srat_fast.data.split import DataSplit
from srat_fast.data.torchvision_import import torchvision
from srat_fast.ranks import ALONE, Ranks
from srat_fast.recipe import Recipe, ResolvedRecipe, stages_of


class Loader(Protocol):
    """Seeded batches of a training set.

    Equal (seed, epoch) give equal order and augmentation, whatever was asked before: that is what an exact resume in
    the middle of an epoch rests on.
    """

    batch_size: int

    def __len__(self) -> int:
        """Batches an epoch."""

    @property
    def images_per_epoch(self) -> int:
        """Images an epoch."""

    def epoch(self, number: int = 0, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch from batch `start` on, without making those before.

        Each is images [B, C, H, W] float32 in [0, 1], channels_last in memory, and labels [B] int64; of several
        processes' each gives the images of its share.
        """

    def close(self) -> None:
        """Give back threads and files; nothing may be asked afterwards."""


def require_loader(recipe: Recipe) -> None:
    """Refuse a loader or a policy that cannot run here, before anything is read or downloaded."""
    if recipe.data.loader == "ffcv":
        ffcv_library()
    if recipe.data.policy != "off":
        torchvision("transforms.v2", "data.policy")


def training_loader(
    recipe: ResolvedRecipe, split: DataSplit, device: torch.device, ranks: Ranks = ALONE
) -> Loader:
    """The loader of a run's training batches; to be closed."""
    data, batch_size = recipe.data, recipe.optim.batch_size
    stages = [stage for stage in stages_of(recipe) if stage.sampler == "balanced"]
    balanced = tuple((stage.first, stage.end) for stage in stages)
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
            policy=data.policy,
            ranks=ranks,
            balanced=balanced,
        )
    from srat_fast.data.beton import prepare_beton

    return FfcvLoader(
        prepare_beton("train", split.train, recipe).path,
        batch_size=batch_size,
        device=device,
        augmentation=Augmentation(
            recipe.seed, data.crop_padding, data.crop_area, data.flip == "on", True, balanced
        ),
        size=data.image_size if data.storage == "jpeg" else None,
        workers=data.workers or default_workers(device.type == "cuda"),
        ranks=ranks,
    )
