"""What is computed from the images before training."""

from __future__ import annotations

import tracemalloc

import numpy as np
import torch

from srat_fast.training.setup import _moments


def test_moments_are_those_of_all_images() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2300, 4, 4, 3), dtype=np.uint8)
    images[:, :, :, 2] = 51
    mean, std = _moments(images)
    assert torch.allclose(mean, torch.from_numpy((images / 255).mean(axis=(0, 1, 2))))
    assert torch.allclose(std[:2], torch.from_numpy((images / 255).std(axis=(0, 1, 2)))[:2])
    assert std[2] == 1e-6  # a channel without variation does not divide by zero


def test_moments_of_large_images_need_little_memory() -> None:
    images = np.full((40, 320, 320, 3), 51, np.uint8)
    tracemalloc.start()
    try:
        mean, _ = _moments(images)
        assert tracemalloc.get_traced_memory()[1] < 100e6  # all as int64, twice, would be 197 MB
    finally:
        tracemalloc.stop()
    assert torch.allclose(mean, torch.full((3,), 0.2, dtype=torch.float64))
