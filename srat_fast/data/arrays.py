"""Labelled images: the containers that sources fill and loaders read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ImageSet:
    """Images with labels.

    Attributes:
        images: [N, H, W, C] uint8; for training images that stay in their files a `FileImages`, which is read alike.
        labels: [N] int64.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: np.ndarray) -> ImageSet:
        """The images at `indices`; all of them in their order are the set itself, not a second one in memory."""
        if np.array_equal(indices, np.arange(len(self))):
            return self
        return ImageSet(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class ImageArrays:
    """A whole data set before any imbalance.

    Attributes:
        train: its training images.
        test: its test images.
        classes: names in label order.
    """

    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]


def in_memory(images: ImageSet) -> ImageSet:
    """The same images, decoded where they are files."""
    return ImageSet(np.asarray(images.images), images.labels)


def checksum(*sets: ImageSet) -> str:
    """SHA-256 over shapes, pixels and labels; of images that stay in their files over the files."""
    digest = hashlib.sha256()
    for part in sets:
        for array in (part.images, part.labels):
            digest.update(f"{array.dtype}{array.shape}".encode())
            if isinstance(array, np.ndarray):
                digest.update(np.ascontiguousarray(array).data)
            else:
                digest.update(array.content().encode())
    return digest.hexdigest()
