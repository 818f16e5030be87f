"""Catastrophic overfitting is seen in a real run, and only there."""

from __future__ import annotations

import json

import pytest

from srat_fast import train
from srat_fast.training.curves import catastrophic_overfitting, epoch_line, overfitting_verdict
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
        ({"attack__radius_ramp": 0.5}, 0.9, 0.01, None),  # in its first epoch the radius is 0
        ({"attack__stop": "last-right"}, 0.9, 0.01, None),  # such examples are right on purpose
        ({"attack__stop": "first-wrong"}, 0.9, 0.01, True),
    ],
)
def test_the_verdict(changes, train_accuracy, accuracy, verdict) -> None:
    recipe = short(**changes).resolve()
    assert catastrophic_overfitting(recipe, 0, train_accuracy, robust(accuracy)) is verdict


def test_the_verdict_waits_for_the_whole_radius() -> None:
    recipe = short(method="robustlt:ce", optim__epochs=10).resolve()
    verdicts = [catastrophic_overfitting(recipe, epoch, 0.9, robust(0.01)) for epoch in (7, 8, 9)]
    assert verdicts == [None, True, True]


def test_a_run_whose_training_attack_is_overcome_is_flagged(tmp_path) -> None:
    """One step a hundredth of the radius long: the network learns against that, and PGD takes it apart."""
    recipe = short(
        method="ce", attack__steps=1, attack__epsilon=0.3, attack__step_size=0.003, attack__random_start=False,
        eval_attack__steps=10, eval_attack__step_size=0.075, data__imbalance="none", data__limit=600,
        data__val_fraction=0.1, optim__epochs=8, optim__decay=0.5, optim__clip_norm=0, model__width=8,
    )  # fmt: skip
    record = train(recipe, tmp_path / "run")
    last = record["final_epoch"]
    assert last["train_accuracy"] > 0.5
    assert last["validation"]["robust"]["overall"] < 0.05
    assert record["catastrophic_overfitting"] is True
    assert "on the validation images; try more attack.steps" in record["warnings"][0]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["catastrophic_overfitting"] is True
    assert lines[0]["catastrophic_overfitting"] is False


def test_a_network_that_no_longer_reads_its_images_is_flagged() -> None:
    """What the literal recipe of srat-ldam did on a GPU: 99 % and more of the attack's gradient is exactly zero."""
    metrics = {
        "epoch": 8, "loss": 120.4, "train_accuracy": 0.26, "lr": 0.1, "images_per_second": 5681.0, "mfu": 0.18,
        "peak_memory_bytes": 2**30, "nonfinite_gradients": 0, "seconds": {"total": 2.0}, "zero_gradient_share": 0.99,
    }  # fmt: skip
    recipe = short(data__val_fraction=0).resolve()
    assert "dead features: the attack's gradient is zero" in epoch_line("srat-ldam", metrics, 60, 20.0)
    warning = overfitting_verdict(recipe, metrics, robust(0.1))["warnings"][0]
    assert warning.startswith("dead features: in the last epoch the attack's gradient is exactly zero at 99%")
    for share in (0.5, None):  # None: a natural run has no attack
        alive = metrics | {"zero_gradient_share": share}
        assert "dead" not in epoch_line("srat-ldam", alive, 60, 20.0)
        assert overfitting_verdict(recipe, alive, robust(0.1))["warnings"] == []


def test_without_validation_the_test_images_decide() -> None:
    recipe = short(data__val_fraction=0).resolve()
    verdict = overfitting_verdict(recipe, {"epoch": 2, "train_accuracy": 0.9}, robust(0.0))
    assert verdict["catastrophic_overfitting"] is True
    assert (
        "90% right under the attack of training, 0% under PGD-2 on the test images" in verdict["warnings"][0]
    )
    fine = overfitting_verdict(recipe, {"epoch": 2, "train_accuracy": 0.9}, robust(0.4))
    assert fine == {"catastrophic_overfitting": False, "warnings": []}
