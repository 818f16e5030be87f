"""ffcv loader: the batches of the memory loader, read from a .beton file while training goes on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor

from srat_fast.data.augment import Augmentation, Draws, as_input, centre_boxes, pad
from srat_fast.errors import MissingPackage, UserError
from srat_fast.ranks import ALONE, Ranks

#: What a Debian or Ubuntu machine needs; docs/howto/loaders.md has the longer form.
INSTALL = "bash .ci/ffcv in a checkout, or see docs/howto/loaders.md, Installing ffcv; --loader memory needs nothing"
_PARTS = ("ffcv", "numba", "llvmlite", "cv2", "tqdm", "psutil", "distutils")


def ffcv_library() -> ModuleType:
    """`srat_fast.data.ffcv_library`, imported with ffcv, numba and OpenCV; one line where it cannot be."""
    try:
        from srat_fast.data import ffcv_library as module
    except ImportError as error:
        missing = (error.name or "").split(".")[0]
        if isinstance(error, ModuleNotFoundError) and missing in _PARTS:
            raise MissingPackage(
                "ffcv" if missing == "ffcv" else f"{missing} (of ffcv)", "--loader ffcv", INSTALL
            ) from None
        raise UserError("data.loader", _broken(error), "ffcv") from None
    except OSError as error:  # a shared library that ctypes does not find
        raise UserError("data.loader", _broken(error), "ffcv") from None
    return module


def _broken(error: Exception) -> str:
    return f"ffcv is installed but cannot be imported ({' '.join(str(error).split())}); {INSTALL}"


def default_workers(cuda: bool) -> int:
    """Decoding threads where the recipe does not say; on a CPU the cores have enough to do."""
    return min(8, len(os.sched_getaffinity(0))) if cuda else 1


class FfcvLoader:
    """Seeded batches of a .beton file.

    Raw files give the batches of `MemoryLoader` with the same seed, bit for bit: ffcv reads the pixels in the order of
    the same stream, crop and flip are the same code on the device. Of a file of JPEG the window of each image is drawn
    here and cut and resized by ffcv while it decodes. On a GPU the decoded batch lies in pinned memory and is copied
    once, beside the computation. `size`: height and width that JPEG are decoded to; None for raw files. Of several
    processes each decodes its share of every batch.
    """

    def __init__(
        self,
        path: Path,
        *,
        batch_size: int,
        device: torch.device,
        augmentation: Augmentation,
        size: int | None = None,
        workers: int = 1,
        ranks: Ranks = ALONE,
    ) -> None:
        self.batch_size, self.device, self.augmentation = batch_size, device, augmentation
        self._size, self._ranks = size, ranks
        share = ranks.share(batch_size)
        self._reader = ffcv_library().BetonReader(
            path, batch_size=share.stop - share.start, size=size, workers=workers
        )
        self._labels = torch.from_numpy(self._reader.labels).to(device)
        self._stored = torch.from_numpy(self._reader.sizes)
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._running: WeakSet[Iterator[np.ndarray]] = WeakSet()

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-self.images_per_epoch // self.batch_size)

    @property
    def images_per_epoch(self) -> int:
        """Images an epoch."""
        return self._labels.shape[0]

    def close(self) -> None:
        """End the decoding threads, of epochs that were left in the middle too, and let go of the file."""
        for epoch in list(self._running):
            epoch.close()  # type: ignore[attr-defined]
        self._reader = None

    def epoch(self, number: int = 0, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch, from batch `start` on."""
        total, augmentation = self.images_per_epoch, self.augmentation
        order = augmentation.order(number, self._labels)
        draws = augmentation.draw(number, self._stored[order])
        rows = order.numpy().astype(np.uint64)
        if self._size is not None:
            boxes = centre_boxes(self._stored[order]) if draws.boxes is None else draws.boxes
            rows = torch.cat((order[:, None], boxes), dim=1).numpy()
            draws = draws.without_boxes()  # the decoder cuts them
        draws, order = draws.to(self.device), order.to(self.device)
        wholes = [
            slice(first, min(first + self.batch_size, total))
            for first in range(start * self.batch_size, total, self.batch_size)
        ]
        shares = [self._ranks.share(whole.stop - whole.start) for whole in wholes]
        parts = [
            slice(whole.start + share.start, whole.start + share.stop)
            for whole, share in zip(wholes, shares, strict=True)
        ]
        if not wholes:
            return
        # of a last batch with fewer images than processes some get none: they read one that they do not use
        read = [part if part.stop > part.start else slice(part.start - 1, part.start) for part in parts]
        batches = self._reader.epoch(np.concatenate([rows[part] for part in read]))
        self._running.add(batches)
        with closing(batches):
            for whole, part in zip(wholes, parts, strict=True):
                pixels = next(batches)[: part.stop - part.start]
                yield self._input(pixels, draws.part(part.start, part.stop)), self._labels[order[whole]]

    def _input(self, pixels: np.ndarray, draws: Draws) -> Tensor:
        """A decoded batch on the device; `pixels` may be overwritten as soon as this returns."""
        batch = self._on_device(torch.from_numpy(pixels))
        padding = self.augmentation.crop_padding
        return as_input(pad(batch, padding), torch.arange(len(batch), device=self.device), draws, padding)

    def _on_device(self, pixels: Tensor) -> Tensor:
        """[B, H, W, C] uint8 on the device, by one copy from ffcv's own (pinned) buffer."""
        if self._copies is None:
            return pixels
        now = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._copies):
            batch = pixels.to(self.device, non_blocking=True)
        now.wait_stream(self._copies)
        batch.record_stream(now)
        # ffcv knows nothing of this stream: it may decode into the buffer only once the copy has read it. The copy
        # waits for no computation, so this takes as long as the copy.
        self._copies.synchronize()
        return batch
