"""Training images that stay in their files behave as the arrays that they would be."""

from __future__ import annotations

import os

import numpy as np
import pytest

from srat_fast import UserError, build_recipe
from srat_fast.data import folder
from srat_fast.data.arrays import checksum, in_memory
from srat_fast.data.folder import FileImages, load_files, load_folder
from srat_fast.data.split import load_split


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SRAT_FAST_CACHE", str(tmp_path / "cache"))


def test_files_are_the_arrays_decoded_late(image_folder) -> None:
    late, arrays = load_files(image_folder, 16), load_folder(image_folder, 16)
    assert isinstance(late.train.images, FileImages)
    assert late.classes == arrays.classes
    assert late.train.images.shape == arrays.train.images.shape
    assert (np.asarray(late.train.images) == arrays.train.images).all()
    assert (late.train.images[3] == arrays.train.images[3]).all()
    assert (np.asarray(late.train.images[2:5]) == arrays.train.images[2:5]).all()
    chosen = np.array([7, 0, 3])
    assert (in_memory(late.train.select(chosen)).images == arrays.train.images[chosen]).all()
    assert len(late.train.images[late.train.labels == 1]) == 6
    assert (np.asarray(late.train.images[late.train.labels == 1]) == arrays.train.images[6:]).all()
    assert (late.train.labels == arrays.train.labels).all()
    assert (late.test.images == arrays.test.images).all()


def test_the_checksum_follows_names_bytes_and_size(image_folder) -> None:
    first = checksum(load_files(image_folder, 16).train)
    assert checksum(load_files(image_folder, 16).train) == first
    assert checksum(load_files(image_folder, 8).train) != first
    file = image_folder / "train" / "cat" / "0.png"
    file.write_bytes(file.read_bytes() + b"\0")
    second = checksum(load_files(image_folder, 16).train)
    assert second != first
    file.rename(file.with_name("00.png"))
    assert checksum(load_files(image_folder, 16).train) not in (first, second)


def test_files_are_read_once_for_their_checksum(image_folder, monkeypatch) -> None:
    """The run's checksum and the name of its .beton file are both over them."""
    train = load_files(image_folder, 16).train
    first = checksum(train)
    monkeypatch.setattr(folder, "_digest", None)  # any call would fail
    assert checksum(train) == first


def test_a_split_decodes_what_is_judged_only(image_folder, monkeypatch) -> None:
    fields = {
        "data.name": "folder", "data.root": str(image_folder), "data.imbalance": "none", "data.loader": "ffcv",
        "data.storage": "jpeg", "data.image_size": 16, "data.val_fraction": 0.3,
    }  # fmt: skip
    split = load_split(build_recipe(None, fields).resolve())
    assert isinstance(split.train.images, FileImages)
    assert isinstance(split.validation.images, np.ndarray)
    assert isinstance(split.test.images, np.ndarray)
    assert (len(split.train), len(split.validation)) == (8, 4)
    raw = load_split(build_recipe(None, fields | {"data.loader": "memory", "data.storage": "raw"}).resolve())
    assert (np.asarray(split.train.images) == raw.train.images).all()
    assert (split.validation.images == raw.validation.images).all()


def test_names_are_bytes(image_folder) -> None:
    cat = os.fsencode(image_folder / "train" / "cat")
    os.rename(cat + b"/1.jpg", cat + b"/caf\xe9.jpg")
    first = checksum(load_files(image_folder, 16).train)
    os.rename(cat + b"/caf\xe9.jpg", cat + b"/caf\xe8.jpg")
    assert checksum(load_files(image_folder, 16).train) != first


def test_a_damaged_file_is_named(image_folder) -> None:
    victim = image_folder / "train" / "cat" / "2.bmp"
    victim.write_bytes(b"")
    images = load_files(image_folder, 16).train.images
    with pytest.raises(UserError, match="is empty") as error:
        np.asarray(images)
    assert str(victim) in str(error.value)
    victim.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        images.content()
