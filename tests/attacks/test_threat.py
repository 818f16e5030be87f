"""A second threat model is one class: training, evaluation, audit, records and titles follow it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from srat_fast import audit, build_recipe, evaluate
from srat_fast.attacks.named import named_attack
from srat_fast.attacks.pgd import pgd
from srat_fast.cli import app
from srat_fast.console import Console
from srat_fast.errors import UserError
from srat_fast.recipe import radius_title
from srat_fast.registry import threat
from srat_fast.report.collect import find_runs
from srat_fast.report.groups import group_runs
from srat_fast.sharing.card import model_card
from srat_fast.training.trainer import train

FIELDS = {
    "data.name": "digits", "method": "srat-ldam", "model.width": 4, "optim.epochs": 2, "attack.steps": 2,
    "eval_attack.steps": 3, "data.limit": 120, "data.test_limit": 40, "run.device": "cpu", "run.compile": "off",
    "run.tensorboard": False,
}  # fmt: skip


@dataclass(frozen=True)
class Euclidean:
    """All images within a Euclidean distance."""

    epsilon: float
    title = "L2"
    autoattack = None
    largest = 400.0
    tolerance = 1e-5

    @staticmethod
    def diameter(shape):
        return math.sqrt(math.prod(shape))

    @staticmethod
    def _norm(x):
        return x.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)

    def noise(self, clean, generator):
        direction = torch.randn(clean.shape, generator=generator, device=clean.device, dtype=clean.dtype)
        return (clean + self.epsilon * direction / self._norm(direction)).clamp(0, 1)

    random_start = noise

    def step(self, adversarial, gradient, clean, step_size, nonfinite=None, zero=None):
        if nonfinite is not None:
            nonfinite += (~gradient.isfinite()).sum()
        if zero is not None:
            zero += (gradient == 0).sum()
        moved = adversarial + step_size * gradient / self._norm(gradient) - clean
        moved *= (self.epsilon / self._norm(moved)).clamp(max=1.0)
        return adversarial.copy_((clean + moved).clamp_(0, 1))

    def overshoot(self, adversarial, clean):
        return (self._norm(adversarial - clean).flatten() - self.epsilon).clamp(min=0)


@pytest.fixture
def l2() -> Iterator[str]:
    threat("l2")(Euclidean)
    yield "l2"
    threat.remove("l2")


def test_training_evaluation_audit_and_titles_of_another_ball(l2: str, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = {"attack.threat": l2, "attack.epsilon": 1.5, "attack.step_size": None, "eval_attack.step_size": 0.5}
    for name, fields in (("a", own), ("b", {})):
        train(build_recipe(None, FIELDS | fields), tmp_path / name, console=Console())
    record = json.loads((tmp_path / "a" / "record.json").read_text())
    kept = record["recipe"]
    assert (kept["attack"]["threat"], kept["attack"]["step_size"]) == ("l2", 0.375)
    assert (kept["eval_attack"]["threat"], kept["eval_attack"]["epsilon"]) == ("l2", 1.5)
    assert record["robust"]["overall"] <= record["standard"]["overall"]

    rows = evaluate(tmp_path / "a", "clean,fgsm,pgd-3,cw-3,noise-2", epsilons=[0.5, 3], device="cpu")
    assert rows["pgd-3 eps 3"] | {"threat": "l2", "epsilon": 3.0, "step_size": 1.0} == rows["pgd-3 eps 3"]
    assert rows["pgd-3 eps 3"]["overall"] <= rows["pgd-3 eps 0.5"]["overall"]
    foreign = evaluate(tmp_path / "a", "pgd-3", epsilons=0.1, threat="linf", device="cpu")
    assert foreign["pgd-3 linf"]["threat"] == "linf"
    capsys.readouterr()
    command = ["evaluate", "b", "--attack", "pgd-3,fgsm", "--device", "cpu"]
    for options, code, says in (
        (["--threat", "l2", "--eps", "1.5"], 0, "| worst-case l2 |"),
        (
            ["--threat", "l2"],
            2,
            "eval_attack.epsilon = 'none': a radius is needed: the run's own is one of linf",
        ),
        (["--eps", "2"], 2, "a number > 0 and <= 1 with threat = linf"),
        (["--threat", "l3", "--eps", "2"], 2, "--threat: eval_attack.threat = 'l3': one of linf, l2"),
    ):
        with pytest.raises(SystemExit) as ended:
            app.main(command + options)
        said = "".join(capsys.readouterr())
        assert (ended.value.code, says in said) == (code, True), said
    with pytest.raises(UserError, match="AutoAttack has no L2; take fgsm"):
        evaluate(tmp_path / "a", "square", device="cpu")

    titles = [group.title for group in group_runs(find_runs([tmp_path]))]
    assert [title.partition("robust = ")[2] for title in titles] == [
        "PGD-3 at L2 eps 1.5",
        "PGD-3 at L-inf eps 0.1",
    ]
    (alone,) = group_runs(find_runs([tmp_path / "b"]))
    assert alone.title.endswith("robust = PGD-3 at eps 0.1")
    card = model_card(record, weights="last", files=[], image=(1, 8), normalised=False, checked_on=["clean"])
    assert "PGD-2 examples, L2 eps 1.5, step 0.375" in card
    assert "PGD-3, L2 eps 1.5 |" in card
    later = json.loads((tmp_path / "b" / "record.json").read_text())
    card = model_card(later, weights="last", files=[], image=(1, 8), normalised=False, checked_on=["clean"])
    assert "PGD-3, eps 0.1 |" in card
    assert "pgd-3 l2, eps 1.5 (evaluated later)" in card


def test_an_audit_in_another_ball(l2: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(48, 12), nn.ReLU(), nn.Linear(12, 4)).eval()
    images = torch.rand(24, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    labels = model(images).argmax(dim=1)
    report = audit(model, images, labels, threat=l2, epsilon=0.3, steps=3, autoattack=4, queries=10)
    assert report["attack"] == {
        "name": "pgd-3",
        "threat": "l2",
        "epsilon": 0.3,
        "step_size": 0.075,
        "steps": 3,
    }
    checks = {check["name"]: check for check in report["checks"]}
    assert "at eps 6.93" in checks["larger radius"]["found"], "the diagonal of 48 pixels"
    assert checks["threat model"]["verdict"] == "passed"
    assert checks["black box"]["found"] == checks["AutoAttack"]["found"] == "AutoAttack has no L2"
    with pytest.raises(UserError, match=r"epsilon = 500\.0: a number > 0 and <= 400"):
        audit(model, images, labels, threat=l2, epsilon=500.0)


def test_an_attack_climbs_in_another_ball(l2: str) -> None:
    weight = torch.randn(12, generator=torch.Generator().manual_seed(0))
    images, ball = torch.full((3, 3, 2, 2), 0.5), threat[l2](0.2)

    def linear(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x.flatten(1) @ weight, -(x.flatten(1) @ weight)], dim=1)

    found = pgd(linear, images, torch.zeros(3, dtype=torch.int64), ball=ball, steps=10, step_size=0.05)
    worst = images - 0.2 * (weight / weight.norm()).view(3, 2, 2)
    assert torch.allclose(found, worst, atol=1e-6)
    attack = named_attack("noise-1", threat_model=l2, epsilon=0.2, step_size=0.1, classes=2)
    start = attack.rounds[0].start(images, torch.Generator().manual_seed(0))
    assert torch.allclose((start - images).flatten(1).norm(dim=1), torch.tensor(0.2))


def test_radius_and_step_are_checked_in_their_own_ball(l2: str) -> None:
    paper = build_recipe("paper")
    recipe = build_recipe("paper", {"attack.threat": l2, "attack.epsilon": "128/255"}).resolve()
    assert recipe.eval_attack.threat == l2
    assert recipe.attack.step_size == recipe.eval_attack.step_size == 32 / 255
    assert recipe.fingerprint() != paper.fingerprint()
    assert (
        paper.replace({"attack.threat": "linf", "eval_attack.threat": "linf"}).fingerprint()
        == paper.fingerprint()
    )
    for changes, says in (
        ({"attack.epsilon": 2}, r"attack\.epsilon = 2\.0: a number > 0 and <= 1 with threat = linf"),
        ({"attack.step_size": 2}, r"attack\.step_size = 2\.0: .*<= 1 with threat = linf"),
        ({"attack.threat": l2, "attack.epsilon": 401}, r"attack\.epsilon = 401: a number > 0 and <= 400"),
        ({"eval_attack.threat": l2}, r"eval_attack\.epsilon = 'auto': a radius in l2 is needed"),
        ({"attack.threat": l2}, r"attack\.epsilon = 0\.03\d+: is a length in linf; give one in l2"),
        (
            {"data.name": "digits", "attack.threat": l2, "attack.epsilon": 1},
            r"attack\.step_size = 0\.025: is a length",
        ),
    ):
        with pytest.raises(UserError, match=says):
            build_recipe(None, changes)


def test_titles_of_records_of_other_versions_and_of_plug_ins_that_are_not_there() -> None:
    assert radius_title({"epsilon": 0.1}) == "eps 0.1"
    assert radius_title({"epsilon": 0.1}, always=True) == "L-inf eps 0.1"
    assert radius_title({"epsilon": 0.1, "threat": "lost"}) == "lost eps 0.1"


def test_a_loss_that_compares_with_the_clean_images_starts_elsewhere(tmp_path) -> None:
    fields = FIELDS | {"attack.loss": "kl", "attack.random_start": False}
    with pytest.raises(UserError, match=r"attack\.random_start = False: attack\.loss = kl has no gradient"):
        train(build_recipe(None, fields), tmp_path / "run", console=Console())
