"""Terms and rows beyond the paper's twelve: what a new name needs, and what it may read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from rich.console import Console
from torch.nn import functional

from srat_fast import registry
from srat_fast.errors import TrainingFailure, UserError
from srat_fast.losses.objective import Context, Objective
from srat_fast.methods import METHODS, SEPARATION, Method
from srat_fast.models.batch import Batch
from srat_fast.training.step import FastEngine
from srat_fast.training.trainer import train
from tests.equivalence.test_step import COUNTS, UNDER, batches, make_pair
from tests.tiny import tiny_recipe


class Pair:
    """KL of clean and adversarial predictions."""

    clean = True

    def __init__(self, context: Context) -> None:
        self.context = context

    def __call__(self, batch: Batch) -> torch.Tensor:
        losses = functional.kl_div(
            batch.logits.log_softmax(1), batch.clean_logits.softmax(1), reduction="none"
        ).sum(1)
        return self.context.mean(losses, batch.labels)


@pytest.fixture
def pair_row() -> Iterator[str]:
    registry.term("pair")(Pair)
    METHODS("pair-ce")(Method("pair-ce", "ce", terms={"pair": 6.0} | SEPARATION, title="Pair", inner="kl"))
    yield "pair-ce"
    METHODS.remove("pair-ce")
    registry.term.remove("pair")


def test_a_term_reads_clean_and_adversarial_images(pair_row: str, device: torch.device) -> None:
    recipe = make_pair(device, torch.float64, method="srat-ce").fast.recipe.replace({"method": pair_row})
    model = make_pair(device, torch.float64, method="srat-ce").fast.model.eval()
    objective = Objective(recipe, COUNTS, UNDER, device)
    assert objective.names == ("total", "classification", "pair", "separation")
    assert objective.clean
    images, labels = next(iter(batches(device, torch.float64, 0)))
    attacked = (images + 0.03).clamp(0, 1)
    found = objective(Batch(model, attacked, labels, images))
    p, q = model(images).softmax(1), model(attacked).softmax(1)
    assert torch.allclose(found["pair"], (p * (p.log() - q.log())).sum(1).mean(), rtol=1e-9)
    parts = found["classification"] + 6 * found["pair"] + 2 * found["separation"]
    assert torch.allclose(found["total"], parts, rtol=1e-12)
    with pytest.raises(RuntimeError, match="clean = True"):
        objective(Batch(model, attacked, labels))


def test_columns_follow_the_terms(pair_row: str, tmp_path) -> None:
    recipe = tiny_recipe(method=pair_row, optim__epochs=1)
    record = train(recipe, tmp_path / "run", console=Console(quiet=True))
    assert record["recipe"]["attack"]["loss"] == "kl"
    assert record["terms"] == ["classification", "pair", "separation"]
    line = record["final_epoch"]
    assert line["loss"] == pytest.approx(
        line["classification"] + 6 * line["pair"] + 2 * line["separation"], rel=1e-5
    )


class Ramp(Pair):
    """Grows over two epochs."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.factor, self.width = torch.zeros((), device=context.device), context.feature_dim

    def start_epoch(self, epoch: int) -> None:
        self.factor.fill_((epoch + 1) / 2)


class Counting(Ramp):
    """Keeps the epoch where a captured step does not look."""

    def start_epoch(self, epoch: int) -> None:
        self.epoch = epoch


def test_a_term_is_told_of_each_epoch_and_changes_tensors_in_place(pair_row: str) -> None:
    cpu, recipe = torch.device("cpu"), tiny_recipe(method=pair_row).resolve()
    for kind in (Ramp, Counting):
        registry.term.remove("pair")
        registry.term("pair")(kind)
        objective = Objective(recipe, COUNTS, UNDER, cpu, feature_dim=7)
        part = objective._terms["pair"][0]
        assert part.width == 7
        if kind is Counting:
            with pytest.raises(TrainingFailure, match="pair: it changes its epoch, which no checkpoint has"):
                objective.start_epoch(1)
        else:
            objective.start_epoch(1)
            assert float(part.factor) == 1.0


def test_a_terms_buffers_are_put_back_with_the_networks_and_its_parameters_are_refused(pair_row: str) -> None:
    class Mean(torch.nn.Module):
        def __init__(self, context: Context) -> None:
            super().__init__()
            self.register_buffer("mean", torch.ones(3, dtype=torch.float64))

    registry.term.remove("pair")
    registry.term("pair")(Mean)
    pair = make_pair(torch.device("cpu"), torch.float64, method="srat-ce")
    engine = FastEngine(pair.fast.recipe.replace({"method": pair_row}), pair.fast.model, COUNTS, UNDER)
    mean = engine.remembered["pair.mean"]
    assert any(mean is tensor for tensor in engine.state())
    engine.guard.before_step()
    mean.fill_(float("nan"))
    engine.guard.check(mean.sum(), mean.sum())
    engine.guard.settle()
    assert mean.tolist() == [1.0] * 3
    registry.term.remove("pair")
    registry.term("pair")(lambda context: torch.nn.Linear(2, 2))
    with pytest.raises(TrainingFailure, match=r"pair: a term's parameters are not trained \(weight, bias\)"):
        Objective(pair.fast.recipe.replace({"method": pair_row}), COUNTS, UNDER, torch.device("cpu"))


def test_a_name_that_is_taken_or_unknown_is_refused() -> None:
    with pytest.raises(UserError, match="the method ce exists already"):
        METHODS("ce")(Method("ce", "ce"))
    with pytest.raises(UserError, match=r"method = 'srat-lda': one of .*; did you mean srat-ldam\?"):
        METHODS["srat-lda"]
    with pytest.raises(UserError, match="the term focal exists already"):
        registry.term("focal")(Pair)
