"""Augmentation shared by all loaders: order, crops and flips of an epoch from streams of (seed, epoch).

Everything is drawn on the CPU, so equal seeds give equal batches on every device and from every loader, and any epoch
can be produced without the ones before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from srat_fast.seeds import seed_for

#: Aspect ratios of a resized crop, width / height, drawn evenly in the logarithm: what torchvision and ffcv take.
_RATIOS = (3 / 4, 4 / 3)
_TRIES = 10


@dataclass(frozen=True)
class Draws:
    """What was drawn for N images, in the order in which they are served.

    Attributes:
        mirrored: [N] bool, or None where nothing is flipped.
        shift: [2, N] rows and columns that the window moves in the padded image, or None.
        boxes: [N, 4] top, left, height, width of the resized crop in the stored image, or None.
    """

    mirrored: Tensor | None
    shift: Tensor | None
    boxes: Tensor | None

    def to(self, device: torch.device) -> Draws:
        """The same draws on a device."""
        return Draws(*(None if t is None else t.to(device) for t in (self.mirrored, self.shift, self.boxes)))

    def part(self, first: int, end: int) -> Draws:
        """The draws of one batch."""
        return Draws(
            None if self.mirrored is None else self.mirrored[first:end],
            None if self.shift is None else self.shift[:, first:end],
            None if self.boxes is None else self.boxes[first:end],
        )

    def without_boxes(self) -> Draws:
        """The same for images that were cropped by their boxes already."""
        return replace(self, boxes=None)


@dataclass(frozen=True)
class Augmentation:
    """How the images of a run are ordered and varied.

    Attributes:
        seed: the run's seed.
        crop_padding: zero padding of the random crop, 0 for none.
        crop_area: smallest share of the area that a resized crop takes; None for no resized crop.
        flip: random horizontal flip.
        shuffle: a new order each epoch.
        balanced: (first, end) of epochs in which every class is drawn equally often (`stages.sampler`).
    """

    seed: int = 0
    crop_padding: int = 0
    crop_area: float | None = None
    flip: bool = False
    shuffle: bool = False
    balanced: tuple[tuple[int, int], ...] = ()

    def order(self, number: int, labels: Tensor) -> Tensor:
        """Which image stands at which position of an epoch, [N]: a permutation where shuffled, or balanced."""
        if any(first <= number < end for first, end in self.balanced):
            return balanced_order(labels.cpu(), self.generator("balanced", number))
        if not self.shuffle:
            return torch.arange(len(labels))
        return torch.randperm(len(labels), generator=self.generator("order", number))

    def draw(self, number: int, sizes: Tensor) -> Draws:
        """Crop and flip of each position of an epoch; `sizes` [N, 2] of the stored images are for resized crops."""
        total, mirrored, shift, boxes = len(sizes), None, None, None
        if self.flip:
            mirrored = torch.rand(total, 1, generator=self.generator("flip", number))[:, 0] < 0.5
        if self.crop_padding:
            high = 2 * self.crop_padding + 1
            shift = torch.randint(high, (2, total, 1), generator=self.generator("crop", number))[:, :, 0]
        if self.crop_area is not None:
            boxes = draw_boxes(sizes, self.crop_area, self.generator("resized-crop", number))
        return Draws(mirrored, shift, boxes)

    def generator(self, purpose: str, number: int) -> torch.Generator:
        """The stream of an epoch for one purpose."""
        return torch.Generator().manual_seed(seed_for(self.seed, purpose, number))


def balanced_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """As many images as there are, of each class equally many up to one, none again before all of its class were."""
    members = [(labels == c).nonzero()[:, 0] for c in labels.unique()]
    share, rest = divmod(len(labels), len(members))
    more = torch.randperm(len(members), generator=generator)[:rest].tolist()
    drawn = []
    for number, own in enumerate(members):
        wanted = share + (number in more)
        rounds = [torch.randperm(len(own), generator=generator) for _ in range(-(-wanted // len(own)))]
        drawn.append(own[torch.cat(rounds)[:wanted]])
    return torch.cat(drawn)[torch.randperm(len(labels), generator=generator)]


def draw_boxes(sizes: Tensor, smallest: float, generator: torch.Generator) -> Tensor:
    """Random windows [N, 4] (top, left, height, width) of the resized crop of images of `sizes` [N, 2].

    Area (at least the share `smallest`) and aspect ratio first, then the place, as torchvision draws them; where no try
    fits, the largest centred window of an allowed ratio.
    """
    height, width = sizes[:, 0].double(), sizes[:, 1].double()
    ratio = (width / height).clamp(*_RATIOS)
    high = torch.where(width / height > ratio, height, (width / ratio).round().clamp(min=1))
    wide = torch.where(width / height > ratio, (height * ratio).round().clamp(min=1), width)
    top, left = ((height - high) / 2).floor(), ((width - wide) / 2).floor()
    open_still = torch.ones(len(sizes), dtype=torch.bool)
    low, span = math.log(_RATIOS[0]), math.log(_RATIOS[1] / _RATIOS[0])
    for _ in range(_TRIES):
        share, log_ratio, down, right = torch.rand(4, len(sizes), generator=generator, dtype=torch.float64)
        area = height * width * (smallest + (1 - smallest) * share)
        aspect = (low + span * log_ratio).exp()
        tried_wide, tried_high = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
        fits = open_still & (tried_wide >= 1) & (tried_wide <= width)
        fits &= (tried_high >= 1) & (tried_high <= height)
        high, wide = torch.where(fits, tried_high, high), torch.where(fits, tried_wide, wide)
        top = torch.where(fits, (down * (height - tried_high + 1)).floor(), top)
        left = torch.where(fits, (right * (width - tried_wide + 1)).floor(), left)
        open_still &= ~fits
    return torch.stack((top, left, high, wide), dim=1).long()


def centre_boxes(sizes: Tensor) -> Tensor:
    """The largest centred square of each image, as `draw_boxes` gives windows."""
    side = sizes.min(dim=1).values
    return torch.stack(((sizes[:, 0] - side) // 2, (sizes[:, 1] - side) // 2, side, side), dim=1)


def pad(images: Tensor, padding: int) -> Tensor:
    """Zeros around each image: [N, H, W, C] -> [N, H + 2p, W + 2p, C]."""
    return torch.nn.functional.pad(images, (0, 0, padding, padding, padding, padding)) if padding else images


def as_input(padded: Tensor, index: Tensor, draws: Draws, padding: int) -> Tensor:
    """Images as the network takes them, augmented: one gather, or one resampling for resized crops.

    Of `padded` [M, H + 2p, W + 2p, C] uint8 those at `index` [B] with their `draws` -> [B, C, H, W] float32 in [0, 1],
    channels_last in memory.
    """
    height, width = padded.shape[1] - 2 * padding, padded.shape[2] - 2 * padding
    if draws.boxes is not None:
        return _resized(padded[index], draws.boxes, draws.mirrored)
    rows = torch.arange(height, device=padded.device).expand(len(index), -1)  # [B, H]
    columns = torch.arange(width, device=padded.device).expand(len(index), -1)  # [B, W]
    if draws.mirrored is not None:
        columns = torch.where(draws.mirrored[:, None], columns.flip(1), columns)
    if draws.shift is not None:
        rows, columns = rows + draws.shift[0][:, None], columns + draws.shift[1][:, None]
    batch = padded[index[:, None, None], rows[:, :, None], columns[:, None, :]]  # [B, H, W, C]
    return batch.permute(0, 3, 1, 2).float().div_(255.0)


def _resized(images: Tensor, boxes: Tensor, mirrored: Tensor | None) -> Tensor:
    """Bilinear crops [B, C, H, W] of [B, H, W, C] uint8 images, each of its own box, never reading outside of it."""
    count, height, width, _ = images.shape

    def places(start: Tensor, length: Tensor, size: int) -> Tensor:
        """[B, size] coordinates inside [start, start + length - 1], pixel centres at whole numbers."""
        steps = (torch.arange(size, device=images.device) + 0.5) / size
        inside = (length[:, None] * steps - 0.5).clamp(min=0).minimum(length[:, None] - 1.0)
        return start[:, None] + inside

    down = places(boxes[:, 0], boxes[:, 2], height)
    across = places(boxes[:, 1], boxes[:, 3], width)
    if mirrored is not None:
        across = torch.where(mirrored[:, None], across.flip(1), across)
    grid = torch.stack(  # grid_sample's coordinates: x first, -1 and 1 at the outer edges of the image
        (
            ((2 * across + 1) / width - 1)[:, None, :].expand(count, height, width),
            ((2 * down + 1) / height - 1)[:, :, None].expand(count, height, width),
        ),
        dim=3,
    )
    pixels = images.permute(0, 3, 1, 2).float().div_(255.0)
    sampled = torch.nn.functional.grid_sample(
        pixels, grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return sampled.clamp_(0.0, 1.0).contiguous(memory_format=torch.channels_last)
