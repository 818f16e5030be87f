"""The memory loader: the whole set lives on the device as uint8; crop, flip and conversion are one gather a batch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from srat_fast.data.arrays import ImageSet
from srat_fast.seeds import seed_for


class MemoryLoader:
    """Seeded batches of a set that fits on the device.

    Order, crop and flip of an epoch are drawn on the CPU from streams of (seed, epoch), so they are the same on every
    device and any epoch can be produced without the ones before it.

    Args:
        data: images [N, H, W, C] uint8 with labels [N].
        batch_size: images a batch; the last partial batch is kept.
        device: where the batches are made.
        seed: the run's seed.
        crop_padding: zero padding of the random crop, 0 for none.
        flip: random horizontal flip.
        shuffle: a new order each epoch.
    """

    def __init__(
        self,
        data: ImageSet,
        *,
        batch_size: int,
        device: torch.device,
        seed: int = 0,
        crop_padding: int = 0,
        flip: bool = False,
        shuffle: bool = False,
    ) -> None:
        self.batch_size, self.device, self.seed = batch_size, device, seed
        self.crop_padding, self.flip, self.shuffle = crop_padding, flip, shuffle
        self.height, self.width = data.images.shape[1:3]
        pad = crop_padding
        images = torch.from_numpy(data.images).to(device)
        self._padded = torch.nn.functional.pad(images, (0, 0, pad, pad, pad, pad))  # [N, H + 2p, W + 2p, C]
        self._labels = torch.from_numpy(data.labels).to(device)

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-self.images_per_epoch // self.batch_size)

    @property
    def images_per_epoch(self) -> int:
        """Images an epoch."""
        return self._labels.shape[0]

    def close(self) -> None:
        """Nothing to give back: the images go with the loader."""

    def epoch(self, number: int = 0, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch, from batch `start` on.

        Args:
            number: the epoch; equal numbers give equal batches.
            start: batches to pass over, without making them.

        Yields:
            images [B, C, H, W] float32 in [0, 1], channels_last in memory; labels [B] int64.
        """
        total = self.images_per_epoch
        rows, columns = self._windows(number, total)
        order = torch.arange(total)
        if self.shuffle:
            order = torch.randperm(total, generator=self._generator("order", number))
        order, rows, columns = (t.to(self.device, non_blocking=True) for t in (order, rows, columns))
        for first in range(start * self.batch_size, total, self.batch_size):
            index = order[first : first + self.batch_size]
            at_rows = rows[first : first + self.batch_size]  # [B, H]
            at_columns = columns[first : first + self.batch_size]  # [B, W]
            batch = self._padded[
                index[:, None, None], at_rows[:, :, None], at_columns[:, None, :]
            ]  # [B, H, W, C]
            yield batch.permute(0, 3, 1, 2).float().div_(255.0), self._labels[index]

    def _windows(self, number: int, total: int) -> tuple[Tensor, Tensor]:
        """Pixel rows [N, H] and columns [N, W] of each image's crop, columns reversed where it is flipped."""
        rows = torch.arange(self.height).expand(total, -1)
        columns = torch.arange(self.width).expand(total, -1)
        if self.flip:
            mirrored = torch.rand(total, 1, generator=self._generator("flip", number)) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        if self.crop_padding:
            high = 2 * self.crop_padding + 1
            shift = torch.randint(high, (2, total, 1), generator=self._generator("crop", number))
            rows, columns = rows + shift[0], columns + shift[1]
        return rows, columns

    def _generator(self, purpose: str, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed_for(self.seed, purpose, number))
