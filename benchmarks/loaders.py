"""How fast the loaders of a folder data set are: `python benchmarks/loaders.py [--data-root DIR] [--images N]`.

"memory" and "ffcv" are the product's, made from a recipe as training makes them; "dataloader" is what one would write
with torchvision: ImageFolder, its transforms, worker processes. A call is one epoch, its batches on the device. Two
cases, of a folder of real images or smooth random ones: small images raw with the padded crop, then the same enlarged
to --large pixels, stored as JPEG, with the resized crop.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.measure import DEVICE, ON_GPU, Case, own_cache, parsed, parser, record, rows
from benchmarks.rows import Row
from srat_fast.data.folder import class_files
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
    """A resolved recipe for a folder data set; `data` are other fields of the section."""
    fields = {
        "data.name": "folder", "data.root": str(root), "data.imbalance": "none", "data.image_size": size,
        "optim.batch_size": batch,
    }  # fmt: skip
    return build_recipe(None, fields | {f"data.{name}": value for name, value in data.items()}).resolve()


def started(recipe: ResolvedRecipe) -> tuple[Loader, float]:
    """A loader, and the seconds to its first batch: files checked, decoders compiled; writing them is left out."""
    split = load_split(recipe)
    training_loader(recipe, split, DEVICE).close()  # writes the file where there is none
    begin = time.perf_counter()
    loader = training_loader(recipe, split, DEVICE)
    next(iter(loader.epoch(0)))
    return loader, time.perf_counter() - begin


def plain_loader(recipe: ResolvedRecipe, augmented: bool = True) -> DataLoader[Any]:
    """torchvision's way to the same images; not augmented: the centre of each image, in order."""
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
    """Without augmentation every loader gives the same labels and images; raw ffcv and memory bit for bit."""
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
    """Images per second of an epoch of each loader, after the gate; files of `stored` pixels, batches of `size`."""
    gate(root, size, batch, storage)
    recipe = recipe_for(root, size, batch, augment=augment)
    memory, memory_start = started(recipe)
    plain = plain_loader(recipe)
    begin = time.perf_counter()
    next(iter(plain))
    plain_start = time.perf_counter() - begin
    functions: dict[str, Callable[[], object]] = {
        "memory": lambda: consumed(memory.epoch(0)),
        "dataloader": lambda: consumed(on_device(plain)),
    }
    own = {
        "memory": {"workers": 0, "start_seconds": round(memory_start, 2)},
        "dataloader": {"workers": WORKERS, "start_seconds": round(plain_start, 2)},
    }
    if HAS_FFCV:
        read = recipe_for(root, size, batch, augment=augment, storage=storage, loader="ffcv", workers=WORKERS)
        ffcv, ffcv_start = started(read)
        functions["ffcv"] = lambda: consumed(ffcv.epoch(0))
        own["ffcv"] = {"workers": WORKERS, "start_seconds": round(ffcv_start, 2)}
    about = {
        "batch": batch, "mode": f"{augment}, {stored} to {size} pixels, {storage}", "images": memory.images_per_epoch,
    }  # fmt: skip
    pairs = [(name, "dataloader") for name in functions if name != "dataloader"]
    return Case("folder-loader", about, functions, pairs, own, memory.images_per_epoch)


def consumed(batches: Iterable[object]) -> None:
    """Take every batch and wait for the device."""
    for _ in batches:
        pass
    if ON_GPU:
        torch.cuda.synchronize()


def synthetic(root: Path, size: int, train: int, test: int = 4, seed: int = 0) -> Path:
    """Two classes of smooth random JPEG, as quick to make as to decode.

    As smooth as photographs: two ways of reducing finer structure would differ by more than the gate allows.
    """
    generator, grid = np.random.default_rng(seed), max(4, size // 16)
    for part, count in (("train", train), ("test", test)):
        for position in range(count):
            coarse = generator.integers(0, 256, (grid, grid, 3), dtype=np.uint8)
            image = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
            folder = root / part / "ab"[position % 2]
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{position:06d}.jpg", quality=90)
    return root


def enlarged(source: Path, root: Path, size: int | None, train: int, test: int = 20) -> Path:
    """The first images of each class of a folder, enlarged (bicubic, JPEG of quality 90); size None: links."""
    classes, files = class_files(source)
    for part, count in (("train", train), ("test", test)):
        for name, inside in zip(classes, files[part], strict=True):
            (root / part / name).mkdir(parents=True)
            for file in inside[: count // len(classes)]:
                target = root / part / name / file.name
                if size is None:
                    target.symlink_to(file.resolve())
                else:
                    image = Image.open(file).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
                    image.save(target.with_suffix(".jpg"), quality=90)
    return root


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    made = parser(__doc__)
    made.add_argument(
        "--data-root", type=Path, help="folder data set of 32-pixel images; random ones without"
    )
    made.add_argument("--images", type=int, default=20000 if ON_GPU else 3000, help="of the small size")
    made.add_argument("--large-images", type=int, default=5000 if ON_GPU else 600, help="of the large size")
    made.add_argument("--large", type=int, default=224, help="pixels of the large size")
    made.add_argument("--size", type=int, default=64, help="pixels that large images are cropped to")
    made.add_argument("--batch", type=int, default=128)
    made.set_defaults(block=0.5)
    found = parsed(made, arguments)
    if found.small:
        found.images, found.large_images, found.batch = 100, 20, 10
    return found


def measured(found: argparse.Namespace) -> Iterator[Row]:
    """Both cases."""
    if not HAS_FFCV:
        print("ffcv is not installed (bash .ci/ffcv): it is not measured", file=sys.stderr)
    source = found.data_root
    with tempfile.TemporaryDirectory() as name, own_cache(Path(name)):
        folder = Path(name)
        if source is None:
            small = synthetic(folder / "small", 32, found.images)
            large = synthetic(folder / "large", found.large, found.large_images)
        else:
            small = enlarged(source, folder / "small", None, found.images)
            large = enlarged(source, folder / "large", found.large, found.large_images)
        pixels = {"pixels": "random" if source is None else "photographs"}
        for case in (
            lambda: folder_case(small, 32, 32, found.batch, "crop", "raw"),
            lambda: folder_case(large, found.size, found.large, found.batch, "resized-crop", "jpeg"),
        ):
            yield from (row | pixels for row in rows(case(), found.rounds, found.block))


if __name__ == "__main__":
    chosen = options()
    record(measured(chosen), chosen.out)
