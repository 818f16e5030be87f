"""Three small runs, and one export, that are shared by the tests of this room."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from srat_fast.sharing.export import export
from srat_fast.training.trainer import train
from tests.tiny import tiny_recipe

#: All test images, for the numbers of a card.
QUICK = {
    "data.limit": None,
    "data.test_limit": None,
    "optim.epochs": 1,
    "method": "natural",
    "eval_attack.steps": 1,
}


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory) -> Path:
    """8 x 8 digits, width 4, normalisation inside, a projection head; best and averaged weights beside the last."""
    path = tmp_path_factory.mktemp("digits") / "run"
    changes = {"data.val_fraction": 0.1, "optim.ema_decay": 0.9, "attack.examples": "clean", "method": "srat-ce",
               "model.normalize": "dataset"}  # fmt: skip
    train(tiny_recipe(QUICK | changes), path)
    return path


@pytest.fixture(scope="session")
def photographs(tmp_path_factory) -> Path:
    """A folder data set of two classes, 32 x 32."""
    root, generator = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for part, per_class in (("train", 4), ("test", 10)):
        for label, name in enumerate(("cat", "dog")):
            (root / part / name).mkdir(parents=True)
            for k in range(per_class):
                pixels = generator.integers(0, 128, (32, 32, 3)) + 100 * label
                Image.fromarray(pixels.astype(np.uint8)).save(root / part / name / f"{k}.png")
    return root


def _full_size(root: Path, path: Path, normalize: str) -> Path:
    changes = {"data.name": "folder", "data.root": str(root), "data.imbalance": "none", "data.image_size": 32,
               "model.normalize": normalize, "model.width": 64, "optim.lr": 0.01, "method": "srat-ce",
               "attack.examples": "clean"}  # fmt: skip
    train(tiny_recipe(QUICK | changes), path)
    return path


@pytest.fixture(scope="session")
def full_run(photographs, tmp_path_factory) -> Path:
    """The network of the paper: width 64 at 32 x 32 pixels."""
    return _full_size(photographs, tmp_path_factory.mktemp("full") / "run", "none")


@pytest.fixture(scope="session")
def normalised_run(photographs, tmp_path_factory) -> Path:
    """The same with normalisation inside."""
    return _full_size(photographs, tmp_path_factory.mktemp("normalised") / "run", "dataset")


@pytest.fixture(scope="session")
def wide_run(photographs, tmp_path_factory) -> Path:
    """WideResNet-70-1 at 32 x 32 pixels."""
    path = tmp_path_factory.mktemp("wide") / "run"
    changes = {"data.name": "folder", "data.root": str(photographs), "data.imbalance": "none", "data.image_size": 32,
               "model.name": "wrn-70-16", "optim.lr": 0.01}  # fmt: skip
    train(tiny_recipe(QUICK | changes), path)
    return path


@pytest.fixture(scope="session")
def digits_export(digits_run, tmp_path_factory) -> Path:
    """The digits run in every format that holds it."""
    out = tmp_path_factory.mktemp("exported") / "out"
    export(digits_run, "safetensors,torch-export,onnx", out=out)
    return out
