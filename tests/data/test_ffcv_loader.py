"""The ffcv loader against the memory loader: the same batches bit for bit; no thread outlives its epoch."""

from __future__ import annotations

import gc
import io
import itertools
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from srat_fast.data.arrays import ImageSet
from srat_fast.data.augment import Augmentation
from srat_fast.data.ffcv_loader import FfcvLoader
from srat_fast.data.memory import MemoryLoader
from srat_fast.ranks import Ranks

pytestmark = pytest.mark.usefixtures("ffcv")


def random_images(count: int = 53, shape: tuple[int, ...] = (12, 12, 3)) -> ImageSet:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (count, *shape), dtype=np.uint8)
    return ImageSet(pixels, generator.integers(0, 10, count))


@pytest.fixture
def beton(ffcv, tmp_path):
    def write(images: ImageSet) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.beton"
        ffcv.write_beton(path, images.images, images.labels, images.images.shape[1:], False)
        return path

    return write


@pytest.fixture(scope="module")
def jpegs(ffcv, tmp_path_factory):
    """A file of 21 JPEG of three sizes, and their bytes."""
    generator = np.random.default_rng(3)
    shapes = itertools.cycle([(30, 40, 3), (64, 24, 3), (32, 32, 3)])
    smooth = [
        np.asarray(Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((w, h)))
        for h, w, _ in itertools.islice(shapes, 21)
    ]
    encoded = [ffcv.to_jpeg(image, 48, 95) for image in smooth]
    path = tmp_path_factory.mktemp("jpeg") / "a.beton"
    ffcv.write_beton(path, encoded, np.arange(21), (48, 48, 3), True)
    return path, encoded


def fail(loader: FfcvLoader) -> None:
    batches = loader.epoch()
    next(batches)
    raise ValueError("in the middle")


def decoding_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if type(t).__name__ == "_Epoch"]


VARIANTS = {
    "plain": {},
    "order": {"shuffle": True},
    "crop and flip": {"crop_padding": 2, "flip": True, "shuffle": True},
    "resized crop": {"crop_area": 0.2, "flip": True, "shuffle": True},
    "balanced": {"crop_padding": 1, "shuffle": True, "balanced": ((3, 4),)},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", [(12, 12, 3), (8, 8, 1)], ids=["colour", "grey"])
def test_both_loaders_give_the_same_batches(beton, device, shape, variant) -> None:
    images, chosen = random_images(shape=shape), VARIANTS[variant]
    memory = MemoryLoader(images, batch_size=16, device=device, seed=7, **chosen)
    ours = FfcvLoader(
        beton(images), batch_size=16, device=device, augmentation=Augmentation(seed=7, **chosen)
    )
    assert (len(ours), ours.images_per_epoch, ours.batch_size) == (4, 53, 16)
    for number, start in ((0, 0), (3, 0), (3, 2), (3, 4)):
        pairs = list(zip(memory.epoch(number, start), ours.epoch(number, start), strict=True))
        assert len(pairs) == 4 - start
        for (a, x), (b, y) in pairs:
            torch.testing.assert_close(a, b, rtol=0, atol=0)
            torch.testing.assert_close(x, y, rtol=0, atol=0)
            assert b.dtype == torch.float32
            assert b.is_contiguous(memory_format=torch.channels_last)
            assert b.stride() == a.stride()  # of one channel both layouts fit; compiled code tells them apart
            assert b.device.type == device.type
    ours.close()


def test_batches_are_the_callers_to_keep(beton, device) -> None:
    """ffcv decodes into five buffers in turn; what was handed out must not change after that."""
    images = random_images(200)
    loader = FfcvLoader(beton(images), batch_size=4, device=device, augmentation=Augmentation())
    kept = [pixels for pixels, _ in loader.epoch()]
    expected = torch.from_numpy(images.images).permute(0, 3, 1, 2).float() / 255
    torch.testing.assert_close(torch.cat(kept).cpu(), expected, rtol=0, atol=0)


def test_no_thread_is_left(beton, device) -> None:
    loader = FfcvLoader(beton(random_images(400)), batch_size=4, device=device, augmentation=Augmentation())
    assert len(list(loader.epoch())) == 100
    assert decoding_threads() == []  # after a whole epoch

    for _ in loader.epoch():
        assert len(decoding_threads()) == 1
        break
    gc.collect()
    assert decoding_threads() == []  # after one that was left in the middle

    with pytest.raises(ValueError, match="in the middle") as caught:
        fail(loader)
    assert len(decoding_threads()) == 1  # the traceback holds the epoch
    loader.close()
    assert decoding_threads() == []  # after an exception, whoever keeps it
    del caught


def test_close_ends_running_epochs_and_asking_on_is_an_error_not_a_wait(beton, device) -> None:
    loader = FfcvLoader(beton(random_images(400)), batch_size=4, device=device, augmentation=Augmentation())
    running = [loader.epoch(0), loader.epoch(1)]
    for epoch in running:
        next(epoch)
    assert len(decoding_threads()) == 2
    loader.close()
    assert decoding_threads() == []
    with pytest.raises(RuntimeError, match="closed"):
        for _ in running[0]:
            pass


def test_a_failure_of_the_decoding_thread_reaches_the_caller(ffcv, beton) -> None:
    reader = ffcv.BetonReader(beton(random_images(30)), batch_size=8, size=None, workers=1)
    epoch = reader.epoch(np.array([0, 1, 2, 99], dtype=np.uint64))  # there is no image 99
    with pytest.raises(IndexError):
        next(epoch)
    epoch.close()
    assert decoding_threads() == []


def test_torchs_threads_stay_as_they_were(ffcv, beton, device) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        loader = FfcvLoader(
            beton(random_images(30)), batch_size=8, device=device, augmentation=Augmentation(), workers=1
        )
        list(loader.epoch())
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_files_are_equal_byte_for_byte_and_hold_the_labels(ffcv, beton) -> None:
    images = random_images()
    first, second = beton(images), beton(images)
    assert first.read_bytes() == second.read_bytes()
    reader = ffcv.BetonReader(first, batch_size=8, size=None, workers=1)
    assert (reader.labels == images.labels).all()


def decoded(encoded) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded[0].tobytes()))).astype(int)


def alike(expected: np.ndarray, got: np.ndarray) -> bool:
    """Two JPEG decoders differ by a few levels, most where colours change fast."""
    difference = np.abs(expected - got)
    return bool(difference.mean() < 3 and difference.max() < 20)


def test_jpeg_are_stored_no_larger_than_allowed(jpegs) -> None:
    _, encoded = jpegs
    assert [image[1:] for image in encoded[:3]] == [(30, 40), (48, 18), (32, 32)]
    assert decoded(encoded[1]).shape == (48, 18, 3)


def test_a_window_of_a_jpeg_is_what_was_asked_for(ffcv, jpegs) -> None:
    path, encoded = jpegs
    reader = ffcv.BetonReader(path, batch_size=4, size=16, workers=1)
    assert reader.sizes[:3].tolist() == [[30, 40], [48, 18], [32, 32]]
    rows = np.array([[2, 8, 4, 16, 16], [0, 10, 20, 16, 16], [1, 30, 1, 16, 16], [5, 0, 0, 32, 32]])
    (batch,) = [b.copy() for b in reader.epoch(rows)]
    for (index, top, left, high, wide), got in zip(rows[:3].tolist(), batch, strict=False):
        expected = decoded(encoded[index])[top : top + high, left : left + wide]
        assert alike(expected, got)
    halved = decoded(encoded[5]).reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
    assert alike(halved, batch[3])
    assert not alike(halved, batch[2])


@pytest.mark.parametrize("chosen", [{"crop_area": 0.3}, {"crop_padding": 2}], ids=["resized-crop", "crop"])
def test_jpeg_batches_are_seeded(jpegs, device, chosen) -> None:
    def epoch(seed: int, number: int, start: int = 0) -> list[torch.Tensor]:
        loader = FfcvLoader(
            jpegs[0], batch_size=8, device=device, size=16,
            augmentation=Augmentation(seed=seed, flip=True, shuffle=True, **chosen),
        )  # fmt: skip
        return [torch.cat([i.cpu().flatten(1), y.cpu()[:, None]], 1) for i, y in loader.epoch(number, start)]

    whole = epoch(0, 1)
    assert [len(b) for b in whole] == [8, 8, 5]
    assert sorted(torch.cat(whole)[:, -1].tolist()) == list(range(21))
    torch.testing.assert_close(whole, list(epoch(0, 1)), rtol=0, atol=0)
    torch.testing.assert_close(whole[1:], list(epoch(0, 1, 1)), rtol=0, atol=0)
    assert not torch.equal(whole[0], epoch(0, 2)[0])
    assert not torch.equal(whole[0], epoch(1, 1)[0])


SERVED = """
import hashlib, sys, torch
from srat_fast.data.augment import Augmentation
from srat_fast.data.ffcv_loader import FfcvLoader

def served(raw, jpeg):
    digest = hashlib.sha256()
    for path, size, workers, how in ((raw, None, 1, {"crop_padding": 2}), (jpeg, 16, 2, {"crop_area": 0.3})):
        augmentation = Augmentation(seed=1, flip=True, shuffle=True, **how)
        loader = FfcvLoader(path, batch_size=8, device=torch.device("cpu"), size=size, workers=workers,
                            augmentation=augmentation)
        for images, labels in (*loader.epoch(0), *loader.epoch(1)):
            digest.update(images.contiguous().numpy().tobytes() + labels.numpy().tobytes())
        loader.close()
    return digest.hexdigest()
"""


def test_compiled_decoders_give_what_plain_python_gives(beton, jpegs) -> None:
    """The only test with numba's compiler, in a process of its own; two threads decode the JPEG."""
    raw, here = beton(random_images()), {}
    exec(SERVED, here)
    code = SERVED + "print(served(sys.argv[1], sys.argv[2]))"
    command = [sys.executable, "-W", "error", "-c", code, str(raw), str(jpegs[0])]
    environment = os.environ | {"NUMBA_DISABLE_JIT": "0"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == here["served"](raw, jpegs[0])


class Part(Ranks):
    """One of several processes."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


@pytest.mark.parametrize("size", [3, 7])
def test_processes_decode_a_share_of_every_batch(beton, device, size) -> None:
    """From the third batch of 16 on; of the last one of 5 images two of seven processes get none."""
    path, chosen = beton(random_images()), {"crop_padding": 2, "flip": True, "shuffle": True}
    found = []
    for ranks in (Ranks(), *(Part(rank, size) for rank in range(size))):
        augmentation = Augmentation(seed=7, **chosen)
        loader = FfcvLoader(path, batch_size=16, device=device, augmentation=augmentation, ranks=ranks)
        found.append([(images.clone(), labels) for images, labels in loader.epoch(1, 2)])
        loader.close()
    whole, *parts = found
    assert len(whole) == 2
    for at, (images, labels) in enumerate(whole):
        assert torch.equal(torch.cat([part[at][0] for part in parts]), images)
        assert all(torch.equal(part[at][1], labels) for part in parts)
    assert not decoding_threads()
