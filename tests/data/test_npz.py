"""Sets in NumPy files: what is read, converted, counted, and refused in one line."""

from __future__ import annotations

import struct
import zipfile

import numpy as np
import pytest

from srat_fast import evaluate, train
from srat_fast.data.arrays import checksum
from srat_fast.data.npz import load_npz, npz_counts, npz_size
from srat_fast.data.plan import base_counts, planned_counts, resolve_recipe
from srat_fast.data.split import load_split
from srat_fast.errors import UserError
from srat_fast.losses.weighting import class_balanced_weights, ldam_margins
from srat_fast.recipe import build_recipe

COUNTS = [40, 9, 2]  # a long tail as it was collected


def content(shape: tuple[int, ...] = (8, 8, 3)) -> dict[str, np.ndarray]:
    """A set of three classes; each image is filled with its index."""
    labels = {"train": np.repeat(np.arange(3), COUNTS), "test": np.repeat(np.arange(3), 4)}
    found = {}
    for part, values in labels.items():
        images = np.arange(len(values), dtype=np.uint8).reshape(-1, *[1] * len(shape))
        found |= {f"{part}_images": np.broadcast_to(images, (len(values), *shape)), f"{part}_labels": values}
    return found


@pytest.fixture
def npz(tmp_path):
    """Writes a .npz file: the good content, changed by the arguments; None leaves an array out."""

    def write(name: str = "set.npz", shape: tuple[int, ...] = (8, 8, 3), **changes: object):
        arrays = {k: v for k, v in (content(shape) | changes).items() if v is not None}
        np.savez_compressed(tmp_path / name, **arrays)
        return tmp_path / name

    return write


def test_one_file(npz) -> None:
    path = npz(classes=np.array(["cat", "dog", "eel"]))
    arrays = load_npz(path, None)
    assert arrays.train.images.shape == (51, 8, 8, 3)
    assert arrays.train.images[:, 0, 0, 0].tolist() == list(range(51))
    assert arrays.train.labels.dtype == np.int64
    assert arrays.classes == ("cat", "dog", "eel")
    assert npz_counts(path) == (COUNTS, ["cat", "dog", "eel"])
    assert npz_size(path) == 8


def test_a_directory_with_two_files_and_labels_in_a_column(tmp_path) -> None:
    arrays = content()
    for part in ("train", "test"):
        np.savez(
            tmp_path / f"{part}.npz",
            images=arrays[f"{part}_images"],
            labels=arrays[f"{part}_labels"][:, None],
        )
    assert load_npz(tmp_path, None).classes == ("0", "1", "2")
    assert npz_counts(tmp_path)[0] == COUNTS
    assert load_npz(tmp_path, 12).test.images.shape == (12, 12, 12, 3)
    for part, names in (("train", ["a", "b", "c"]), ("test", ["a", "c", "b"])):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        np.savez(tmp_path / f"{part}.npz", images=images, labels=labels, classes=np.array(names))
    for read in (lambda root: load_npz(root, None), npz_counts):
        with pytest.raises(UserError, match="name other classes: 1 is b in train and c in test"):
            read(tmp_path)
    (tmp_path / "test.npz").unlink()
    with pytest.raises(UserError, match=r"test\.npz': is not there"):
        load_npz(tmp_path, None)


@pytest.mark.parametrize(
    ("shape", "kind"), [((8, 8), "grayscale"), ((8, 8, 1), "grayscale"), ((8, 8, 4), "RGBA")]
)
def test_other_channels_become_rgb_with_one_warning(shape, kind, npz, caplog) -> None:
    path = npz(shape=shape)
    arrays = load_npz(path, None)
    assert arrays.train.images.shape == (51, 8, 8, 3)
    assert (arrays.train.images[7] == 7).all()
    assert caplog.messages == [f"{path}: 63 of 63 images converted to RGB: 63 {kind}"]


LABELS = content()["train_labels"]
BAD = [
    ({"train_images": None}, r"has no array train_images; it has train_labels, test_images, test_labels"),
    ({"train_labels": None}, "has no array train_labels"),
    ({"train_images": np.zeros((51, 8, 8, 3), np.float32)}, "must be uint8, 0 to 255 .* not float32"),
    ({"train_images": np.zeros((51, 3, 8, 8), np.uint8)}, r"1, 3 or 4 channels, not \[51, 3, 8, 8\]"),
    ({"train_images": np.zeros((51, 64), np.uint8)}, r"must be \[N, H, W\]"),
    ({"train_images": np.zeros((50, 8, 8, 3), np.uint8)}, "its train has 50 images and 51 labels"),
    ({"train_images": np.zeros((51, 8, 6, 3), np.uint8)}, "are 8 x 6 pixels; set data.image_size"),
    (
        {"test_images": np.zeros((12, 4, 4, 3), np.uint8)},
        "train and test images differ in size: 8 x 8 and 4 x 4",
    ),
    ({"train_labels": LABELS.astype(float)}, r"must be integers \[N\], not float64"),
    ({"train_labels": np.where(LABELS == 2, np.nan, LABELS)}, "must be integers"),
    ({"train_labels": np.eye(3, dtype=int)[LABELS]}, r"must be integers \[N\], not int64 \[51, 3\]"),
    ({"train_labels": LABELS - 1}, r"must lie in 0\.\.C - 1 for C classes, not -1\.\.1$"),
    ({"train_labels": LABELS * 2}, r"no image of class 1 \(1\)"),
    ({"train_labels": LABELS * 10**12}, "must lie in"),
    ({"test_labels": np.repeat([0, 1, 3], 4)}, r"test labels must lie in 0\.\.2 \(3 classes\), not 0\.\.3"),
    ({"test_labels": np.repeat([0, 1, 1], 4)}, "test labels have no image of class 2"),
    ({"train_labels": LABELS * 0}, "at least 2 classes"),
    ({"classes": np.array(["cat", "dog"])}, r"must lie in 0\.\.1 \(2 classes\), not 0\.\.2"),
    ({"classes": np.array(list("abcd"))}, r"no image of class 3 \(d\)"),
    ({"classes": np.array([{"a": 1}, 2, 3], dtype=object)}, "holds Python objects, which are not read"),
    ({"train_labels": np.array([None] * 51, dtype=object)}, "holds Python objects, which are not read"),
]


@pytest.mark.parametrize(("changes", "says"), BAD, ids=[says for _, says in BAD])
def test_what_does_not_fit_is_refused(changes, says, npz) -> None:
    path = npz(**changes)
    with pytest.raises(UserError, match=says) as error:
        load_npz(path, None)
    assert str(error.value).startswith(f"data.root = '{path}': ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("position", [0.02, 0.4, 0.97])
def test_a_flipped_bit_is_noticed(position, npz) -> None:
    path = npz(train_images=np.random.default_rng(0).integers(0, 256, (51, 8, 8, 3), dtype=np.uint8))
    damaged = bytearray(path.read_bytes())
    damaged[int(len(damaged) * position)] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"data\.root = .*: (is no readable|is damaged|has no array)"):
        load_npz(path, None)


NONE = [
    ("none.npz", "is not there"),
    ("one.npy", "is a single array"),
    ("text.npz", "is no readable .npz file: does not begin as one"),
    ("empty.npz", "is no readable .npz file: it is empty"),
    ("x" * 256, "cannot be read: File name too long"),
]


def test_files_that_are_none(tmp_path) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("<html>")
    (tmp_path / "empty.npz").write_bytes(b"")
    for name, says in NONE:
        for read in (lambda path: load_npz(path, None), npz_counts, npz_size):
            with pytest.raises(UserError, match=says):
                read(tmp_path / name)


def test_a_natural_long_tail_decides_counts_weights_and_margins(npz) -> None:
    fields = {"data.name": "npz", "data.root": str(npz()), "data.imbalance": "none"}
    recipe = resolve_recipe(build_recipe(None, fields))
    assert (recipe.data.image_size, recipe.data.crop_padding, recipe.data.flip) == (8, 1, "on")
    assert planned_counts(recipe, base_counts(recipe)[0]) == COUNTS
    split = load_split(recipe)
    assert split.counts == COUNTS
    assert (split.well, split.under) == ([0], [1, 2])
    effective = [(1 - 0.9999**n) / (1 - 0.9999) for n in COUNTS]
    assert class_balanced_weights(split.counts) == pytest.approx([effective[0] / e for e in effective])
    assert ldam_margins(split.counts) == pytest.approx([0.5 * (2 / n) ** 0.25 for n in COUNTS])


def test_an_uneven_base_is_cut_to_its_smallest_class(npz) -> None:
    fields = {"data.name": "npz", "data.root": str(npz()), "data.imbalance": "step", "data.ratio": 2}
    recipe = resolve_recipe(build_recipe(None, fields))
    assert planned_counts(recipe, base_counts(recipe)[0]) == [2, 1, 1]
    assert load_split(recipe).counts == [2, 1, 1]


def test_the_size_is_that_of_the_recipe_where_it_has_one(npz) -> None:
    fields = {"data.name": "npz", "data.root": str(npz(shape=(6, 8, 3))), "data.imbalance": "none"}
    with pytest.raises(UserError, match=r"6 x 8 pixels; set data\.image_size"):
        resolve_recipe(build_recipe(None, fields))
    recipe = resolve_recipe(build_recipe(None, fields | {"data.image_size": 16}))
    assert recipe.data.crop_padding == 2
    assert load_split(recipe).train.images.shape == (51, 16, 16, 3)


def test_a_finished_run_on_a_file_is_recognised(npz, tmp_path) -> None:
    fields = {"data.name": "npz", "data.root": str(npz()), "data.imbalance": "none", "method": "natural",
              "optim.epochs": 1, "model.width": 4, "run.device": "cpu", "run.tensorboard": False}  # fmt: skip
    recipe = build_recipe("digits", fields)
    record = train(recipe, tmp_path / "run")
    assert (record["counts"], record["recipe"]["data"]["image_size"]) == (COUNTS, 8)
    assert (
        train(recipe, tmp_path / "run", resume="auto") == record
    )  # the recipe has no size, the record's has
    (tmp_path / "moved.npz").hardlink_to(tmp_path / "set.npz")
    moved = recipe.replace({"data.root": str(tmp_path / "moved.npz")})
    assert train(moved, tmp_path / "run", resume="auto") == record
    npz("other.npz", train_images=np.full((51, 8, 8, 3), 9, np.uint8))
    with pytest.raises(
        UserError, match=r"other\.npz': its images are not those of the finished run in .*/run"
    ):
        train(recipe.replace({"data.root": str(tmp_path / "other.npz")}), tmp_path / "run", resume="auto")
    assert evaluate(tmp_path / "run", "clean", device="cpu")["clean"]["images"] == 12


def test_a_size_that_was_read_is_not_taken_for_one_that_was_asked(npz) -> None:
    """Test images of another size are refused as those of arrays in memory are, not enlarged."""
    path = npz(train_images=np.zeros((51, 16, 16, 3), np.uint8))
    recipe = build_recipe(None, {"data.name": "npz", "data.root": str(path), "data.imbalance": "none"})
    with pytest.raises(
        UserError, match=r"train and test images differ in size: 16 x 16 and 8 x 8; set data\.image_size"
    ):
        resolve_recipe(recipe)
    first = npz(train_images=np.zeros((51, 3, 8, 8), np.uint8))
    with pytest.raises(UserError, match=r"with 1, 3 or 4 channels, not \[51, 3, 8, 8\]"):
        npz_size(first)  # and not: "3 x 8 pixels; set data.image_size"
    npz(train_images=np.zeros((51, 16, 16, 3), np.uint8))
    asked = resolve_recipe(recipe.replace({"data.image_size": 12}))
    assert load_split(asked).test.images.shape[1:] == (12, 12, 3)


def test_class_names_are_texts_that_differ(npz) -> None:
    counts, classes = npz_counts(npz(classes=np.array([b"cat", "café".encode(), b"x"])))
    assert (counts, classes) == (COUNTS, ["cat", "café", "x"])
    broken = np.frombuffer(b"a\0\0\0b\0\0\0\xff\xff\xff\xff", "<U1")  # no character has that number
    for names, says in (
        (np.array(["a", "b", "a"]), "two of its classes have the name 'a'"),
        (np.array([b"a", b"b", b"\xff"]), "is not UTF-8"),
        (broken, "is no readable .npz file: invalid maximum character"),
    ):
        with pytest.raises(UserError, match=says):
            npz_counts(npz(classes=names))


def test_other_orders_of_bytes_and_axes_are_the_same_images(npz) -> None:
    images = np.random.default_rng(0).integers(0, 256, (51, 8, 8, 3), dtype=np.uint8)
    plain = load_npz(npz(train_images=images), None)
    other = load_npz(npz(train_images=np.asfortranarray(images), train_labels=LABELS.astype(">i4")), None)
    assert checksum(plain.train) == checksum(other.train)


HEADERS = [
    (b"{'descr': '|u1', 'fortran_order': False, 'shape': (1" + b"0" * 14 + b", 8, 8, 3), }\n", "memory|rray"),
    (b"{'descr': '|u1'" + b"(" * 300 + b"\n", "is no readable .npz file: ."),
]


@pytest.mark.parametrize(("header", "says"), HEADERS)
def test_what_numpy_raises_for_a_damaged_header_is_one_line(header, says, npz) -> None:
    """Zip has checksums, but who writes a file anew has new ones."""
    path = npz()
    new = path.with_name("new.npz")
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(new, "w") as changed:
        for name in whole.namelist():
            content = whole.read(name)
            if name == "train_images.npy":
                content = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header
            changed.writestr(name, content)
    with pytest.raises(UserError, match=says) as error:
        load_npz(new, None)
    assert "new.npz" in str(error.value)
    assert "\n" not in str(error.value)
