"""Accuracies by hand, collapse, and the evaluation's mode and precision."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from srat_fast.data.arrays import ImageSet
from srat_fast.data.memory import MemoryLoader
from srat_fast.evaluation.accuracy import PgdSettings, accuracies, collapsed_class, predict
from srat_fast.models.classifier import Classifier


def test_accuracies_by_hand() -> None:
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    predictions = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    result = accuracies(predictions, labels, well=[0], under=[1, 2, 3])
    assert result["overall"] == 6 / 8
    assert result["well"] == 3 / 4
    assert result["under"] == 3 / 4
    assert result["per_class"][:3] == [0.75, 0.5, 1.0]
    assert math.isnan(result["per_class"][3])  # no image of class 3
    assert result["balanced"] == 0.75


def test_collapse_is_more_than_95_percent_of_one_class() -> None:
    assert collapsed_class(torch.tensor([3] * 96 + [1] * 4)) == 3
    assert collapsed_class(torch.tensor([3] * 95 + [1] * 5)) is None


class Probe(nn.Module):
    """Records how it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 2)
        self.seen: list[tuple[bool, torch.dtype, bool]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.linear(x.flatten(1))
        self.seen.append((self.training, logits.dtype, torch.is_autocast_enabled("cpu")))
        return logits


def test_models_are_judged_in_eval_mode_and_fp32() -> None:
    model = Probe().train()
    images = ImageSet(
        np.random.default_rng(0).integers(0, 256, (10, 2, 2, 3), dtype=np.uint8), np.zeros(10, np.int64)
    )
    loader = MemoryLoader(images, batch_size=4, device=torch.device("cpu"))
    done: list[int] = []
    with torch.autocast("cpu", torch.bfloat16):
        predict(model, loader, PgdSettings(3, 0.01, 0.03), progress=done.append)
    assert set(model.seen) == {(False, torch.float32, False)}
    assert model.training
    assert done == [4, 4, 2]


def test_a_linear_model_is_attacked_to_its_known_worst_case() -> None:
    model = Probe()
    with torch.no_grad():
        model.linear.weight.copy_(torch.stack([torch.ones(12), -torch.ones(12)]))
        model.linear.bias.copy_(torch.tensor([-6.0, 6.0]))  # class 0 where the mean pixel is above 1/2
    pixels = np.array([150, 170], np.uint8)[:, None, None, None] * np.ones((2, 2, 2, 3), np.uint8)
    loader = MemoryLoader(ImageSet(pixels, np.zeros(2, np.int64)), batch_size=2, device=torch.device("cpu"))
    clean, labels = predict(model, loader, None)
    attacked, _ = predict(model, loader, PgdSettings(20, 0.02, 30 / 255))
    assert clean.tolist() == [0, 0]
    assert attacked.tolist() == [1, 0]  # 150 - 30 < 127.5 < 170 - 30
    assert labels.tolist() == [0, 0]


def test_predictions_do_not_depend_on_the_batch_size() -> None:
    torch.manual_seed(0)
    model = Classifier("resnet18", 4, width=4)
    generator = np.random.default_rng(0)
    images = ImageSet(generator.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8), np.zeros(12, np.int64))
    one, all_ = (
        predict(model, MemoryLoader(images, batch_size=size, device=torch.device("cpu")), None)[0]
        for size in (1, 12)
    )
    torch.testing.assert_close(one, all_, rtol=0, atol=0)
