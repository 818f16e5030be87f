"""Attacks by name: what each stands for, which names are refused, and what a missing package says."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import nn

from srat_fast.attacks.autoattack import STANDARD_PARTS, PackageRound
from srat_fast.attacks.named import (
    FgsmRound,
    GradientRound,
    NamedAttack,
    NoiseRound,
    named_attack,
    parse_attacks,
)
from srat_fast.attacks.threat import LInfBall
from srat_fast.errors import MissingPackage, UserError


def parse(names: str, **settings: Any) -> dict[str, NamedAttack]:
    return parse_attacks(names, **{"threat_model": "linf", "classes": 10, "step_size": 0.02} | settings)


def attack(name: str, classes: int = 10) -> NamedAttack:
    return named_attack(name, threat_model="linf", epsilon=0.1, step_size=0.025, classes=classes)


def test_names_stand_for_rounds() -> None:
    ball = LInfBall(0.1)
    assert attack("clean").rounds == ()
    assert attack("fgsm").rounds == (FgsmRound(ball),)
    assert attack("pgd-20").rounds == (GradientRound(ball, 20, 0.025, "ce", "pgd/0"),)
    assert [r.stream for r in attack("pgd-100x3").rounds] == ["pgd/0", "pgd/1", "pgd/2"]
    assert attack("cw-7").rounds == (GradientRound(ball, 7, 0.025, "margin", "cw/0"),)
    assert attack("pgd-5x2@0.5").rounds[1] == GradientRound(ball, 5, 0.025, "ce", "pgd/1", 0.5)
    assert attack("noise-2").rounds == (NoiseRound(ball, "noise/0"), NoiseRound(ball, "noise/1"))
    assert attack("pgd-5x2@30").parameters == {
        "steps": 5, "step_size": 0.025, "restarts": 2, "loss": "ce", "scale": 30.0, "threat": "linf",
    }  # fmt: skip


def test_autoattack_is_its_four_parts() -> None:
    pytest.importorskip("pyautoattack")
    rounds = attack("autoattack").rounds
    assert tuple(r.part for r in rounds if isinstance(r, PackageRound)) == STANDARD_PARTS
    assert attack("apgd-dlr", 3).parameters["parts"] == ["apgd-dlr"]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "pgd",
        "pgd-0",
        "pgd-20x0",
        "pgd-20@0",
        "pgd-20@-1",
        "pgd-1e3",
        "cw",
        "noise-0",
        "autoattack-2",
        "fgsm-1",
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(name) -> None:
    with pytest.raises(UserError, match=r"--attack = .*: a comma-separated list of clean, fgsm, pgd-K"):
        parse(f"clean,{name}", epsilon=0.1)


def test_a_name_given_twice_is_refused() -> None:
    with pytest.raises(UserError, match="fgsm stands there twice"):
        parse("fgsm,clean,fgsm", epsilon=0.1)


@pytest.mark.parametrize(
    ("name", "classes", "says"),
    [
        ("apgd-dlr", 2, "apgd-dlr needs 3 classes and there are 2; take apgd-ce,fab-t,square"),
        ("apgd-t", 3, "apgd-t needs 4 classes and there are 3; take apgd-ce,apgd-dlr,fab-t,square"),
        ("autoattack", 3, "apgd-t needs 4 classes and there are 3"),
    ],
)
def test_losses_over_more_logits_than_there_are(name, classes, says) -> None:
    with pytest.raises(UserError, match=says):
        attack(name, classes)


def test_autoattack_without_its_package(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pyautoattack", None)  # what import finds where it is not installed
    with pytest.raises(
        MissingPackage, match=r"pyautoattack, which is not installed: pip install 'srat-fast\[audit\]'"
    ):
        attack("autoattack")


def test_the_step_size_scales_with_the_radius() -> None:
    def steps(epsilon: float) -> float:
        chosen = parse("pgd-20", epsilon=epsilon, own_epsilon=0.1)
        return chosen["pgd-20"].parameters["step_size"]

    assert steps(0.1) == 0.02
    assert steps(0.5) == pytest.approx(0.1)


def test_noise_is_a_corner_of_the_ball() -> None:
    images = torch.full((2, 1, 8, 8), 0.5)
    (noise,) = attack("noise-1").rounds
    start = noise.start(images, torch.Generator().manual_seed(0))
    assert start is not None
    assert torch.allclose((start - images).abs(), torch.tensor(0.1))
    assert 0.2 < float((start > images).float().mean()) < 0.8


def test_the_scale_changes_the_gradient_and_not_the_margin() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 30), nn.Tanh(), nn.Linear(30, 6))
    images, labels = torch.rand(32, 3, 4, 4), torch.randint(0, 6, (32,))
    start = LInfBall(0.1).random_start(images, torch.Generator().manual_seed(0))

    def found(name: str) -> torch.Tensor:
        return attack(name).rounds[0].examples(model, images, labels, start, 0)

    assert not torch.equal(found("pgd-3"), found("pgd-3@30"))
    assert torch.allclose(found("cw-3"), found("cw-3@32"))


def test_overshoot_counts_the_ball_the_range_and_nan() -> None:
    ball, clean = LInfBall(0.1), torch.full((5, 1, 1, 2), 0.95)
    moved = clean.clone()
    moved[1, ..., 0] += 0.2  # out of the ball by 0.1, out of the range by 0.15
    moved[2, ..., 0] -= 0.3
    moved[3, ..., 0] = float("nan")
    moved[4, ..., 0] += 0.05
    excess = ball.overshoot(moved, clean)
    assert torch.allclose(excess, torch.tensor([0.0, 0.15, 0.2, float("inf"), 0.0]), atol=1e-6)
