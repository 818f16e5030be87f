"""The memory loader: every image once, seeded order and augmentation, exact conversion."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from srat_fast.data.arrays import ImageSet
from srat_fast.data.memory import MemoryLoader


@pytest.fixture
def images() -> ImageSet:
    generator = np.random.default_rng(0)
    return ImageSet(generator.integers(0, 256, (23, 6, 6, 3), dtype=np.uint8), np.arange(23, dtype=np.int64))


def epoch(loader: MemoryLoader, number: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    batches = list(loader.epoch(number))
    return torch.cat([b[0] for b in batches]).cpu(), torch.cat([b[1] for b in batches]).cpu()


def test_plain_batches_are_the_images(images, device) -> None:
    loader = MemoryLoader(images, batch_size=5, device=device)
    pixels, labels = epoch(loader)
    assert len(loader) == 5
    assert labels.tolist() == list(range(23))
    expected = torch.from_numpy(images.images).permute(0, 3, 1, 2).float() / 255
    torch.testing.assert_close(pixels, expected, rtol=0, atol=0)
    first, _ = next(iter(loader.epoch(0)))
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert [len(b[1]) for b in loader.epoch(0)] == [5, 5, 5, 5, 3]


def test_arrays_that_may_not_be_written_to_are_served_without_a_word(images, device) -> None:
    """Such as those of a memory map."""
    images.images.flags.writeable = False
    pixels, _ = epoch(MemoryLoader(images, batch_size=5, device=device))
    assert (pixels * 255).round().byte().permute(0, 2, 3, 1).numpy().tobytes() == images.images.tobytes()


def test_order_is_a_seeded_permutation_of_the_epoch(images, device) -> None:
    def order(seed: int, number: int) -> list[int]:
        return epoch(MemoryLoader(images, batch_size=5, device=device, seed=seed, shuffle=True), number)[
            1
        ].tolist()

    assert sorted(order(0, 0)) == list(range(23))
    assert order(0, 3) == order(0, 3)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_augmentation_is_a_crop_and_flip_of_the_padded_image(images, device) -> None:
    loader = MemoryLoader(images, batch_size=7, device=device, crop_padding=2, flip=True)
    pixels, _ = epoch(loader, 4)
    torch.testing.assert_close(pixels, epoch(loader, 4)[0], rtol=0, atol=0)
    assert not torch.equal(pixels, epoch(loader, 5)[0])
    flipped = 0
    for original, seen in zip(torch.from_numpy(images.images).permute(0, 3, 1, 2), pixels, strict=True):
        padded = torch.nn.functional.pad(original.float() / 255, (2, 2, 2, 2))
        windows = [(padded[:, y : y + 6, x : x + 6], y, x) for y in range(5) for x in range(5)]
        plain = any(torch.equal(w, seen) for w, _, _ in windows)
        mirrored = any(torch.equal(w.flip(2), seen) for w, _, _ in windows)
        assert plain or mirrored
        flipped += mirrored
    assert 0 < flipped < 23


def test_crop_and_flip_have_the_right_distribution(device) -> None:
    many = ImageSet(np.zeros((4000, 4, 4, 1), np.uint8), np.zeros(4000, np.int64))
    many.images[:, 1, 1] = 255  # one bright pixel tells shift and flip apart
    loader = MemoryLoader(many, batch_size=500, device=device, crop_padding=1, flip=True)
    pixels, _ = epoch(loader)
    where = pixels[:, 0].flatten(1).argmax(1)
    rows, columns = where // 4, where % 4
    assert torch.bincount(rows, minlength=4)[:3].min() > 1200  # rows 0, 1, 2 by the shift alone, 1333 each
    share = torch.bincount(columns, minlength=4) / 4000  # column 1 shifts to 0..2, its mirror image 2 to 1..3
    assert torch.allclose(share, torch.tensor([1, 2, 2, 1]) / 6, atol=0.03)


@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_an_epoch_can_begin_at_any_batch(images, device, start) -> None:
    loader = MemoryLoader(
        images, batch_size=16, device=device, seed=3, crop_padding=1, flip=True, shuffle=True
    )
    whole = list(loader.epoch(2))
    rest = list(loader.epoch(2, start))
    assert len(rest) == max(0, len(whole) - start)
    for (a, b), (c, d) in zip(whole[start:], rest, strict=True):
        torch.testing.assert_close(a, c, rtol=0, atol=0)
        torch.testing.assert_close(b, d, rtol=0, atol=0)
