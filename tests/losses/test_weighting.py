"""Class weights and margins against their formulas and the paper's figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from srat_fast.attacks.threat import count_factors
from srat_fast.errors import UserError
from srat_fast.losses.objective import Context, Objective
from srat_fast.losses.terms import Adjusted, Harl, Ldam, Tail
from srat_fast.losses.weighting import class_balanced_weights, inverse_weights, ldam_margins, ratio_weights
from srat_fast.models.batch import Batch
from srat_fast.recipe import build_recipe
from srat_fast.reference import losses as plain
from srat_fast.reference.algorithm import _require_formulas
from tests.losses import oracle

EXP_100 = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
EXP_50 = [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100]
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
    logits, labels = torch.randn(6, 10, requires_grad=True), torch.arange(6)
    raw = torch.nn.functional.cross_entropy(logits, labels)
    batch = Batch(None, logits, labels, forward=lambda given: given)
    assert objective.raw_classification(batch).item() == pytest.approx(raw.item(), rel=1e-6)
    assert objective(batch)["classification"].item() > 5 * raw.item()


#: vectors of CIFAR-10-LT, IR 50, computed from the formulas of the methods' own codes: row -> (of what, class by class)
VECTORS = {
    "at-bsl": ("bias", [-1.029, -1.464, -1.899, -2.333, -2.769, -3.204, -3.638, -4.074, -4.510, -4.941]),
    "ldam": ("margins", [0.188, 0.210, 0.234, 0.261, 0.290, 0.324, 0.361, 0.403, 0.449, 0.500]),
    "robal-r": ("margins", [0.217, 0.204, 0.191, 0.178, 0.165, 0.152, 0.139, 0.126, 0.113, 0.100]),
    "cdt": ("temperatures", [1, 1.139, 1.298, 1.479, 1.685, 1.920, 2.187, 2.493, 2.841, 3.234]),
}


@pytest.mark.parametrize("method", VECTORS)
def test_vectors_of_published_methods(method: str) -> None:
    """Of both sides, with the settings of the rows."""
    name, expected = VECTORS[method]
    recipe = build_recipe(None, {"method": method}).resolve()
    slow = plain.Adjustment.of(recipe.row.base, recipe.loss, EXP_50, torch.device("cpu"))
    context = Context(recipe, EXP_50, [5, 6, 7, 8, 9], torch.device("cpu"), torch.ones(10))
    fast = (Ldam if method == "ldam" else Adjusted)(context).arguments
    assert fast["scale"] == slow.scale == {"ldam": 30.0, "robal-r": 10.0}.get(method, 1.0)
    if name == "temperatures":
        found = [1 / fast["inverse_temperature"], 1 / slow.inverse_temperatures]
    else:
        found = [fast[name], getattr(slow, name)]
    for vector in found:
        assert vector.numpy() == pytest.approx(np.array(expected), abs=6e-4)


def test_class_balanced_weights_and_radii_at_50() -> None:
    expected = [0.089, 0.127, 0.185, 0.276, 0.417, 0.634, 0.970, 1.489, 2.292, 3.521]  # their sum is C
    slow = plain.class_weights("class-balanced", EXP_50, [], 0.9999, None).double().numpy()
    for weights in (class_balanced_weights(EXP_50, 0.9999), slow):
        assert 10 * weights / weights.sum() == pytest.approx(expected, abs=6e-4)
    factors = [0.700, 1.003, 1.129, 1.225, 1.307, 1.378, 1.443, 1.503, 1.558, 1.610]
    for found in (count_factors(EXP_50, 0.3), plain.radius_factors(EXP_50, 0.3)):
        assert found == pytest.approx(factors, abs=6e-4)
        assert np.average(found, weights=EXP_50) == pytest.approx(1, rel=1e-12)
    assert count_factors([7, 7], 0.3) == plain.radius_factors([7, 7], 0.3) == [1.0, 1.0]


def test_harl_of_class_losses_1_and_2_and_an_absent_class() -> None:
    """0.1 (1 + 2/3 + 5/9): the absent class counts as a loss of 0."""
    rows = [
        [-loss, *[np.log((1 - np.exp(-loss)) / 2)] * 2] for loss in (1.0, 2.0)
    ]  # log p, so the loss is -row[y]
    logits, labels = torch.tensor([rows[0], [rows[1][1], rows[1][0], rows[1][2]]]), torch.tensor([0, 1])
    recipe = build_recipe(None, {"method": "harl"}).resolve()
    term = Harl(Context(recipe, [9, 5, 3], [2], torch.device("cpu"), torch.ones(3)))
    batch = Batch(None, logits, labels, forward=lambda given: given)
    assert term(batch).item() == pytest.approx(0.22222, abs=1e-5)
    assert plain.harl(logits, labels, 0.1, 0.1, 0.1).item() == pytest.approx(0.22222, abs=1e-5)


def test_of_three_classes_none_is_rare_as_published() -> None:
    recipe = build_recipe(None, {"method": "reat"}).resolve()
    for build in (
        lambda: Tail(Context(recipe, [9, 5, 3], [2], torch.device("cpu"), torch.ones(3))),
        lambda: _require_formulas(recipe, 3),
    ):
        with pytest.raises(
            UserError, match=r"loss\.tail_weight = 1\.0: of 3 classes the term tail counts none as rare"
        ):
            build()
    _require_formulas(recipe, 2)


def test_the_inner_objective_keeps_bias_and_temperature_but_no_margin() -> None:
    changes = {"method": "at-bsl", "loss.adjusted_margin": 2.0, "loss.adjusted_scale": 10.0}
    recipe = build_recipe(None, changes).resolve()
    objective = Objective(recipe, EXP_50, [5, 6, 7, 8, 9], torch.device("cpu"))
    logits, labels = torch.randn(6, 10), torch.arange(6)
    batch = Batch(None, logits, labels, forward=lambda given: given)
    log_prior = torch.tensor(EXP_50).double().log().float()
    wanted = torch.nn.functional.cross_entropy(logits + log_prior, labels)
    assert objective.raw_classification(batch).item() == pytest.approx(wanted.item(), rel=1e-5)
