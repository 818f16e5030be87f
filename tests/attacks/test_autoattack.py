"""AutoAttack's parts through the package: the same as the package's own evaluation, quiet, and without side effects."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from srat_fast import audit
from srat_fast.attacks.autoattack import STANDARD_PARTS, PackageRound
from srat_fast.attacks.threat import L2Ball, LInfBall, Threat
from srat_fast.errors import EvaluationFailure

package = pytest.importorskip("pyautoattack")


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Flatten(), nn.Linear(25, 12), nn.ReLU(), nn.Linear(12, 5))
    images = torch.rand(12, 1, 5, 5, generator=generator)
    labels = model(images).argmax(dim=1)
    labels[0] = (labels[0] + 1) % 5  # one image is wrong as it is
    return model, images, labels


@pytest.mark.parametrize("ball", [LInfBall(0.1), L2Ball(0.4)], ids=lambda ball: ball.title)
def test_the_parts_one_after_the_other_are_the_package_s_evaluation(ball: Threat, problem) -> None:
    model, images, labels = problem
    seed = 7
    right = model(images).argmax(dim=1) == labels
    after = {}
    for part in STANDARD_PARTS:
        step = PackageRound(ball, part, 5, queries=200)
        examples = step.examples(model, images[right], labels[right], None, seed)
        assert float(ball.overshoot(examples, images[right]).max()) < 1e-6
        right[right.clone()] = model(examples).argmax(dim=1) == labels[right]
        after[part] = int(right.sum())
    with torch.random.fork_rng(devices=[]):
        norm = {"L-inf": "Linf", "L2": "L2"}[ball.title]
        whole = package.AutoAttack(model, norm=norm, eps=ball.epsilon, seed=seed, version="standard")
        whole.apgd_targeted.n_target_classes = whole.fab.n_target_classes = 4
        whole.square.n_queries = 200
        _, predictions = whole.run_standard_evaluation(images, labels, batch_size=12)
    torch.testing.assert_close(predictions == labels, right, rtol=0, atol=0)
    assert 0 < after["square"] < 11, "some fall, some stand: or the comparison says nothing"


@pytest.mark.parametrize("part", ["apgd-ce", "apgd-dlr", "fab-t", "square"])
def test_nothing_else_changes(part, problem, capfd) -> None:
    model, images, labels = problem
    last = images.contiguous(memory_format=torch.channels_last)
    before, clean = torch.get_rng_state(), images.clone()
    attack = PackageRound(LInfBall(0.03), part, 5, queries=20)
    first = attack.examples(model, last, labels, None, 3)
    torch.testing.assert_close(
        first,
        attack.examples(model, last, labels, None, 3),
        rtol=0,
        atol=0,
        msg="equal seeds, equal examples",
    )
    torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)
    torch.testing.assert_close(images, clean, rtol=0, atol=0)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not first.requires_grad
    assert capfd.readouterr() == ("", "")
    torch.testing.assert_close(first[0], images[0], rtol=0, atol=0, msg="wrong as it is: left as it is")


def test_square_in_l2_on_images_that_are_too_small_for_its_grid() -> None:
    images, labels = torch.rand(2, 1, 6, 4), torch.zeros(2, dtype=torch.int64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(24, 3))
    with pytest.raises(EvaluationFailure, match="square in L2 needs images of 5 x 5 pixels"):
        PackageRound(L2Ball(0.5), "square", 3).examples(model, images, labels, None, 0)
    report = audit(model.eval(), images, labels, threat="l2", epsilon=0.5, steps=1, autoattack=2, queries=5)
    found = {check["name"]: check["found"] for check in report["checks"]}
    assert found["black box"] == found["AutoAttack"] == "square in L2 needs images of 5 x 5 pixels"
