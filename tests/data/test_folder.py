"""Folder data sets: any image format and size, one decode, and refusal of what is damaged."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from srat_fast.data import folder
from srat_fast.data.folder import decode, load_folder
from srat_fast.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    path = tmp_path / "cache"
    monkeypatch.setenv("SRAT_FAST_CACHE", str(path))
    return path


def test_images_of_any_kind_become_square_rgb(image_folder) -> None:
    arrays = load_folder(image_folder, 16)
    assert arrays.train.images.shape == (12, 16, 16, 3)
    assert arrays.test.images.shape == (6, 16, 16, 3)
    assert arrays.train.images.dtype == np.uint8
    assert arrays.classes == ("cat", "dog")
    assert arrays.train.labels.tolist() == [0] * 6 + [1] * 6
    bright = arrays.train.images.reshape(12, -1).mean(axis=1)
    assert bright[:6].max() < bright[6:].min()  # dogs are the bright ones: labels follow folders


def test_an_image_of_the_right_size_is_left_alone(tmp_path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (decode(tmp_path / "a.png", 32) == pixels).all()


def test_the_second_load_decodes_nothing(image_folder, cache, monkeypatch) -> None:
    first = load_folder(image_folder, 16)
    monkeypatch.setattr(folder, "decode", None)  # any call would fail
    second = load_folder(image_folder, 16)
    assert (first.train.images == second.train.images).all()
    assert len(list(cache.iterdir())) == 1


def test_a_changed_image_or_size_is_decoded_again(image_folder, cache) -> None:
    before = load_folder(image_folder, 16)
    Image.new("RGB", (32, 32), (255, 0, 0)).save(image_folder / "train" / "cat" / "1.jpg")
    after = load_folder(image_folder, 16)
    assert (before.train.images[1] != after.train.images[1]).any()
    load_folder(image_folder, 8)
    assert len(list(cache.iterdir())) == 3


def test_a_flipped_bit_in_the_cache_is_noticed(image_folder, cache) -> None:
    first = load_folder(image_folder, 16)
    (file,) = cache.iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)
    again = load_folder(image_folder, 16)
    assert (first.train.images == again.train.images).all()


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
    assert not cache.exists()


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
