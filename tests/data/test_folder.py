"""Folder data sets: any image format and size, one decode, and refusal of what is damaged."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
import unicodedata
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageOps

from srat_fast.cli.app import main
from srat_fast.data import folder
from srat_fast.data.folder import class_files, decode, load_files, load_folder
from srat_fast.data.notices import bar
from srat_fast.errors import UserError
from tests.data.fuzz import fuzz


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


def deep_tiff(pixels: np.ndarray, bits: int, photometric: int) -> bytes:
    """A TIFF of 8 x 8 grey pixels; photometric 0 has white as 0."""
    tags = {256: 8, 257: 8, 258: bits, 259: 1, 262: photometric, 273: 110, 277: 1, 279: 128}
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + rows + bytes(4) + pixels.tobytes()


def test_each_kind_of_pixel_keeps_its_meaning(tmp_path) -> None:
    grey = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)
    kinds = {
        "L": Image.fromarray(grey),
        "16-bit": Image.fromarray(grey.astype(np.uint16) * 257),
        "palette": Image.fromarray(grey).convert("P"),
        "alpha": Image.fromarray(np.dstack([grey, grey, grey, 255 - grey])),
        "grey alpha": Image.merge("LA", [Image.fromarray(grey), Image.fromarray(255 - grey)]),
    }
    kinds["16-bit"].save(tmp_path / "deep.pgm")
    assert (decode(tmp_path / "deep.pgm", 8) == grey[..., None]).all()
    for name, image in kinds.items():
        image.save(tmp_path / f"{name}.png")
        assert (decode(tmp_path / f"{name}.png", 8) == grey[..., None]).all(), name
    transparent = Image.fromarray(grey).convert("P")
    transparent.info["transparency"] = bytes(range(256))
    transparent.save(tmp_path / "transparent.png")
    assert (decode(tmp_path / "transparent.png", 8) == grey[..., None]).all()
    for bits, white, says in (
        (16, 1, None),
        (12, 1, "has grey levels of 12 bits"),
        (16, 0, "with 0 as white"),
    ):
        (tmp_path / "deep.tif").write_bytes(deep_tiff(grey.astype("<u2") * 257, bits, white))
        if says is None:
            assert (decode(tmp_path / "deep.tif", 8) == grey[..., None]).all()
        else:
            with pytest.raises(UserError, match=says):
                decode(tmp_path / "deep.tif", 8)
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


def test_sets_that_agree_in_names_sizes_and_coarse_times_are_two(tmp_path, monkeypatch) -> None:
    """As on images of disks that are made with all times 0."""
    stat = Path.stat

    def coarse(path: Path, **how: bool) -> SimpleNamespace:
        state = stat(path, **how)
        facts = {name: getattr(state, name) for name in ("st_mode", "st_size", "st_dev", "st_ino")}
        return SimpleNamespace(**facts, st_mtime_ns=0, st_ctime_ns=0)

    for level, name in enumerate(("first", "second")):
        for place in ("train/a", "train/b", "test/a", "test/b"):
            (tmp_path / name / place).mkdir(parents=True)
            Image.new("RGB", (8, 8), (level,) * 3).save(tmp_path / name / place / "0.bmp")
    monkeypatch.setattr(Path, "stat", coarse)
    found = [load_folder(tmp_path / name, 8).train.images.max() for name in ("first", "second", "first")]
    assert found == [0, 1, 0]


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


def test_a_png_that_ends_in_zeros_is_not_decoded_to_something_else(tmp_path) -> None:
    """As a crash leaves it, or a download into a file of the final size."""
    path, generator = tmp_path / "a.png", np.random.default_rng(0)
    small = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    whole = small.resize((128, 96), Image.Resampling.BICUBIC)
    whole.save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10].ljust(len(content), b"\0"))
    with Image.open(path) as lenient:
        assert (np.asarray(lenient) != np.asarray(whole)).any()
    with pytest.raises(UserError, match=r"a\.png': is a damaged image: broken PNG file"):
        decode(path, 32)


def test_folders_that_are_no_data_set(image_folder, tmp_path) -> None:
    with pytest.raises(UserError, match="is not a directory"):
        load_folder(tmp_path / "none", 16)
    with pytest.raises(UserError, match="has no folder train/"):
        load_folder(image_folder / "train", 16)
    (image_folder / "train" / "bird").mkdir()
    with pytest.raises(UserError, match=r"differ: bird \(in train/ only\)"):
        load_folder(image_folder, 16)
    (image_folder / "test" / "bird").mkdir()
    with pytest.raises(UserError, match="train/bird holds no image"):
        load_folder(image_folder, 16)
    for part in ("train", "test"):
        shutil.rmtree(image_folder / part / "bird")
        shutil.rmtree(image_folder / part / "dog")
    with pytest.raises(UserError, match="at least 2 class folders"):
        load_folder(image_folder, 16)


def names(root, part="train") -> list[list[str]]:
    """Each class's images, as paths below the class folder."""
    classes, files = class_files(root)
    found = zip(classes, files[part], strict=True)
    return [[str(file.relative_to(root / part / name)) for file in inside] for name, inside in found]


def test_images_in_sub_folders_and_behind_links_are_read(image_folder, tmp_path) -> None:
    before = load_folder(image_folder, 16)
    cat = image_folder / "train" / "cat"
    (cat / "more" / "still").mkdir(parents=True)
    (cat / "0.png").rename(cat / "more" / "0.png")
    (cat / "1.jpg").rename(cat / "more" / "still" / "1.JPG")
    (image_folder / "train" / "dog").rename(tmp_path / "elsewhere")
    (image_folder / "train" / "dog").symlink_to(tmp_path / "elsewhere")
    (cat / "2.bmp").rename(tmp_path / "2.bmp")
    (cat / "2.bmp").symlink_to(tmp_path / "2.bmp")
    after = load_folder(image_folder, 16)
    assert names(image_folder)[0] == [
        "2.bmp", "3.png", "4.jpg", "5.bmp", os.path.join("more", "0.png"), os.path.join("more", "still", "1.JPG")
    ]  # fmt: skip
    assert (after.train.images[[4, 5, 0, 1, 2, 3]] == before.train.images[:6]).all()
    assert (after.train.images[6:] == before.train.images[6:]).all()
    assert after.train.labels.tolist() == before.train.labels.tolist()


def nothing(place) -> None:
    place.symlink_to(place.parent / "gone.jpg")


def loop(place) -> None:
    place.with_suffix("").symlink_to(place.parent.parent)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (nothing, "x.jpg': is a link to nothing"),
        (lambda place: nothing(place.with_suffix("")), "x': is a link to nothing"),
        (lambda place: place.symlink_to(place), "x.jpg': cannot be read: Too many levels of symbolic links"),
        (loop, "x/cat': is a link to a folder that it lies in"),
        (os.mkfifo, "x.jpg': is no plain file"),
        (lambda place: Image.new("RGB", (8, 8)).save(place.parent.parent / "x.jpg"), "beside the class folders"),
        (lambda place: nothing(place.parent.parent / "bird"), "bird': is a link to nothing"),
    ],
)  # fmt: skip
def test_no_image_is_dropped_in_silence(make, says, image_folder, cache) -> None:
    make(image_folder / "train" / "cat" / "x.jpg")
    with pytest.raises(UserError, match=says) as error:
        load_folder(image_folder, 16)
    assert str(image_folder / "train") in str(error.value)
    assert sets(cache) == []


def test_what_is_no_image_is_passed_over_and_counted(image_folder, capsys) -> None:
    before = names(image_folder)
    cat = image_folder / "train" / "cat"
    for name in ("Thumbs.db", "notes.txt", ".DS_Store", "README"):
        (cat / name).write_bytes(b"text")
    shutil.copy(cat / "1.jpg", cat / "._1.jpg")
    for name in (".ipynb_checkpoints", "@eaDir"):
        (cat / name).mkdir()
        shutil.copy(cat / "1.jpg", cat / name / "1.jpg")
    (image_folder / "train" / "__MACOSX").mkdir()
    (image_folder / "test" / "desktop.ini").write_text("x")
    shutil.copy(cat / "1.jpg", cat / "hashed")  # an image without a suffix
    assert names(image_folder) == [sorted([*before[0], "hashed"]), before[1]]
    with pytest.raises(SystemExit) as done:
        main(["data", "show", "folder", "--data-root", str(image_folder), "--imbalance", "none", "--json",
              "--samples", str(image_folder / "page.png")])  # fmt: skip
    assert done.value.code == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "passed over" in line]
    assert said == [
        f"warning: {image_folder}: 9 files passed over (hidden, or no image by name): train/__MACOSX, "
        "test/desktop.ini, train/cat/.DS_Store and 6 more"
    ]


def test_a_test_image_that_is_trained_on_is_told(image_folder, caplog) -> None:
    (image_folder / "test" / "cat" / "same.jpg").hardlink_to(image_folder / "train" / "cat" / "1.jpg")
    (image_folder / "test" / "dog" / "same.jpg").symlink_to(image_folder / "train" / "dog" / "1.jpg")
    (image_folder / "train" / "cat" / "twice.jpg").symlink_to(
        "1.jpg"
    )  # within a part they are anyone's choice
    says = (
        f"{image_folder}: 2 of 8 test images are training images too, by links to one file: test/cat/same.jpg, "
        "test/dog/same.jpg"
    )
    for load in (load_folder, load_folder, load_files):  # of a prepared set too
        caplog.clear()
        load(image_folder, 16)
        assert says in caplog.messages


def test_numbers_as_names_are_told_where_text_has_another_order(image_folder, caplog) -> None:
    for part in ("train", "test"):
        (image_folder / part / "cat").rename(image_folder / part / "2")
        (image_folder / part / "dog").rename(image_folder / part / "10")
    assert load_folder(image_folder, 16).classes == ("10", "2")
    assert (
        f"{image_folder}: its class names are numbers, and labels follow them as text: 10, 2; " in caplog.text
    )
    caplog.clear()
    for part in ("train", "test"):
        (image_folder / part / "2").rename(image_folder / part / "02")
    assert load_folder(image_folder, 16).classes == ("02", "10")
    assert "class names" not in caplog.text


def test_more_pixels_than_memory_are_one_line(image_folder, cache, capsys) -> None:
    with pytest.raises(SystemExit) as done:
        main(["data", "prepare", "--dataset", "folder", "--data-root", str(image_folder), "--imbalance", "none",
              "--loader", "memory", "--image-size", "40000000"])  # fmt: skip
    assert done.value.code == 2
    assert re.fullmatch(
        r"error: --image-size: data\.image_size = 40000000: 12 images of that size are 57600000 GB, more memory "
        r"than there is; a smaller size, or .*\n", capsys.readouterr().err,
    )  # fmt: skip
    assert sets(cache) == []


def test_the_progress_bar_shows_a_name_as_it_is(capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    with bar("decoding cat [adult]", 3) as advance:
        advance(1)
    assert "decoding cat [adult]" in capsys.readouterr().err


def test_a_class_of_other_files_only_is_an_error(image_folder) -> None:
    for file in (image_folder / "test" / "dog").iterdir():
        file.rename(file.with_suffix(".raw"))
    with pytest.raises(UserError, match=r"test/dog holds no image \(passed over: 0.raw, 1.raw, 2.raw\)"):
        load_folder(image_folder, 16)


def test_names_of_files_are_bytes_and_those_of_classes_text(image_folder) -> None:
    cat = os.fsencode(image_folder / "train" / "cat")
    os.rename(cat + b"/1.jpg", cat + b"/caf\xe9.jpg")
    os.rename(cat + b"/2.bmp", cat + b"/caf\xff.bmp")
    assert load_folder(image_folder, 16).train.images.shape == (12, 16, 16, 3)
    with open(cat + b"/caf\xe9.jpg", "wb"):
        pass
    with pytest.raises(UserError, match="is empty") as error:
        load_folder(image_folder, 16)
    str(error.value).encode()
    for part in (b"/train", b"/test"):
        os.rename(os.fsencode(image_folder) + part + b"/cat", os.fsencode(image_folder) + part + b"/caf\xe9")
    with pytest.raises(UserError, match=r"class folder b'caf\\xe9' is not UTF-8; rename it"):
        load_folder(image_folder, 16)


def test_names_that_differ_in_their_unicode_form_only(image_folder) -> None:
    for part, form in (("train", "NFC"), ("test", "NFD")):
        cat = image_folder / part / "cat"
        cat.rename(cat.with_name(unicodedata.normalize(form, "caf\u00e9")))
    with pytest.raises(UserError, match="differ only in the Unicode form of their names"):
        load_folder(image_folder, 16)


def test_what_may_not_be_read_is_one_line(image_folder, cache, monkeypatch) -> None:
    dog, scan = image_folder / "train" / "dog", os.scandir

    def refused(path):
        if path == dog:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(UserError, match=r"train/dog': cannot be read: Permission denied"):
        load_folder(image_folder, 16)
    with pytest.raises(UserError, match="cannot be read: File name too long"):
        load_folder(image_folder / ("x" * 256), 16)


def exif(*entries: tuple[int, int, int, bytes], tail: bytes = b"") -> bytes:
    """EXIF data of (tag, type, count, value of four bytes or less), with "II" byte order, and what follows them."""
    rows = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3].ljust(4, b"\0") for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + rows + b"\0" * 4 + tail


TURNED = (0x112, 3, 1, struct.pack("<H", 6))
NEGATIVE = (0x102, 8, 1, struct.pack("<h", -5))  # BitsPerSample, written as a signed number
FRACTION = (0x11A, 10, 1, struct.pack("<I", 38))  # XResolution, in the tail of two entries
NOWHERE = (0x11A, 10, 1, struct.pack("<I", 0xFFFFFF))  # the same outside of the data
ORIENTATIONS = [
    ((TURNED,), True),
    ((NEGATIVE, TURNED), True),
    ((FRACTION, TURNED), True),
    ((NOWHERE, TURNED), False),  # Pillow stops reading there
    (((0x112, 3, 1, b"\11\0"),), False),  # 9; there are 1 to 8
    (((0x112, 2, 2, b"x\0"),), False),
    (((0x112, 5, 1, b"\xff\xff\xff"),), False),
]


@pytest.mark.parametrize(("entries", "turned"), ORIENTATIONS)
def test_a_picture_is_turned_as_far_as_its_exif_data_say(entries, turned, tmp_path) -> None:
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255
    Image.fromarray(pixels).save(
        tmp_path / "a.jpg", exif=exif(*entries, tail=struct.pack("<ii", -1, 0)), quality=95
    )
    picture = np.asarray(folder.read_image(tmp_path / "a.jpg")[0])
    wanted = np.rot90(pixels, -1) if turned else pixels
    assert picture.shape == wanted.shape
    assert np.abs(picture.astype(int) - wanted).max() < 30
    if entries == (TURNED,):
        assert (picture == np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.jpg")))).all()


RAISED = [
    struct.error("unpack"), ZeroDivisionError(), SyntaxError("bad"), RecursionError("deep"), MemoryError(), KeyError(3),
    IndexError("x\ny"), OSError("truncated"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), EOFError(),
    TypeError("x"), Image.DecompressionBombError("large"), AttributeError("read"),
]  # fmt: skip


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_whatever_a_decoder_raises_is_one_line_with_the_file(error, image_folder, cache, monkeypatch) -> None:
    def load(image) -> None:
        raise error

    monkeypatch.setattr(Image.Image, "getexif", load)
    assert load_folder(image_folder, 16).train.images.shape == (12, 16, 16, 3)  # not turned, at worst
    monkeypatch.setattr(Image.Image, "copy", load)
    with pytest.raises(
        UserError, match=r"train/cat/0.png': (is a damaged image: .|needs more memory|is too large)"
    ) as told:
        load_folder(image_folder, 8)
    assert "\n" not in str(told.value)
    assert len(sets(cache)) == 1


def test_damaged_files_end_in_an_image_or_one_line(tmp_path) -> None:
    """The short form of `python -m tests.data.fuzz`."""
    counts, wrong = fuzz(tmp_path, 420, seed=3)
    assert wrong == []
    assert {"JPEG", "PNG", "WEBP", "TIFF", "GIF"} <= {name for name, _ in counts}
    assert {outcome for _, outcome in counts} == {"image", "one line", "warned"}


def test_pillows_own_warnings_come_with_the_file(image_folder, caplog, monkeypatch) -> None:
    for k in (1, 4):
        file = image_folder / "train" / "cat" / f"{k}.jpg"
        Image.open(file).save(file, exif=exif(NOWHERE)[:-8])
    shown = warnings.showwarning
    load_folder(image_folder, 16)
    assert warnings.showwarning is shown
    said = [line for line in caplog.messages if "EXIF" in line]
    assert len(said) == 1
    assert said[0].startswith(f"{image_folder}/train/cat/1.jpg, {image_folder}/train/cat/4.jpg: ")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    load_folder(image_folder, 8)
    assert [line for line in caplog.messages if "bomb" in line and "2.bmp" not in line]


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
