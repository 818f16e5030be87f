"""What is loaded: a folder of real images or a seed enters, a folder data set of JPEG files leaves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from srat_fast.data.folder import class_files


def synthetic(root: Path, size: int, train: int, test: int = 4, seed: int = 0) -> Path:
    """Two classes of smooth random JPEG, as quick to make as to decode.

    As smooth as photographs: two ways of reducing finer structure would differ by more than the gate allows.

    Args:
        root: a new folder.
        size: height and width in pixels.
        train: training images.
        test: test images.
        seed: of the pixels.
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
    """The first images of each class of a folder, as they are or enlarged (bicubic, JPEG of quality 90).

    Args:
        source: holds train/<class>/* and test/<class>/*.
        root: a new folder.
        size: height and width in pixels; None links the files as they are.
        train: training images, evenly over the classes.
        test: test images likewise.
    """
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
