"""Prepared files: made once, checked before use, made anew when damaged; two processes share the work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from srat_fast import UserError, build_recipe
from srat_fast.data import beton
from srat_fast.data.arrays import ImageSet
from srat_fast.data.beton import prepare_beton
from srat_fast.data.folder import load_files
from srat_fast.recipe import Recipe

pytestmark = pytest.mark.usefixtures("ffcv")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SRAT_FAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "beton"


def digits(**changes: object) -> Recipe:
    return build_recipe(None, {"data.name": "digits", "data.loader": "ffcv"} | changes).resolve()


def some_images(count: int = 20, seed: int = 0) -> ImageSet:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)
    return ImageSet(pixels, generator.integers(0, 10, count))


def fresh() -> None:
    """As in a new process: nothing is known to be checked."""
    beton._verified.clear()


def test_a_file_is_made_once_with_a_checksum_that_sha256sum_reads(cache, monkeypatch, caplog) -> None:
    counted: list[int] = []
    made = prepare_beton("train", some_images(), digits(), counted.append)
    assert made.path.parent == cache
    assert (made.images, made.bytes, counted) == (20, made.path.stat().st_size, list(range(1, 21)))
    check = subprocess.run(
        ["sha256sum", "-c", f"{made.path.name}.sha256"],
        cwd=cache,
        capture_output=True,
        text=True,
        check=False,
    )
    assert check.stdout == f"{made.path.name}: OK\n"
    fresh()
    monkeypatch.setattr(beton, "_make", None)  # any call would fail
    assert prepare_beton("train", some_images(), digits()) == made
    assert caplog.messages == []
    assert {p.suffix for p in cache.iterdir()} == {".beton", ".sha256"}


def test_whatever_decides_the_bytes_decides_the_name(cache) -> None:
    paths = [
        prepare_beton("train", images, digits()).path
        for images in (some_images(), some_images(seed=1), some_images().select(np.arange(20)[::-1]))
    ]
    assert len(set(paths)) == 3
    relabelled = ImageSet(some_images().images, (some_images().labels + 1) % 10)
    assert prepare_beton("train", relabelled, digits()).path not in paths
    assert prepare_beton("train", some_images(), digits(seed=5)).path == paths[0]


@pytest.mark.parametrize("damage", ["bit", "cut", "no checksum", "empty checksum"])
def test_a_damaged_file_is_made_anew_and_told(cache, damage, caplog) -> None:
    made = prepare_beton("train", some_images(), digits())
    before = made.path.read_bytes()
    beside = made.path.with_name(made.path.name + ".sha256")
    if damage == "bit":
        made.path.write_bytes(before[:-9] + bytes([before[-9] ^ 1]) + before[-8:])
    elif damage == "cut":
        os.truncate(made.path, len(before) // 2)
    elif damage == "no checksum":
        beside.unlink()
    else:
        beside.write_text("")
    fresh()
    again = prepare_beton("train", some_images(), digits())
    assert again == made
    assert made.path.read_bytes() == before
    (line,) = caplog.messages
    assert line.startswith(str(made.path))
    assert line.endswith("made anew")


def test_a_file_that_changes_within_the_process_is_read_again(cache, caplog) -> None:
    made = prepare_beton("train", some_images(), digits())
    content = bytearray(made.path.read_bytes())
    content[-9] ^= 1
    made.path.write_bytes(content)  # another modification time: what was checked is no longer there
    prepare_beton("train", some_images(), digits())
    assert len(caplog.messages) == 1


def test_a_prepared_directory_of_ones_own(tmp_path, cache) -> None:
    recipe = digits(**{"data.prepared": str(tmp_path / "mine")})
    assert prepare_beton("train", some_images(), recipe).path.parent == tmp_path / "mine"
    assert not cache.exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"data.prepared = .*: cannot be written: Not a directory"):
        prepare_beton("train", some_images(), digits(**{"data.prepared": str(tmp_path / "file" / "x")}))


def test_a_finished_file_is_read_from_a_directory_that_cannot_be_written(cache, monkeypatch) -> None:
    made = prepare_beton("train", some_images(), digits())
    fresh()
    monkeypatch.setattr(beton, "exclusive", None)  # a lock would have to be written
    assert prepare_beton("train", some_images(), digits()) == made


WRITE = """
import sys, numpy as np
from srat_fast import build_recipe
from srat_fast.data.arrays import ImageSet
from srat_fast.data.beton import prepare_beton
import time
images = ImageSet(np.zeros((int(sys.argv[1]), 8, 8, 1), np.uint8), np.zeros(int(sys.argv[1]), np.int64))
slow = lambda done: time.sleep(float(sys.argv[2]))
recipe = build_recipe(None, {"data.name": "digits", "data.loader": "ffcv"}).resolve()
print(prepare_beton("train", images, recipe, slow).path)
"""


def writer(count: int, pause: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITE, str(count), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for_part(cache: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not list(cache.glob(".*.part")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_while_writing_leaves_nothing_that_is_taken_for_whole(cache) -> None:
    with writer(2000, 0.05) as process:
        wait_for_part(cache, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert list(cache.glob("*.beton")) == []
    zeros = ImageSet(np.zeros((2000, 8, 8, 1), np.uint8), np.zeros(2000, np.int64))
    made = prepare_beton("train", zeros, digits())
    assert list(cache.glob(".*.part")) == []
    assert made.images == 2000


def test_a_second_process_waits_and_takes_what_the_first_made(cache, caplog) -> None:
    caplog.set_level("INFO", "srat_fast.data")
    with writer(40, 0.1) as first:
        wait_for_part(cache, first)
        zeros = ImageSet(np.zeros((40, 8, 8, 1), np.uint8), np.zeros(40, np.int64))
        written: list[int] = []
        made = prepare_beton("train", zeros, digits(), written.append)
        assert written == []
        assert caplog.messages == [f"waiting for another process that makes {made.path}"]
        assert first.stdout is not None
        assert first.stdout.read().strip() == str(made.path)


@pytest.mark.parametrize("size", ["1m", "3m"])  # cut in the header's padding, and in the first page
def test_a_full_disk_is_one_line_and_leaves_no_file(disk_of, size) -> None:
    disk = disk_of(size)
    with pytest.raises(UserError, match=r"data.prepared = .*: cannot be written: No space left on device"):
        prepare_beton("train", some_images(), digits(**{"data.prepared": str(disk)}))
    assert list(disk.iterdir()) == []


def test_a_disk_that_is_full_for_a_moment_is_noticed(ffcv, disk_of) -> None:
    """ffcv does not look at how much of a page was taken; the next page would follow the cut one."""
    disk = disk_of("12m")
    (disk / "filler").write_bytes(bytes(9 * 2**20))  # room for the header's 2 MiB and half of the first page

    def images():
        for position in range(40):  # 32 of them fill a page
            if position == 36:
                (disk / "filler").unlink()
            yield np.zeros((256, 256, 1), np.uint8)

    with pytest.raises(OSError, match="No space left"):
        ffcv.write_beton(disk / "a.beton", images(), np.zeros(40, np.int64), (256, 256, 1), False)


def jpeg_recipe(root: Path, **changes: object) -> Recipe:
    fields = {
        "data.name": "folder", "data.root": str(root), "data.imbalance": "none", "data.loader": "ffcv",
        "data.storage": "jpeg", "data.image_size": 16,
    }  # fmt: skip
    return build_recipe(None, fields | changes).resolve()


def test_a_folder_is_stored_as_jpeg(image_folder, ffcv) -> None:
    recipe = jpeg_recipe(image_folder)
    train = load_files(image_folder, 16).train
    made = prepare_beton("train", train, recipe)
    reader = ffcv.BetonReader(made.path, batch_size=4, size=16, workers=1)
    assert reader.labels.tolist() == [0] * 6 + [1] * 6
    assert reader.sizes[:3].tolist() == [[20, 30], [32, 32], [32, 13]]  # 40 x 16 reduced to 32 pixels
    others = [
        prepare_beton("train", train, jpeg_recipe(image_folder, **change)).path
        for change in ({"data.jpeg_quality": 50}, {"data.max_side": 20})
    ]
    assert len({made.path, *others}) == 3
    (image_folder / "train" / "cat" / "1.jpg").write_bytes(
        (image_folder / "train" / "dog" / "1.jpg").read_bytes()
    )
    assert prepare_beton("train", load_files(image_folder, 16).train, recipe).path not in (made.path, *others)


def test_converted_images_are_told_once_a_stored_file(image_folder, caplog) -> None:
    Image.new("CMYK", (20, 20)).save(image_folder / "train" / "cat" / "1.jpg")
    for _ in "ab":
        arrays = load_files(image_folder, 16)
        prepare_beton("train", arrays.train, jpeg_recipe(image_folder))
        assert caplog.messages == [
            f"{image_folder}: 7 of 18 images converted to RGB: 1 CMYK, 2 RGBA, 4 grayscale"
        ]


def test_a_damaged_image_stops_the_making_and_is_named(image_folder, cache) -> None:
    victim = image_folder / "train" / "dog" / "1.jpg"
    victim.write_bytes(victim.read_bytes()[:300])
    with pytest.raises(UserError, match="is a damaged image") as error:
        prepare_beton("train", load_files(image_folder, 16).train, jpeg_recipe(image_folder))
    assert str(victim) in str(error.value)
    assert not cache.exists()
