"""The cache of prepared sets: shared, whole or absent, and made again where a byte changed."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from srat_fast.data.arrays import checksum
from srat_fast.data.prepared import FORMAT, load, prepared, store
from srat_fast.errors import UserError


def test_a_set_is_made_once_and_mapped(uneven_arrays, cache) -> None:
    made = []
    first, second = (prepared("set", lambda: made.append(1) or uneven_arrays) for _ in range(2))
    assert made == [1]
    assert checksum(first.train, first.test) == checksum(uneven_arrays.train, uneven_arrays.test)
    assert first.classes == ("a", "b", "c")
    assert isinstance(second.train.images.base, np.memmap)
    before = second.train.images[0, 0, 0, 0]
    first.train.images[0, 0, 0, 0] ^= 1  # one process's change is its own
    assert second.train.images[0, 0, 0, 0] == before
    assert load(cache / f"set-v{FORMAT}").train.images[0, 0, 0, 0] == before


def flip(path, position: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * position)] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda at: flip(at / "train_images.npy", 0.5),
        lambda at: flip(at / "test_labels.npy", 0.99),
        lambda at: flip(at / "train_labels.npy", 0.01),
        lambda at: (at / "test_images.npy").write_bytes((at / "test_images.npy").read_bytes()[:-10]),
        lambda at: (at / "manifest.json").write_text('{"classes": ['),
        lambda at: (at / "manifest.json").write_text(json.dumps({"classes": ["a"]})),
    ],
)
def test_a_changed_byte_is_noticed_and_the_set_made_again(damage, uneven_arrays, cache, caplog) -> None:
    prepared("set", lambda: uneven_arrays)
    damage(cache / f"set-v{FORMAT}")
    again = prepared("set", lambda: uneven_arrays)
    assert checksum(again.train, again.test) == checksum(uneven_arrays.train, uneven_arrays.test)
    assert "is damaged and will be made again" in caplog.text
    caplog.clear()
    assert prepared("set", lambda: pytest.fail("it was made a third time")).classes == again.classes
    assert caplog.text == ""


@pytest.mark.parametrize("missing", ["manifest.json", "train_images.npy"])
def test_a_half_written_set_is_not_used(missing, uneven_arrays, cache) -> None:
    prepared("set", lambda: uneven_arrays)
    (cache / f"set-v{FORMAT}" / missing).unlink()
    made = []
    prepared("set", lambda: made.append(1) or uneven_arrays)
    assert made == [1]


def test_a_set_that_may_not_be_read_is_not_called_damaged(uneven_arrays, cache, caplog, monkeypatch) -> None:
    prepared("key", lambda: uneven_arrays)

    def refused(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(
        UserError, match=r"SRAT_FAST_CACHE = '.*manifest.json': cannot be read: Permission denied"
    ):
        prepared("key", lambda: uneven_arrays)
    assert caplog.messages == []


def test_a_maker_that_fails_leaves_nothing(cache) -> None:
    def fail():
        raise UserError("data.root", "is damaged")

    with pytest.raises(UserError):
        prepared("set", fail)
    assert not cache.exists()


def test_a_full_disk_is_one_line_and_leaves_nothing(uneven_arrays, disk_of, monkeypatch) -> None:
    disk = disk_of("64k")
    big = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    arrays = type(uneven_arrays)(
        type(uneven_arrays.train)(big, np.arange(40) % 2), uneven_arrays.test, ("a", "b")
    )
    monkeypatch.setenv("SRAT_FAST_CACHE", str(disk))
    with pytest.raises(
        UserError, match=r"SRAT_FAST_CACHE = '.*': cannot be written: No space left on device"
    ):
        prepared("set", lambda: arrays)
    assert list(disk.iterdir()) == []
    assert len(prepared("set", lambda: uneven_arrays).train) == 62  # the disk is usable again


MAKE = """
import sys, time
from pathlib import Path
import numpy as np
from srat_fast.data.arrays import ImageArrays, ImageSet
from srat_fast.data.notices import printed
from srat_fast.data import prepared

def make():
    with Path(sys.argv[1]).open("a") as file:
        file.write("made\\n")
    time.sleep(1.0)
    images = ImageSet(np.full((8, 4, 4, 3), 7, np.uint8), np.arange(8) % 2)
    return ImageArrays(images, images, ("a", "b"))

if len(sys.argv) > 2:  # stop while the files are being written
    write = prepared._write_array
    def slow(path, array):
        done = write(path, array)
        print("written", flush=True)
        time.sleep(600)
        return done
    prepared._write_array = slow
print("ready", flush=True)
sys.stdin.readline()
with printed():
    print(prepared.prepared("set", make).train.images.sum())
"""


def start(tmp_path, *arguments: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", MAKE, str(tmp_path / "count"), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()
    return process


def test_of_three_processes_one_makes_the_set(cache, tmp_path) -> None:
    said = [process.communicate(timeout=120) for process in [start(tmp_path) for _ in range(3)]]
    assert [out for out, _ in said] == [f"{8 * 48 * 7}\n"] * 3, said
    assert (tmp_path / "count").read_text() == "made\n"


def test_a_process_killed_while_writing_leaves_nothing_that_is_used(cache, tmp_path, caplog) -> None:
    caplog.set_level(logging.WARNING)
    with start(tmp_path, "slow") as process:
        assert process.stdout.readline() == "written\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    time.sleep(0.1)
    assert any(p.name.endswith(".part") for p in cache.iterdir())
    with start(tmp_path) as process:
        assert process.communicate(timeout=120)[0] == f"{8 * 48 * 7}\n"
    assert (tmp_path / "count").read_text() == "made\nmade\n"
    assert sorted(p.name for p in cache.iterdir()) == [f"set-v{FORMAT}"]


def test_a_set_that_cannot_be_renamed_is_an_error(uneven_arrays, cache) -> None:
    cache.mkdir()
    (cache / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written: Not a directory"):
        store(cache / "file" / "set", uneven_arrays)
