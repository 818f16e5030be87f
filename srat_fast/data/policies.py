"""AutoAugment and RandAugment over many images at once, on the device, by torchvision's tables and operations.

What each image goes through is drawn on the CPU; images that drew the same operation at the same strength go through it
together. AutoAugment has its CIFAR-10 policy (25 pairs of operations), RandAugment two operations of magnitude 8 of 31.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from srat_fast.data.torchvision_import import torchvision

#: Images are augmented in blocks of about so many pixels: few large operations, and bounded memory.
_BLOCK_PIXELS = 1 << 22


class Policy:
    """A policy for images of one size.

    Attributes:
        settings: (operation, magnitude) that an image can draw, the identity first.
    """

    def __init__(self, name: str, height: int, width: int) -> None:
        v2 = torchvision("transforms.v2", "data.policy")
        self._pairs = name == "autoaugment"
        if self._pairs:
            self._torchvision, bins = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10), 10
            entries = [entry for pair in self._torchvision._policies for entry in pair]
        else:
            self._torchvision, bins = v2.RandAugment(num_ops=2, magnitude=8, num_magnitude_bins=31), 31
            entries = [(operation, 1.0, 8) for operation in self._torchvision._AUGMENTATION_SPACE]
        found: dict[tuple[str, float], int] = {("Identity", 0.0): 0}
        signed = []  # of each entry the settings with the magnitude added and taken away
        for operation, _, level in entries:
            magnitudes, has_sign = self._torchvision._AUGMENTATION_SPACE[operation]
            strengths = magnitudes(bins, height, width)
            magnitude = 0.0 if strengths is None else float(strengths[level])
            both = (magnitude, -magnitude if has_sign else magnitude)
            signed.append([found.setdefault((operation, value), len(found)) for value in both])
        self.settings = list(found)
        self._signed = torch.tensor(signed)  # [entries, 2]
        self._probability = torch.tensor([probability for _, probability, _ in entries])

    def draw(self, total: int, generator: torch.Generator) -> Tensor:
        """[2, total] the settings that each image goes through, one after the other."""
        if self._pairs:
            entry = 2 * torch.randint(len(self._signed) // 2, (total,), generator=generator).expand(2, -1)
            entry = entry + torch.tensor([[0], [1]])
        else:
            entry = torch.randint(len(self._signed), (2, total), generator=generator)
        chance, sign = torch.rand(2, 2, total, generator=generator)
        setting = self._signed[entry, (sign <= 0.5).long()]
        return torch.where(chance <= self._probability[entry], setting, 0)

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """[N, H, W, C] uint8 images, augmented; `drawn` [2, N] on the CPU."""
        images = images.permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format)
        for stage in drawn:
            for setting in stage.unique().tolist():
                operation, magnitude = self.settings[setting]
                if operation == "Identity":
                    continue
                rows = (stage == setting).nonzero()[:, 0].to(images.device)
                images[rows] = self._torchvision._apply_image_or_video_transform(
                    images[rows],
                    operation,
                    magnitude,
                    interpolation=self._torchvision.interpolation,
                    fill=self._torchvision._fill,
                )
        return images.permute(0, 2, 3, 1)

    def batches(
        self, images: Tensor, order: Tensor, drawn: Tensor, start: int, batch_size: int
    ) -> Iterator[Tensor]:
        """Batches of augmented images from batch `start` on; blocks begin at the same images wherever one starts."""
        height, width = images.shape[1:3]
        block = batch_size * max(1, _BLOCK_PIXELS // (batch_size * height * width))
        skip = start * batch_size % block
        for first in range(start * batch_size - skip, len(order), block):
            part = slice(first, first + block)
            augmented = self.apply(images[order[part]], drawn[:, part])
            yield from augmented[skip:].split(batch_size)
            skip = 0
