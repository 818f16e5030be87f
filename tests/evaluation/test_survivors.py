"""Attacks image by image: restarts only take away, interruptions change nothing, what is no number is refused."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from srat_fast.attacks.named import NamedAttack, NoiseRound, named_attack
from srat_fast.attacks.threat import LInfBall
from srat_fast.data.arrays import ImageSet
from srat_fast.data.memory import MemoryLoader
from srat_fast.errors import EvaluationFailure
from srat_fast.evaluation.accuracy import PgdSettings, predict
from srat_fast.evaluation.partial import load_partial, partial_path, save_partial
from srat_fast.evaluation.survivors import Outcome, attack_images


@pytest.fixture
def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 4))


@pytest.fixture
def loader(model) -> MemoryLoader:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3), dtype=np.uint8)
    batches = MemoryLoader(
        ImageSet(pixels, np.zeros(50, np.int64)), batch_size=50, device=torch.device("cpu")
    )
    images, _ = next(batches.epoch(0))
    labels = model(images).argmax(dim=1).numpy()
    labels[::10] = (labels[::10] + 1) % 4
    return MemoryLoader(ImageSet(pixels, labels), batch_size=16, device=torch.device("cpu"))


def attack(name: str) -> NamedAttack:
    return named_attack(name, threat_model="linf", epsilon=0.15, step_size=0.02, classes=4)


def right(model, loader, name) -> torch.Tensor:
    outcome, labels = attack_images(model, loader, attack(name), seed=0)
    return outcome.predictions == labels


def test_pgd_is_what_training_s_evaluation_does(model, loader) -> None:
    trained, labels = predict(model, loader, PgdSettings(5, 0.02, 0.15), seed=3)
    outcome, same = attack_images(model, loader, attack("pgd-5"), seed=3)
    torch.testing.assert_close(trained, outcome.predictions, rtol=0, atol=0)
    torch.testing.assert_close(labels, same, rtol=0, atol=0)


def test_restarts_begin_with_the_single_start_and_only_take_away(model, loader) -> None:
    one, three, clean = (right(model, loader, name) for name in ("pgd-2", "pgd-2x3", "clean"))
    assert not bool((three & ~one).any())
    assert int(three.sum()) < int(one.sum()) < int(clean.sum())


@pytest.mark.parametrize("name", ["pgd-2x3", "noise-3", "cw-2x2", "clean"])
def test_stopping_anywhere_changes_nothing(name, model, loader, tmp_path) -> None:
    states: list[Outcome] = []
    told: list[int] = []
    whole, _ = attack_images(
        model,
        loader,
        attack(name),
        seed=1,
        keep=lambda o: states.append(copy.deepcopy(o)),
        progress=told.append,
    )
    assert len(states) == 4 * max(1, len(attack(name).rounds))
    assert sum(told) == 50
    for state in states:
        path = partial_path(tmp_path, name, {"a": 1})
        path.parent.mkdir(exist_ok=True)
        save_partial(path, state)
        told.clear()
        again, _ = attack_images(
            model, loader, attack(name), seed=1, outcome=load_partial(path, 50), progress=told.append
        )
        torch.testing.assert_close(again.predictions, whole.predictions, rtol=0, atol=0)
        assert sum(told) == 50


def test_a_damaged_or_foreign_state_is_left_aside(tmp_path) -> None:
    path = partial_path(tmp_path, "pgd-2", {"a": 1})
    assert path != partial_path(tmp_path, "pgd-2", {"a": 2})
    path.parent.mkdir()
    assert load_partial(path, 50) is None
    save_partial(path, Outcome(torch.arange(50), 2, 1, 3.5, 1e-8))
    kept = load_partial(path, 50)
    assert kept is not None
    assert (kept.batch, kept.round, kept.seconds, kept.overshoot) == (2, 1, 3.5, 1e-8)
    assert load_partial(path, 49) is None
    content = bytearray(path.read_bytes())
    content[content.index(np.arange(50).tobytes()) + 8] ^= 4  # one bit of one prediction
    path.write_bytes(content)
    assert load_partial(path, 50) is None
    path.write_bytes(content[:100])
    assert load_partial(path, 50) is None


class Broken(nn.Module):
    """NaN for some images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = x.flatten(1)[:, :4].clone()
        logits[:3] = float("nan")
        return logits


def test_logits_that_are_no_numbers_are_refused(loader) -> None:
    with pytest.raises(EvaluationFailure, match=r"clean: the logits of 3 of 16 images are not finite"):
        attack_images(Broken(), loader, attack("clean"), seed=0)


@dataclass(frozen=True)
class TooFar(NoiseRound):
    """An attack that takes more than the ball."""

    def start(self, images, generator):
        return (images + 0.2).clamp(0, 1)


def test_examples_outside_the_ball_are_refused(model, loader) -> None:
    ball = LInfBall(0.05)
    far = NamedAttack("far", ball, (TooFar(ball, "far"),), {})
    with pytest.raises(EvaluationFailure, match=r"far: 1[0-9] of 16 images left the ball of eps 0.05"):
        attack_images(model, loader, far, seed=0)
