"""The learning rate of each epoch."""

from __future__ import annotations

import pytest

from srat_fast.recipe import build_recipe
from srat_fast.recipe.stages import learning_rate


def test_the_papers_schedule() -> None:
    recipe = build_recipe("paper").resolve()
    expected = {0: 0.02, 1: 0.04, 4: 0.1, 5: 0.1, 159: 0.1, 160: 1e-3, 179: 1e-3, 180: 1e-5, 199: 1e-5}
    for epoch, rate in expected.items():
        assert learning_rate(recipe, epoch) == pytest.approx(rate, rel=1e-12), epoch


def test_a_compounding_rate_falls_at_every_epoch_from_the_first_milestone_on() -> None:
    fields = {"optim.milestones": "60,75", "optim.decay": 0.1, "optim.epochs": 80, "optim.warmup_epochs": 5}
    recipe = build_recipe("paper", fields | {"optim.schedule": "compounding"}).resolve()
    expected = {0: 0.02, 5: 0.1, 59: 0.1, 60: 1e-2, 61: 1e-3, 62: 1e-4, 75: 1e-17}
    for epoch, rate in expected.items():
        assert learning_rate(recipe, epoch) == pytest.approx(rate, rel=1e-12), epoch
    never = recipe.replace({"optim.milestones": ()})
    assert learning_rate(never, 79) == 0.1


def test_no_warm_up() -> None:
    recipe = build_recipe(None, {"optim.warmup_epochs": 0}).resolve()
    assert learning_rate(recipe, 0) == 0.1
