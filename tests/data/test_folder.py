"""Folder data sets: any image format and size, one decode, and refusal of what is damaged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from srat_fast.data import folder
from srat_fast.data.folder import decode, load_folder
from srat_fast.errors import UserError


@pytest.fixture(autouse=True)
def _cache(cache) -> None:
    """Every test has a cache of its own."""


def sets(cache) -> list[str]:
    """What is in the cache."""
    return sorted(p.name for p in cache.iterdir()) if cache.exists() else []


def test_images_of_any_kind_become_square_rgb(image_folder, caplog) -> None:
    arrays = load_folder(image_folder, 16)
    assert arrays.train.images.shape == (12, 16, 16, 3)
    assert arrays.test.images.shape == (6, 16, 16, 3)
    assert arrays.train.images.dtype == np.uint8
    assert arrays.classes == ("cat", "dog")
    assert arrays.train.labels.tolist() == [0] * 6 + [1] * 6
    bright = arrays.train.images.reshape(12, -1).mean(axis=1)
    assert bright[:6].max() < bright[6:].min()  # dogs are the bright ones: labels follow folders
    assert caplog.messages == [f"{image_folder}: 6 of 18 images converted to RGB: 2 RGBA, 4 grayscale"]
    load_folder(image_folder, 16)
    assert len(caplog.messages) == 1  # once a set, not once a load


def test_an_image_of_the_right_size_is_left_alone(tmp_path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (decode(tmp_path / "a.png", 32) == pixels).all()


def test_each_kind_of_pixel_keeps_its_meaning(tmp_path) -> None:
    grey = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)
    kinds = {
        "L": Image.fromarray(grey),
        "16-bit": Image.fromarray(grey.astype(np.uint16) * 257),
        "palette": Image.fromarray(grey).convert("P"),
        "alpha": Image.fromarray(np.dstack([grey, grey, grey, 255 - grey])),
        "grey alpha": Image.merge("LA", [Image.fromarray(grey), Image.fromarray(255 - grey)]),
    }
    for name, image in kinds.items():
        image.save(tmp_path / f"{name}.png")
        assert (decode(tmp_path / f"{name}.png", 8) == grey[..., None]).all(), name
    transparent = Image.fromarray(grey).convert("P")
    transparent.info["transparency"] = bytes(range(256))
    transparent.save(tmp_path / "transparent.png")
    assert (decode(tmp_path / "transparent.png", 8) == grey[..., None]).all()
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "deep.tiff")
    with pytest.raises(UserError, match=r"deep\.tiff': has 32-bit pixels"):
        decode(tmp_path / "deep.tiff", 8)


def test_the_second_load_decodes_nothing(image_folder, cache, monkeypatch) -> None:
    first = load_folder(image_folder, 16)
    monkeypatch.setattr(folder, "read_image", None)  # any call would fail
    second = load_folder(image_folder, 16)
    assert (first.train.images == second.train.images).all()
    assert len(sets(cache)) == 1


def test_a_changed_image_or_size_is_decoded_again(image_folder, cache) -> None:
    before = load_folder(image_folder, 16)
    victim = image_folder / "train" / "cat" / "1.jpg"
    old = victim.stat()
    size = old.st_size
    Image.new("RGB", (32, 32), (255, 0, 0)).save(victim)
    content = victim.read_bytes()
    victim.write_bytes(content + b"\0" * (size - len(content)))
    os.utime(victim, ns=(old.st_atime_ns, old.st_mtime_ns))  # same name, size and modification time
    after = load_folder(image_folder, 16)
    assert (before.train.images[1] != after.train.images[1]).any()
    load_folder(image_folder, 8)
    assert len(sets(cache)) == 3


def test_a_flipped_bit_in_the_cache_is_noticed(image_folder, cache) -> None:
    first = load_folder(image_folder, 16).train.images.copy()
    (file,) = cache.glob("folder-*/train_images.npy")
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)
    again = load_folder(image_folder, 16)
    assert (first == again.train.images).all()


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "is empty"), (b"<html>not an image</html>", "is not an image"), (None, "damaged image")],
)
def test_a_bad_image_is_named_and_nothing_is_cached(image_folder, cache, content, says) -> None:
    victim = image_folder / "train" / "dog" / "1.jpg"
    victim.write_bytes(victim.read_bytes()[:400] if content is None else content)
    with pytest.raises(UserError, match=says) as error:
        load_folder(image_folder, 16)
    assert str(victim) in str(error.value)
    assert sets(cache) == []


def test_folders_that_are_no_data_set(image_folder, tmp_path) -> None:
    with pytest.raises(UserError, match="is not a directory"):
        load_folder(tmp_path / "none", 16)
    with pytest.raises(UserError, match="has no folder train/"):
        load_folder(image_folder / "train", 16)
    (image_folder / "train" / "bird").mkdir()
    with pytest.raises(UserError, match="differ: bird"):
        load_folder(image_folder, 16)
    (image_folder / "test" / "bird").mkdir()
    with pytest.raises(UserError, match="train/bird holds no image"):
        load_folder(image_folder, 16)
    for part in ("train", "test"):
        shutil.rmtree(image_folder / part / "bird")
        shutil.rmtree(image_folder / part / "dog")
    with pytest.raises(UserError, match="at least 2 class folders"):
        load_folder(image_folder, 16)


def test_a_full_disk_is_one_line_and_leaves_nothing(image_folder, disk_of, monkeypatch) -> None:
    disk = disk_of("64k")
    monkeypatch.setenv("SRAT_FAST_CACHE", str(disk))
    with pytest.raises(
        UserError, match=r"SRAT_FAST_CACHE = '.*': cannot be written: No space left on device"
    ):
        load_folder(image_folder, 48)
    assert sets(disk) == []


LOAD = """
import sys
from pathlib import Path
from srat_fast.data.folder import load_folder
from srat_fast.data.notices import printed
print("ready", flush=True)
sys.stdin.readline()
with printed():
    print(load_folder(Path(sys.argv[1]), 224).train.images.shape)
"""


def test_of_two_processes_one_decodes_and_the_other_waits(image_folder, cache) -> None:
    for k in range(60):  # enough work that both are at it at the same time
        shutil.copy(image_folder / "train" / "cat" / "1.jpg", image_folder / "train" / "cat" / f"more{k}.jpg")
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    processes = [
        subprocess.Popen([sys.executable, "-c", LOAD, str(image_folder)], text=True, **pipes) for _ in "ab"
    ]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=120) for process in processes]
    assert [out for out, _ in said] == ["(72, 224, 224, 3)\n"] * 2, said
    lines = "".join(err for _, err in said)
    assert lines.count("decoded 78 images") == 1
    assert lines.count("converted to RGB") == 1
    assert len(sets(cache)) == 1
