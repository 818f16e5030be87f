"""Memory loader: the whole set lives on the device as uint8; crop, flip and conversion are one gather a batch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from srat_fast.data.arrays import ImageSet
from srat_fast.data.augment import Augmentation, as_input, pad
from srat_fast.data.policies import Policy
from srat_fast.ranks import ALONE, Ranks


class MemoryLoader:
    """Seeded batches of a set that fits on the device.

    Order, crop and flip of an epoch are drawn on the CPU from streams of (seed, epoch), so they are the same on every
    device and any epoch can be produced without the ones before it. `data`: images [N, H, W, C] uint8 with labels [N];
    the last partial batch is kept; crop, flip, shuffle and `balanced` are those of `Augmentation`, `policy`
    (autoaugment, randaugment or none) comes before them. With several processes each holds the whole set, makes the
    images of its share of each batch and gives them with the labels of the whole batch.
    """

    def __init__(
        self,
        data: ImageSet,
        *,
        batch_size: int,
        device: torch.device,
        seed: int = 0,
        crop_padding: int = 0,
        crop_area: float | None = None,
        flip: bool = False,
        shuffle: bool = False,
        policy: str = "off",
        balanced: tuple[tuple[int, int], ...] = (),
        ranks: Ranks = ALONE,
    ) -> None:
        self.batch_size, self.device, self._ranks = batch_size, device, ranks
        self.augmentation = Augmentation(seed, crop_padding, crop_area, flip, shuffle, balanced)
        self._sizes = torch.tensor(data.images.shape[1:3]).expand(len(data), 2)
        self._policy = None if policy == "off" else Policy(policy, *data.images.shape[1:3])
        writable = np.require(np.asarray(data.images), requirements="W")  # of others torch warns
        images = torch.from_numpy(writable).to(device)
        # [N, H + 2p, W + 2p, C], but [N, H, W, C] where a policy comes before the padding
        self._images = images if self._policy else pad(images, crop_padding)
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
        """The batches of one epoch, from batch `start` on."""
        total, augmentation = self.images_per_epoch, self.augmentation
        draws = augmentation.draw(number, self._sizes).to(self.device)
        order = augmentation.order(number, self._labels).to(self.device, non_blocking=True)
        padding, augmented = augmentation.crop_padding, None
        if self._policy is not None:
            drawn = self._policy.draw(total, augmentation.generator("policy", number))
            augmented = self._policy.batches(self._images, order, drawn, start, self.batch_size)
        for first in range(start * self.batch_size, total, self.batch_size):
            index = order[first : first + self.batch_size]
            share = self._ranks.share(len(index))
            source, rows = self._images, index[share]
            if augmented is not None:
                source, rows = (
                    pad(next(augmented)[share], padding),
                    torch.arange(len(rows), device=self.device),
                )
            part = draws.part(first + share.start, first + share.stop)
            yield as_input(source, rows, part, padding), self._labels[index]
