"""Sizes of the training step that is measured, its recipe and its random images.

The network is the product's own at the product's image size; only a CPU gets a narrow one and few attack steps.
"""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import DEVICE, ON_GPU
from srat_fast.data.arrays import ImageSet
from srat_fast.data.memory import MemoryLoader
from srat_fast.hardware import resolve_precision
from srat_fast.recipe import Recipe, ResolvedRecipe, build_recipe

# as `srat-fast train` does (hardware.py): float32 means float32, where cuDNN would take TF32 on its own
torch.backends.cudnn.allow_tf32 = False
#: Class counts of CIFAR-10, exp-100: they decide weights and margins, and how labels are drawn.
COUNTS = [round(5000 * 100 ** (-k / 9)) for k in range(10)]
UNDER = [5, 6, 7, 8, 9]
BATCHES = (128, 256, 512, 1024) if ON_GPU else (32,)
PRECISIONS = sorted({"fp32", resolve_precision(Recipe(), DEVICE)})
#: The reference's separation loss loops over anchors in Python, B^2 comparisons; above this batch it is measured
#: with `ce`.
LARGEST_SEPARATION = 256


class Work(NamedTuple):
    """One size of the training step."""

    method: str  # a row of the method table
    batch: int
    bn: str  # attack.bn
    precision: str  # of the fast engine; references are fp32
    width: int = 64 if ON_GPU else 16
    steps: int = 10 if ON_GPU else 3  # of PGD

    @property
    def reference_method(self) -> str:
        """The method that the reference engine is measured with."""
        return self.method if self.batch <= LARGEST_SEPARATION else "ce"

    def recipe(self, **changes: Any) -> ResolvedRecipe:
        """The `paper` recipe at this size; compile and capture are "off" unless changed, never chosen for us.

        The rate is tiny: the same batch is trained on again and again, and NaN or denormal numbers would be another
        workload.
        """
        fields = {
            "method": self.method,
            "model.width": self.width,
            "attack.steps": self.steps,
            "attack.bn": self.bn,
            "optim.batch_size": self.batch,
            "optim.lr": 1e-5,
            "run.device": DEVICE.type,
            "run.precision": self.precision,
            "run.compile": "off",
            "run.compile_mode": "default",
            "run.capture": "off",
        }
        return build_recipe("paper", fields | changes).resolve()


def with_search(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """An option for how cuDNN chooses convolutions, for all that the process measures: it keeps its first choice."""
    text = "cuDNN tries its kernels instead of asking its heuristics (torch.backends.cudnn.benchmark)"
    parser.add_argument("--search", action="store_true", help=text)
    return parser


def searched() -> dict[str, bool]:
    """What a row says of it: nothing where cuDNN does as it does by itself."""
    return {"search": True} if torch.backends.cudnn.benchmark else {}


def with_size(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Options for a size."""
    parser.add_argument("--method", default="srat-ldam")
    parser.add_argument("--batch", type=int, default=BATCHES[0])
    parser.add_argument("--bn", choices=("batch", "running"), default="batch", help="attack.bn")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default=PRECISIONS[0])
    parser.add_argument("--width", type=int, default=Work._field_defaults["width"])
    parser.add_argument("--steps", type=int, default=Work._field_defaults["steps"], help="of PGD")
    return parser


def work_of(arguments: argparse.Namespace) -> Work:
    """The size that was asked for, or the smallest."""
    sizes = {"batch": 16, "width": 8, "steps": 2} if arguments.small else {}
    return Work(**{name: getattr(arguments, name) for name in Work._fields} | sizes)


def image_set(count: int) -> ImageSet:
    """Random 32 x 32 images, labels drawn as `COUNTS` says; equal for equal counts."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    labels = generator.choice(len(COUNTS), count, p=np.array(COUNTS) / sum(COUNTS))
    return ImageSet(pixels, labels.astype(np.int64))


def memory_loader(images: ImageSet, batch: int, augmented: bool = True) -> MemoryLoader:
    """The product's loader, with the product's augmentation."""
    return MemoryLoader(
        images, batch_size=batch, device=DEVICE, crop_padding=4 * augmented, flip=augmented, shuffle=augmented
    )


def batch_of(work: Work) -> tuple[Tensor, Tensor]:
    """One batch on the device, channels_last as the loader makes it."""
    return next(iter(memory_loader(image_set(work.batch), work.batch).epoch(0)))
