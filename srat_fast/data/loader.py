"""What training asks of a loader: the memory loader and the ffcv loader both have it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor


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
        """The batches of one epoch, from batch `start` on.

        Args:
            number: the epoch; equal numbers give equal batches.
            start: batches to pass over, without making them.

        Yields:
            images [B, C, H, W] float32 in [0, 1], channels_last in memory; labels [B] int64.
        """

    def close(self) -> None:
        """Give back threads and files; nothing may be asked afterwards."""
