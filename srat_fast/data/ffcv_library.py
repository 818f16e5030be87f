"""Reader and writer of .beton files on ffcv, which only this file imports.

What ffcv does by itself and is not wanted here: its writer waits for ever when a worker fails, and its bytes depend on
the number of workers (here: one writer, encoding in threads); its epoch thread dies silently, so that the reader waits
for ever, and outlives an abandoned epoch; importing it or making a loader changes torch's number of threads; its random
crops are not seeded (here the crop windows come in with the order). `ffcv_loader.ffcv_library()` imports this module.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any

import torch

_threads = torch.get_num_threads()
import cv2  # noqa: E402
import numba  # noqa: E402
import numpy as np  # noqa: E402
from ffcv.fields import IntField, NDArrayField, RGBImageField  # noqa: E402
from ffcv.fields.ndarray import NDArrayDecoder  # noqa: E402
from ffcv.fields.rgb_image import IMAGE_MODES, SimpleRGBImageDecoder, encode_jpeg  # noqa: E402
from ffcv.libffcv import imdecode, resize_crop  # noqa: E402
from ffcv.loader import Loader  # noqa: E402
from ffcv.loader.epoch_iterator import EpochIterator  # noqa: E402
from ffcv.memory_allocator import MemoryAllocator  # noqa: E402
from ffcv.pipeline.allocation_query import AllocationQuery  # noqa: E402
from ffcv.pipeline.compiler import Compiler  # noqa: E402
from ffcv.reader import Reader  # noqa: E402
from ffcv.types import CURRENT_VERSION  # noqa: E402
from ffcv.writer import MIN_PAGE_SIZE, DatasetWriter, handle_sample  # noqa: E402

from srat_fast.errors import UserError  # noqa: E402

torch.set_num_threads(_threads)  # ffcv sets it to 1 when it is imported

#: Version of the file format and of the JPEG encoder: with the images they decide a file's bytes.
FORMAT, ENCODER = CURRENT_VERSION, f"opencv {cv2.__version__}"
#: Batches that are decoded ahead of the one in use.
_AHEAD = 3


@contextmanager
def _torch_threads_kept() -> Iterator[None]:
    """ffcv sets torch's threads to its own number of workers: that is the training's to choose."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Encoded:
    """Writes an image that is JPEG already, where ffcv's own field would encode it in the writing thread."""

    def encode(self, destination: np.ndarray, image: tuple[np.ndarray, int, int], malloc: Any) -> None:
        jpeg, height, width = image
        destination["mode"], destination["height"], destination["width"] = IMAGE_MODES["jpg"], height, width
        destination["data_ptr"], place = malloc(jpeg.nbytes)
        place[:] = jpeg


def to_jpeg(image: np.ndarray, max_side: int, quality: int) -> tuple[np.ndarray, int, int]:
    """One image [H, W, 3] as (JPEG, height, width), reduced where its longer side is above `max_side`."""
    scale = max_side / max(image.shape[:2])
    if scale < 1:
        height, width = (max(1, round(scale * side)) for side in image.shape[:2])
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return encode_jpeg(image, quality).view(np.uint8), image.shape[0], image.shape[1]


def write_beton(
    path: Path, images: Iterable[Any], labels: np.ndarray, shape: tuple[int, ...], jpeg: bool
) -> None:
    """Write a .beton file with the fields `image` and `label`; equal input gives equal bytes.

    `images`: [H, W, C] uint8 each, or as `to_jpeg` gives them; `shape`: (H, W, C) of the largest.
    """
    colour = shape[2] == 3
    field = RGBImageField(write_mode="raw") if colour else NDArrayField(np.dtype(np.uint8), shape)
    # an image has to fit into a page; JPEG of noise may be larger than its pixels
    page = max(MIN_PAGE_SIZE, 1 << (int(np.prod(shape)) * 2).bit_length())
    with _torch_threads_kept():
        writer = DatasetWriter(
            str(path), {"image": field, "label": IntField()}, page_size=page, num_workers=1
        )
    writer.num_samples = len(labels)
    writer.prepare()
    try:
        metadata = np.zeros(len(labels), writer.metadata_type)
        allocator = MemoryAllocator(str(path), writer.data_region_start, page)
        fields = {"image": _Encoded() if jpeg else field, "label": IntField()}
        allocator.__enter__()  # its own exit would write once more after a failure, and then not close the file
        try:
            for position, (image, label) in enumerate(zip(images, labels, strict=True)):
                value = image if jpeg else np.ascontiguousarray(image)
                handle_sample((value, label), position, metadata.dtype.names, metadata, allocator, fields)
            allocator.flush_page()
        finally:
            allocator.fp.close()
        # ffcv writes without a buffer and does not look at how much was taken: a full disk may cut the last page
        expected = allocator.offset + allocator.next_page_allocated.value * page
        if os.path.getsize(path) != expected:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        writer.metadata_sm.buf[:] = metadata.tobytes()
        writer.finalize(allocator.allocations)
    finally:
        writer.metadata_sm.close()
        writer.metadata_sm.unlink()


class _WindowDecoder(SimpleRGBImageDecoder):
    """Decodes a window of each JPEG, resized to one size; index and window come in as rows [B, 5] of the order."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def declare_state_and_memory(self, previous_state: Any) -> tuple[Any, AllocationQuery]:
        shape, kind = (self._size, self._size, 3), np.dtype(np.uint8)
        return replace(previous_state, jit_mode=True, shape=shape, dtype=kind), AllocationQuery(shape, kind)

    def generate_code(self) -> Callable[..., np.ndarray]:
        read, each = self.memory_read, Compiler.get_iterator()
        decode_jpeg, cut = Compiler.compile(imdecode), Compiler.compile(resize_crop)

        def decode(rows, destination, metadata, storage):  # type: ignore[no-untyped-def]  # compiled by numba
            for at in each(len(rows)):
                field = metadata[rows[at, 0]]
                data = read(field["data_ptr"], storage)
                high, wide = np.uint32(field["height"]), np.uint32(field["width"])
                image = np.empty((high, wide, 3), np.uint8)
                decode_jpeg(data, image, high, wide, high, wide, 0, 0, 1, 1, False, False)
                top, left = rows[at, 1], rows[at, 2]
                cut(image, top, top + rows[at, 3], left, left + rows[at, 4], destination[at])
            return destination[: len(rows)]

        decode.is_parallel = True  # type: ignore[attr-defined]
        return decode


class _Epoch(EpochIterator):
    """ffcv's epoch thread, but one that hands over its exceptions, uses no CUDA and ends when it is told to."""

    def run(self) -> None:
        try:
            numba.set_num_threads(self.loader.num_workers)
            slots = self.loader.batches_ahead + 2
            for number, rows in enumerate(self.iter_ixes):
                (batch,) = self.run_pipeline(number, rows, number % slots, None)
                if not self._put(batch):
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: object) -> bool:
        """Whether the item was taken before the end was asked for."""
        while not self.terminate_event.is_set():
            try:
                self.output_queue.put(item, timeout=0.1)
                return True
            except Full:
                continue
        return False

    def __next__(self) -> np.ndarray:
        item = self._take()
        if isinstance(item, np.ndarray):
            return item
        self.close()
        if item is None:
            raise StopIteration
        assert isinstance(item, BaseException)
        raise item

    def _take(self) -> object:
        while True:
            alive = self.is_alive()  # read first: what a dead thread has put is there
            try:
                return self.output_queue.get(timeout=0.5)
            except Empty:
                if not alive:
                    raise RuntimeError("the ffcv epoch was closed") from None

    def close(self) -> None:
        """Ends the thread and waits for it."""
        self.terminate_event.set()
        queue: Queue[Any] = self.output_queue
        while self.is_alive():
            try:
                queue.get(timeout=0.02)
            except Empty:
                continue

    def __del__(self) -> None:
        self.terminate_event.set()  # ffcv's own would call close, which waits for the thread


class BetonReader:
    """An open .beton file; windows are resized to `size`, None reads raw images as they are stored.

    Attributes:
        labels: [N] int64.
        sizes: [N, 2] int64, stored height and width; of single-channel images those of all.
    """

    def __init__(self, path: Path, *, batch_size: int, size: int | None, workers: int) -> None:
        if workers > (most := int(vars(numba.config)["NUMBA_NUM_THREADS"])):
            raise UserError("data.workers", f"at most {most} here: the cores, or NUMBA_NUM_THREADS", workers)
        colour = isinstance(Reader(str(path)).handlers["image"], RGBImageField)
        whole = SimpleRGBImageDecoder() if colour else NDArrayDecoder()
        pipelines = {"image": [whole if size is None else _WindowDecoder(size)], "label": None}
        with _torch_threads_kept():
            self._loader = Loader(
                str(path), batch_size, num_workers=workers, os_cache=True, drop_last=False, batches_ahead=_AHEAD,
                pipelines=pipelines,
            )  # fmt: skip
        metadata, field = self._loader.reader.metadata, self._loader.reader.handlers["image"]
        self.labels = metadata["f1"].astype(np.int64).reshape(-1)
        if metadata["f0"].dtype.names:
            image = metadata["f0"]
            self.sizes = np.stack((image["height"], image["width"]), axis=1).astype(np.int64)
        else:
            self.sizes = np.tile(np.array(field.shape[:2], np.int64), (len(self.labels), 1))

    def epoch(self, rows: np.ndarray) -> _Epoch:
        """Batches [B, H, W, C] uint8 in a given order, decoded by threads of their own; `close` what comes back.

        `rows`: [N] indices, or [N, 5] of index, top, left, height, width where windows are resized. A batch may be
        overwritten once the next is asked for.
        """
        with _torch_threads_kept():
            return _Epoch(self._loader, rows)
