"""The loaders of a folder data set, side by side: a folder and a size enter, a case past its gate leaves.

"memory" and "ffcv" are the product's, made from a recipe as training makes them; "dataloader" is what one would write
with torchvision: ImageFolder, its transforms, worker processes. A call is one epoch, its batches on the device.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.engine.cases import Case
from benchmarks.engine.work import DEVICE, ON_GPU
from srat_fast.data.loaders import Loader, training_loader
from srat_fast.data.split import load_split
from srat_fast.data.torchvision_import import torchvision
from srat_fast.recipe import ResolvedRecipe, build_recipe

WORKERS = min(8, os.cpu_count() or 1)
#: Without ffcv the others are measured.
HAS_FFCV = importlib.util.find_spec("ffcv") is not None
#: Mean difference of pixels in [0, 1] that two JPEG decoders and two ways of reducing may have.
ALIKE = 0.02


def recipe_for(root: Path, size: int, batch: int, **data: Any) -> ResolvedRecipe:
    """A resolved recipe for a folder.

    Args:
        root: holds train/ and test/.
        size: `data.image_size`.
        batch: images a batch.
        **data: other fields of the section.
    """
    fields = {
        "data.name": "folder", "data.root": str(root), "data.imbalance": "none", "data.image_size": size,
        "optim.batch_size": batch,
    }  # fmt: skip
    return build_recipe(None, fields | {f"data.{name}": value for name, value in data.items()}).resolve()


def started(recipe: ResolvedRecipe) -> tuple[Loader, float]:
    """A loader, and the seconds to its first batch: files checked, decoders compiled; writing them is left out.

    Args:
        recipe: resolved.
    """
    split = load_split(recipe)
    training_loader(recipe, split, DEVICE).close()  # writes the file where there is none
    begin = time.perf_counter()
    loader = training_loader(recipe, split, DEVICE)
    next(iter(loader.epoch(0)))
    return loader, time.perf_counter() - begin


def plain_loader(recipe: ResolvedRecipe, augmented: bool = True) -> DataLoader[Any]:
    """torchvision's way to the same images.

    Args:
        recipe: resolved; its size, augmentation and batch are followed.
        augmented: with random crop, flip and order; else the centre of each image in order.
    """
    datasets, v2 = (torchvision(part, "the baseline") for part in ("datasets", "transforms.v2"))
    data, size = recipe.data, recipe.data.image_size
    if not augmented:
        steps = [v2.Resize(size, antialias=True), v2.CenterCrop(size)]
    elif data.augment == "resized-crop":
        steps = [v2.RandomResizedCrop(size, (data.crop_area, 1.0), antialias=True), v2.RandomHorizontalFlip()]
    else:
        steps = [v2.RandomCrop(size, padding=data.crop_padding), v2.RandomHorizontalFlip()]
    both = [*steps, v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    return DataLoader(
        datasets.ImageFolder(str(Path(data.root) / "train"), v2.Compose(both)),
        batch_size=recipe.optim.batch_size,
        shuffle=augmented,
        num_workers=WORKERS,
        pin_memory=ON_GPU,
        persistent_workers=True,
        # a fork of a process that holds a GPU is not safe; without one, spawned workers could not import torchvision
        multiprocessing_context="spawn" if ON_GPU else "fork",
    )


def on_device(loader: Iterable[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Its batches, moved."""
    return ((images.to(DEVICE, non_blocking=True), labels.to(DEVICE)) for images, labels in loader)


def gate(root: Path, size: int, batch: int, storage: str) -> None:
    """Without augmentation every loader gives the same labels and images; raw ffcv and memory bit for bit.

    Raises:
        AssertionError: they do not.
    """
    still = {"crop_padding": 0, "flip": "off"}
    memory = training_loader(plain := recipe_for(root, size, batch, **still), load_split(plain), DEVICE)
    stored = recipe_for(root, size, batch, loader="ffcv", storage=storage, **still)
    if HAS_FFCV:
        ffcv = training_loader(stored, load_split(stored), DEVICE)
        for (a, x), (b, y) in zip(memory.epoch(0), ffcv.epoch(0), strict=True):
            assert torch.equal(x, y), "ffcv: labels or order differ"
            assert storage == "jpeg" or torch.equal(a, b), "ffcv: images differ"
            assert (a - b).abs().mean() < ALIKE, "ffcv: images differ"
        ffcv.close()
    found = list(on_device(plain_loader(plain, augmented=False)))
    whole = np.asarray(load_split(plain).train.images)
    theirs = torch.cat([images for images, _ in found]).permute(0, 2, 3, 1).cpu().numpy()
    assert np.abs(theirs - whole / 255.0).mean() < ALIKE, "dataloader: images differ"


def folder_case(root: Path, size: int, stored: int, batch: int, augment: str, storage: str) -> Case:
    """Images per second of an epoch of each loader.

    Args:
        root: a folder data set.
        size: height and width of the batches.
        stored: height and width of the files, for the row.
        batch: images a batch.
        augment: `data.augment`.
        storage: `data.storage` of the ffcv loader.

    Raises:
        AssertionError: the gate.
    """
    gate(root, size, batch, storage)
    recipe = recipe_for(root, size, batch, augment=augment)
    memory, memory_start = started(recipe)
    plain = plain_loader(recipe)
    begin = time.perf_counter()
    next(iter(plain))
    plain_start = time.perf_counter() - begin
    functions: dict[str, Callable[[], object]] = {
        "memory": lambda: consume(memory.epoch(0)),
        "dataloader": lambda: consume(on_device(plain)),
    }
    own = {
        "memory": {"workers": 0, "start_seconds": round(memory_start, 2)},
        "dataloader": {"workers": WORKERS, "start_seconds": round(plain_start, 2)},
    }
    if HAS_FFCV:
        read = recipe_for(root, size, batch, augment=augment, storage=storage, loader="ffcv", workers=WORKERS)
        ffcv, ffcv_start = started(read)
        functions["ffcv"] = lambda: consume(ffcv.epoch(0))
        own["ffcv"] = {"workers": WORKERS, "start_seconds": round(ffcv_start, 2)}
    about = {
        "batch": batch, "mode": f"{augment}, {stored} to {size} pixels, {storage}", "images": memory.images_per_epoch,
    }  # fmt: skip
    return Case("folder-loader", about, functions, ("dataloader",), memory.images_per_epoch, None, own)


def consume(batches: Iterable[object]) -> None:
    """Take every batch and wait for the device."""
    for _ in batches:
        pass
    if ON_GPU:
        torch.cuda.synchronize()
