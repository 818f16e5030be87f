"""The ladder's last rung: short runs of both engines end at the same accuracy, over several seeds.

Two runs from one seed part in float32 (the sign in PGD), so single runs cannot be compared. Over seeds the difference
of the two engines must be explained by chance: a paired t-test that would reject at p < 0.01, and a mean difference of
less than 3 points. The method leaves the separation loss out, whose loop over anchors would take the reference minutes;
three convolutions learn in a second what takes a ResNet-18 of this width four.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import scipy.stats
from torch import Tensor, nn

from srat_fast import build_recipe, train
from srat_fast.registry import model

SEEDS = range(5)
SHORT = {
    "data.name": "digits",
    "method": "drcb-ldam",
    "optim.epochs": 10,
    "optim.batch_size": 64,
    "model.name": "three",
    "model.width": 16,
    "attack.steps": 2,
    "attack.epsilon": 0.03,
    "attack.step_size": 0.02,
    "eval_attack.steps": 3,
    "run.precision": "fp32",
    "run.tensorboard": False,
}


class Three(nn.Module):
    """Three strided convolutions with BatchNorm."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in ((channels, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU()]
        self.layers, self.feature_dim = nn.Sequential(*layers), 4 * width

    def features(self, images: Tensor) -> Tensor:
        return self.layers(images)


@pytest.fixture
def three() -> Iterator[None]:
    model("three")(Three)
    yield
    model.remove("three")


@pytest.mark.usefixtures("three")
def test_final_accuracies_agree_over_seeds(tmp_path) -> None:
    runs: dict[str, list[dict]] = {"fast": [], "reference": []}
    for engine, records in runs.items():
        for seed in SEEDS:
            recipe = build_recipe(None, SHORT | {"seed": seed, "data.subset_seed": 0, "run.engine": engine})
            records.append(train(recipe, tmp_path / f"{engine}-{seed}"))
    for kind in ("standard", "robust"):
        fast, slow = (
            [record[kind]["overall"] for record in runs[engine]] for engine in ("fast", "reference")
        )
        assert min(fast + slow) > 0.5, "both learn, or the comparison says nothing"
        difference = sum(fast) / len(fast) - sum(slow) / len(slow)
        assert abs(difference) < 0.03, (kind, fast, slow)
        assert scipy.stats.ttest_rel(fast, slow).pvalue > 0.01, (kind, fast, slow)
