"""Class weights and margins against their formulas and the paper's figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from srat_fast.losses.objective import Objective
from srat_fast.losses.weighting import class_balanced_weights, inverse_weights, ldam_margins, ratio_weights
from srat_fast.models.batch import Batch
from srat_fast.recipe import build_recipe
from srat_fast.reference import losses as plain
from tests.losses import oracle

EXP_100 = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
EXP_10 = [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500]


@pytest.mark.parametrize(("counts", "tail"), [(EXP_100, 78.89), (EXP_10, 8.07)])
def test_class_balanced_weights(counts: list[int], tail: float) -> None:
    weights = class_balanced_weights(counts, 0.9999)
    assert weights[-1] == pytest.approx(tail, abs=0.005)  # the paper's "78"
    assert weights[0] == 1
    assert weights == pytest.approx(oracle.class_balanced(counts, 0.9999), rel=1e-9)
    assert plain.class_weights("class-balanced", counts, [], 0.9999, None).numpy() == pytest.approx(
        weights, rel=1e-6
    )
    assert class_balanced_weights(counts, 0.0) == pytest.approx(np.ones(10))


def test_other_rules() -> None:
    assert inverse_weights([50, 10, 5]).tolist() == [1, 5, 10]
    assert ratio_weights([1, 2], 3, 150).tolist() == [1, 150, 150]
    assert plain.class_weights("inverse", [50, 10, 5], [], 0.9, None).tolist() == [1, 5, 10]
    assert plain.class_weights("ratio", [50, 10, 5], [1, 2], 0.9, 150).tolist() == [1, 150, 150]


def test_ldam_margins() -> None:
    margins = ldam_margins(EXP_100, 0.5)
    assert margins == pytest.approx(oracle.ldam(EXP_100, 0.5), rel=1e-12)
    assert margins[-1] == 0.5
    assert margins[0] == pytest.approx(0.5 * (50 / 5000) ** 0.25)
    assert plain.ldam_margins(EXP_100, 0.5).numpy() == pytest.approx(margins, rel=1e-6)


def weights_in(method: str, epoch: int) -> list[float]:
    recipe = build_recipe(None, {"method": method}).resolve()
    objective = Objective(recipe, EXP_100, [5, 6, 7, 8, 9], torch.device("cpu"))
    objective.start_epoch(epoch)
    return objective.class_weights.tolist()


def test_deferred_weights_start_with_the_first_drop_of_the_rate() -> None:
    for method in ("drcb-ce", "srat-focal", "srat-ldam"):
        assert weights_in(method, 159) == [1.0] * 10
        assert weights_in(method, 160)[-1] == pytest.approx(78.89, abs=0.005)
    assert weights_in("cb-reweight", 0)[-1] == pytest.approx(78.89, abs=0.005)
    assert weights_in("ldam", 199) == [1.0] * 10


def test_the_switch_happens_in_place() -> None:
    recipe = build_recipe(None, {"method": "srat-ce"}).resolve()
    objective = Objective(recipe, EXP_100, [5, 6, 7, 8, 9], torch.device("cpu"))
    tensor = objective.class_weights
    objective.start_epoch(160)
    assert objective.class_weights is tensor
    objective.start_epoch(0)
    assert tensor.tolist() == [1.0] * 10


def test_the_inner_objective_has_neither_margin_nor_scale() -> None:
    recipe = build_recipe(None, {"method": "ldam"}).resolve()
    objective = Objective(recipe, EXP_100, [5, 6, 7, 8, 9], torch.device("cpu"))
    logits, labels = torch.randn(6, 10), torch.arange(6)
    raw = torch.nn.functional.cross_entropy(logits, labels)
    batch = Batch(None, logits, labels, forward=lambda given: given)
    assert objective.raw_classification(batch).item() == pytest.approx(raw.item(), rel=1e-6)
    assert objective(batch)["classification"].item() > 5 * raw.item()
