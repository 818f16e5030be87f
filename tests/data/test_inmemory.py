"""Sets in memory: arrays, pairs, and splits with the Hugging Face protocol; trained from Python."""

from __future__ import annotations

import io
import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from srat_fast import build_recipe, evaluate, train
from srat_fast.data.arrays import ImageArrays, ImageSet, checksum
from srat_fast.data.inmemory import arrays_from
from srat_fast.errors import Interrupted, UserError
from tests.training.short_runs import StopAfter


class ClassLabel:
    def __init__(self, names: list[str]) -> None:
        self.names = names


class Split:
    """What a Hugging Face data set offers: a length, rows by number, and features."""

    def __init__(self, rows: list[dict], features: dict | None = None) -> None:
        self._rows, self.features = rows, features

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict:
        return self._rows[index]


def pixels(index: int, size: int = 8) -> np.ndarray:
    return np.full((size, size, 3), index, np.uint8)


def rows(counts: tuple[int, ...], make, image: str = "image", label: str = "label") -> list[dict]:
    labels = np.repeat(np.arange(len(counts)), counts).tolist()
    return [{image: make(k), label: value} for k, value in enumerate(labels)]


TAIL, EVEN = (20, 6, 3), (4, 4, 4)


@pytest.mark.parametrize(("image", "label"), [("image", "label"), ("img", "fine_label"), ("image", "labels")])
@pytest.mark.parametrize("make", [lambda k: Image.fromarray(pixels(k)), pixels])
def test_hugging_face_splits(image, label, make) -> None:
    names = {label: ClassLabel(["ant", "bee", "cow"]), "coarse_label": ClassLabel(["x"])}
    data = {part: Split(rows(n, make, image, label), names) for part, n in (("train", TAIL), ("test", EVEN))}
    arrays = arrays_from(data | {"unsupervised": None})
    assert arrays.train.images[:, 0, 0, 0].tolist() == list(range(29))
    assert np.bincount(arrays.train.labels).tolist() == list(TAIL)
    assert arrays.classes == ("ant", "bee", "cow")


def test_mixed_pictures_are_converted_with_one_warning(caplog) -> None:
    modes = ["RGB", "L", "RGBA", "P"]
    data = {
        part: Split(
            rows(
                (4, 4),
                lambda k: Image.fromarray(pixels(k)).convert(modes[k % 4], palette=Image.Palette.ADAPTIVE),
            )
        )
        for part in ("train", "test")
    }
    arrays = arrays_from(data)
    assert arrays.train.images[:, 0, 0, 0].tolist() == list(range(8))
    assert caplog.messages == ["data: 12 of 16 images converted to RGB: 4 RGBA, 4 grayscale, 4 palette"]
    assert arrays.classes == ("0", "1")


def test_pairs_of_arrays() -> None:
    images = np.stack([pixels(k) for k in range(6)])
    data = {"train": (images, np.arange(6) % 2), "test": (images[..., 0], [[0], [1], [0], [1], [0], [1]])}
    arrays = arrays_from(data, 4)
    assert arrays.test.images.shape == (6, 4, 4, 3)
    assert arrays.test.labels.tolist() == [0, 1] * 3


def test_arrays_keep_their_channels(uneven_arrays) -> None:
    def grey(images: ImageSet) -> ImageSet:
        return ImageSet(images.images[..., :1], images.labels.astype(np.uint8))

    given = ImageArrays(grey(uneven_arrays.train), grey(uneven_arrays.test), uneven_arrays.classes)
    arrays = arrays_from(given)
    assert arrays.train.images.shape == (62, 8, 8, 1)
    assert checksum(arrays.train) == checksum(ImageSet(given.train.images, uneven_arrays.train.labels))


class Broken(Split):
    """A split that decodes when a row is asked for, and fails."""

    def __getitem__(self, index: int) -> dict:
        if index == 3:
            raise ZeroDivisionError
        return super().__getitem__(index)


def cut(k: int) -> Image.Image:
    """A picture whose file ends early; Pillow notices when it is decoded."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(k).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(
        buffer, "JPEG"
    )
    return Image.open(io.BytesIO(buffer.getvalue()[: 1200 if k == 2 else None]))


def named(*names: str) -> Split:
    return Split(rows(EVEN, pixels), {"label": ClassLabel(list(names))})


PICTURES = Split(rows(EVEN, pixels))
BAD = [
    (
        {"train": named("ant", "bee", "cow"), "test": named("ant", "cow", "bee")},
        "train and test name other classes: 1 is bee in train and cow in test",
    ),
    (
        {"train": named("ant", "bee", "cow"), "test": named("ant", "bee")},
        "2 is cow in train and none in test",
    ),
    ([1, 2], "a dictionary with train and test is needed, not list"),
    ({"train": PICTURES, "validation": PICTURES}, "has no split test; it has train, validation"),
    ({"train": PICTURES, "test": 3}, "its test must be a pair of arrays or a split, not int"),
    ({"train": (1, 2, 3), "test": PICTURES}, "its train must be a pair"),
    ({"train": Split([]), "test": PICTURES}, "its train is empty"),
    (
        {"train": Split([{"text": "a", "label": 0}]), "test": PICTURES},
        r"no image column .* it has text, label",
    ),
    ({"train": Split([{"image": pixels(0), "y": 0}]), "test": PICTURES}, "no label column"),
    ({"train": Split(["a"]), "test": PICTURES}, "its train must give rows"),
    (
        {"train": Split(rows(EVEN, lambda k: pixels(k, 8 + k))), "test": PICTURES},
        "image 1 is 9 x 9, image 0 is 8 x 8",
    ),
    ({"train": Split(rows(EVEN, lambda k: pixels(k) / 255)), "test": PICTURES}, "must be uint8"),
    ({"train": Split(rows(EVEN, lambda k: None)), "test": PICTURES}, "must be uint8"),
    (
        {"train": Split(rows(EVEN, lambda k: Image.new("F", (8, 8)))), "test": PICTURES},
        "train image 0 has 32-bit",
    ),
    ({"train": PICTURES, "test": Split([{"image": pixels(0), "label": -1}])}, "test labels must lie in"),
    ({"train": PICTURES, "test": Split([{"image": pixels(0), "label": None}])}, "must be integers"),
    (
        {"train": PICTURES, "test": Broken(rows(EVEN, pixels))},
        "its test image 3 is a damaged image: ZeroDivisionError",
    ),
    (
        {"train": Split(rows(EVEN, cut)), "test": PICTURES},
        "its train image 2 is a damaged image: image file is truncated",
    ),
    (
        {"train": Split([{"image": pixels(0), "label": 0}, {"image": pixels(0)}]), "test": PICTURES},
        "no label column",
    ),
    (
        {"train": Split([{"image": pixels(0), "label": [0] * (k + 1)} for k in range(2)]), "test": PICTURES},
        "labels cannot be",
    ),
    (
        {"train": ([pixels(0, 8), pixels(0, 9)], [0, 1]), "test": PICTURES},
        "its train images cannot be made an array",
    ),
    (
        {"train": (np.zeros((3, 8, 8), np.uint8), [1, 2, 3]), "test": PICTURES},
        r"no image of class 0 \(0\); they count from 0",
    ),
    ({"train": (np.zeros((2, 8, 8), np.uint16), [0, 1]), "test": PICTURES}, "must be uint8, .* not uint16"),
    (
        {"train": (np.zeros((2, 8, 8), np.uint8), [True, False]), "test": PICTURES},
        "must be integers .* not bool",
    ),
    ({"train": (np.zeros((2, 8, 8), np.uint8), ["0", "1"]), "test": PICTURES}, "must be integers"),
]


@pytest.mark.parametrize(("data", "says"), BAD, ids=[says for _, says in BAD])
def test_what_does_not_fit_is_refused(data, says) -> None:
    with pytest.raises(UserError, match=says):
        arrays_from(data)


def test_a_warning_of_pillows_names_the_image(caplog, monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)

    class Lazy(Split):
        def __getitem__(self, index: int) -> dict:
            return super().__getitem__(index) | {"image": cut(0)}

    arrays_from({"train": Lazy(rows(EVEN, pixels)), "test": Lazy(rows(EVEN, pixels))}, 8)
    assert [line.partition(" and ")[0] for line in caplog.messages if "bomb" in line] == [
        "data: its test image 0, data: its test image 1, data: its test image 10"
    ]


def test_rows_are_in_memory_once() -> None:
    data = {part: Split(rows((30, 30), lambda k: Image.new("RGB", (64, 64)))) for part in ("train", "test")}
    tracemalloc.start()
    try:
        images = arrays_from(data).train.images
        assert tracemalloc.get_traced_memory()[1] < 2.4 * images.nbytes  # both parts
    finally:
        tracemalloc.stop()


def test_arrays_that_do_not_fit_are_refused(uneven_arrays) -> None:
    train_set, test_set = uneven_arrays.train, uneven_arrays.test
    for given, says in (
        (
            ImageArrays(ImageSet(train_set.images[:5], train_set.labels), test_set, ("a", "b", "c")),
            "5 images and 62",
        ),
        (ImageArrays(train_set, test_set, ("a", "b")), r"must lie in 0\.\.1"),
        (
            ImageArrays(ImageSet(train_set.images[..., 0], train_set.labels), test_set, ("a", "b", "c")),
            "must be",
        ),
        (
            ImageArrays(train_set, ImageSet(test_set.images[:, :4, :4], test_set.labels), ("a", "b", "c")),
            "differ",
        ),
    ):
        with pytest.raises(UserError, match=says):
            arrays_from(given)


def test_training_on_images_in_memory(uneven_arrays, tmp_path) -> None:
    fields = {
        "data.imbalance": "none",
        "method": "natural",
        "optim.epochs": 1,
        "model.width": 4,
        "run.device": "cpu",
    }
    recipe = build_recipe("digits", fields | {"run.tensorboard": False})
    record = train(recipe, tmp_path / "run", data=uneven_arrays)
    assert record["counts"] == [30, 20, 12]
    assert record["classes"] == ["a", "b", "c"]
    assert record["recipe"]["data"]["name"] == "arrays"
    assert (record["recipe"]["data"]["image_size"], record["recipe"]["data"]["crop_padding"]) == (8, 1)
    assert len(record["data_checksum"]) == 64
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["data"]["name"] == "arrays"
    with pytest.raises(UserError, match="given in memory and are not on disk"):
        evaluate(tmp_path / "run")


def test_a_recipe_for_images_in_memory_needs_them(tmp_path) -> None:
    with pytest.raises(UserError, match=r"data\.name = 'arrays': images in memory come through"):
        train(build_recipe(None, {"data.name": "arrays"}), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_run_goes_on_with_the_same_images_only(uneven_arrays, tmp_path) -> None:
    fields = {
        "data.imbalance": "none",
        "method": "natural",
        "optim.epochs": 2,
        "model.width": 4,
        "run.device": "cpu",
    }
    recipe = build_recipe("digits", fields | {"run.tensorboard": False, "optim.batch_size": 31})
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "run", data=uneven_arrays, stops=StopAfter(2))
    changed = ImageSet(uneven_arrays.train.images ^ 1, uneven_arrays.train.labels)
    with pytest.raises(UserError, match="its images are not those that the run began with"):
        train(recipe, tmp_path / "run", data=replace(uneven_arrays, train=changed), resume="auto")
    record = train(recipe, tmp_path / "run", data=uneven_arrays, resume="auto")
    assert record["status"] == "finished"
    assert train(recipe, tmp_path / "run", data=uneven_arrays, resume="auto") == record
    with pytest.raises(UserError, match="its images are not those of the finished run"):
        train(recipe, tmp_path / "run", data=replace(uneven_arrays, train=changed), resume="auto")
