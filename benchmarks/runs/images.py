"""Images for whole runs where there are none: sizes enter, a .npz file of learnable random images leaves."""

from __future__ import annotations

from pathlib import Path

import numpy as np

CLASSES, SIZE = 10, 32


def write_images(path: Path, train: int, test: int, seed: int = 0) -> Path:
    """Ten classes, each a smooth random picture under strong noise: a loss on them stays finite and can fall.

    Args:
        path: of the .npz file.
        train: training images a class (5,000 in CIFAR-10).
        test: test images a class (1,000 in CIFAR-10).
        seed: of everything.

    Returns:
        `path`.
    """
    generator = np.random.default_rng(seed)
    coarse = generator.integers(64, 192, (CLASSES, 4, 4, 3), dtype=np.uint8)
    pictures = coarse.repeat(SIZE // 4, axis=1).repeat(SIZE // 4, axis=2)  # [classes, 32, 32, 3]
    arrays = {}
    for part, count in (("train", train), ("test", test)):
        labels = np.repeat(np.arange(CLASSES), count)
        noise = generator.integers(0, 128, (len(labels), SIZE, SIZE, 3), dtype=np.uint8)
        arrays[f"{part}_images"] = pictures[labels] // 2 + noise
        arrays[f"{part}_labels"] = labels
    np.savez(path, allow_pickle=False, **arrays)
    return path
