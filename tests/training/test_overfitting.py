"""Catastrophic overfitting is seen in a real run, and only there."""

from __future__ import annotations

import json

import pytest

from srat_fast import train
from srat_fast.training.overfitting import catastrophic_overfitting
from tests.training.short_runs import short


def robust(value: float) -> dict[str, float]:
    return {"overall": value, "balanced": value}


@pytest.mark.parametrize(
    ("changes", "train_accuracy", "accuracy", "verdict"),
    [
        ({}, 0.9, 0.01, True),
        ({}, 0.9, 0.2, False),
        ({}, 0.2, 0.01, False),  # has not learned yet: nothing is contradicted
        ({"method": "natural"}, 0.9, 0.01, None),
        ({"eval_attack__epsilon": 0.3}, 0.9, 0.01, None),  # a wider ball than training's proves nothing
        ({"eval_attack__epsilon": 0.05}, 0.9, 0.01, True),
    ],
)
def test_the_verdict(changes, train_accuracy, accuracy, verdict) -> None:
    recipe = short(**changes).resolve()
    assert catastrophic_overfitting(recipe, train_accuracy, robust(accuracy)) is verdict


@pytest.mark.parametrize("val_fraction", [0.0, 0.2])
def test_a_run_whose_training_attack_is_overcome_is_flagged(val_fraction, tmp_path) -> None:
    """One step a hundredth of the radius long: the network learns against that, and PGD takes it apart."""
    recipe = short(
        method="ce", attack__steps=1, attack__epsilon=0.3, attack__step_size=0.003, attack__random_start=False,
        eval_attack__steps=10, eval_attack__step_size=0.075, data__imbalance="none", data__limit=400,
        data__val_fraction=val_fraction, optim__epochs=6, optim__clip_norm=0, model__width=8,
    )  # fmt: skip
    record = train(recipe, tmp_path / "run")
    print(record["final_epoch"])
    assert record["final_epoch"]["train_accuracy"] > 0.5
    assert record["robust"]["overall"] < 0.05
    assert record["catastrophic_overfitting"] is True
    assert "more attack.steps" in record["warnings"][0]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    if val_fraction:
        assert "on the validation images" in record["warnings"][0]
        assert lines[-1]["catastrophic_overfitting"] is True
        assert lines[0]["catastrophic_overfitting"] is False
    else:
        assert "on the test images" in record["warnings"][0]
        assert "catastrophic_overfitting" not in lines[-1]
