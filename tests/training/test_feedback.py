"""Class feedback: each rule against its second formula, what is measured, and runs that go by it."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from srat_fast.data.arrays import ImageSet
from srat_fast.data.split import load_split
from srat_fast.errors import Interrupted, UserError
from srat_fast.losses.objective import margin_weights, worst_distribution
from srat_fast.methods import RULES as NAMES
from srat_fast.models.build import feedback_flops, measured_epochs, planned_flops, training_flops
from srat_fast.recipe import build_recipe
from srat_fast.reference import feedback as plain
from srat_fast.sweep.plan import work_of
from srat_fast.training import feedback
from srat_fast.training.feedback import (
    RULES,
    Cfa,
    Facts,
    Feedback,
    Figures,
    Frl,
    _rates,
    as_published,
    measure,
    sets,
)
from srat_fast.training.fit import Fit, selected
from srat_fast.training.trainer import train
from tests.equivalence.test_step import COUNTS, Small, batches, make_pair
from tests.training.short_runs import StopAfter, assert_equal_runs, short

MEASURED = [name for name in NAMES if name != "faal"]
ROWS = ["frl", "frl-remargin", "cfa", "wat", "dafa", "cgr"]


def figures(seed: int, classes: int = 5) -> Figures:
    """Random ones."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    clean = draw(classes)
    return Figures(
        images=torch.full((classes,), 7.0, dtype=torch.float64),
        clean=clean,
        robust=clean * draw(classes),
        loss=draw(classes),
        attacked_loss=1 + draw(classes),
        divergence=draw(classes),
        margin=2 * draw(classes) - 1,
        probability=(4 * draw(classes, classes)).softmax(dim=1),
        confusion=(4 * draw(classes, classes)).softmax(dim=1),
        centres=draw(classes, 3),
    )


@pytest.mark.parametrize("method", ROWS)
def test_each_rule_agrees_with_its_second_formula(method) -> None:
    recipe = build_recipe(None, {"method": method}).resolve()
    counts = [90, 40, 20, 9, 3]
    fast = RULES[recipe.feedback.rule](Facts(recipe, counts))
    slow = plain.PlainRule(recipe, counts)
    for epoch in range(4):
        ours, theirs = fast.effects(), slow.effects()
        assert ours.keys() == theirs.keys()
        assert ("radii" in ours) == ("radii" in sets(recipe))
        for name, values in ours.items():
            assert np.asarray(values) == pytest.approx(np.array(theirs[name]), rel=1e-12), (epoch, name)
        fast.update(figures(epoch))
        slow.update(figures(epoch))


def test_the_rules_are_those_that_a_recipe_can_name() -> None:
    assert set(RULES) == set(plain.FORMULAS) == {"off", *NAMES}


def test_dafa_moves_weight_between_similar_classes() -> None:
    """P = [[.6, .3, .1], [.2, .7, .1], [.05, .05, .9]] gives 1.30, 0.88 and 0.82."""
    recipe = build_recipe(None, {"method": "dafa"}).resolve()
    seen = figures(0, 3)
    p = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.05, 0.05, 0.9]], dtype=torch.float64)
    seen = Figures(**(vars(seen) | {"probability": p}))
    for rule in (RULES["dafa"](Facts(recipe, [1, 1, 1])), plain.PlainRule(recipe, [1, 1, 1])):
        rule.update(seen)
        effects = rule.effects()
        assert list(effects["weights"]) == pytest.approx([1.30, 0.88, 0.82], abs=1e-9)
        assert sum(effects["weights"]) == pytest.approx(3)
        assert list(effects["radii"]) == list(effects["weights"])


@pytest.mark.parametrize(
    ("method", "seen", "expected"),
    [
        (  # errors less their mean .3 and d .07: -.27, -.17, .23; of the boundary (.1, .2, 0): -.07, .03, -.17
            "frl-remargin",
            {"clean": [0.9, 0.8, 0.4], "robust": [0.8, 0.6, 0.4]},
            {
                "weights": [0.9885, 0.9885, 1.023],
                "pair": [0.997, 1.006, 0.997],
                "radii": [0.98, np.exp(0.4 * 0.03), 0.98],
            },
        ),
        (  # r = .3: q = 6 (.5 + .3) / (1 + 6 (.5 + .3)) = 4.8 / 5.8
            "cfa",
            {"robust": [0.3, 0.5, 0.0]},
            {
                "radii": [0.8, 1.0, 0.5],
                "weights": [1 / 5.8, 1 / 7, 1 / 4],
                "pair": [4.8 / 5.8 / 6, 1 / 7, 3 / 4 / 6],
            },
        ),
        (  # CE + 6 KL = 1, 2, 3 and their mean 2: 3 softmax(.1, .2, .3, .2), the last to each
            "wat",
            {"loss": [0.4, 0.8, 0.6], "divergence": [0.1, 0.2, 0.4]},
            {name: [1.425062, 1.496256, 1.574938] for name in ("weights", "pair")},
        ),
    ],
)
def test_rules_by_hand(method, seen, expected) -> None:
    recipe = build_recipe(None, {"method": method}).resolve()
    given = {name: torch.tensor(values, dtype=torch.float64) for name, values in seen.items()}
    found = Figures(**(vars(figures(0, 3)) | given))
    for rule in (RULES[recipe.feedback.rule](Facts(recipe, [9, 3, 1])), plain.PlainRule(recipe, [9, 3, 1])):
        rule.update(found)
        for name, values in expected.items():
            assert list(rule.effects()[name]) == pytest.approx(values, abs=1e-6), name


def test_frl_keeps_its_multipliers_together_at_a_half() -> None:
    recipe = build_recipe(None, {"method": "frl", "feedback.frl_slack": 0.0}).resolve()
    even = torch.full((3,), 0.5, dtype=torch.float64)
    found = Figures(**(vars(figures(0, 3)) | {"clean": even, "robust": even}))
    old = {"clean": [0.6, 0.2, 0.0], "boundary": [0.1, 0.0, 0.0], "radius": [0.0] * 3}
    for rule in (RULES["frl"](Facts(recipe, [9, 3, 1])), plain.PlainRule(recipe, [9, 3, 1])):
        fast = not isinstance(rule, plain.PlainRule)
        rule.state = {n: torch.tensor(v, dtype=torch.float64) if fast else v for n, v in old.items()}
        rule.update(found)
        assert list(rule.state["clean"]) == pytest.approx([0.375, 0.125, 0.0])
        assert list(rule.effects()["weights"]) == pytest.approx([1.625, 0.875, 0.5])
        assert list(rule.state["boundary"]) == pytest.approx([0.1, 0.0, 0.0])


def test_cgr_weighs_errors_under_attack() -> None:
    """Robust accuracies .5, .3, .1: raw .25, .35, .65 of mean .417, scores .8 + .2 raw, weights 1 + score of mean 2."""
    recipe = build_recipe(None, {"method": "cgr"}).resolve()
    robust = torch.tensor([0.5, 0.3, 0.1], dtype=torch.float64)
    seen = Figures(**(vars(figures(0, 3)) | {"robust": robust}))
    for rule in (RULES["cgr"](Facts(recipe, [9, 3, 1])), plain.PlainRule(recipe, [9, 3, 1])):
        assert list(rule.effects()["weights"]) == [1.0, 1.0, 1.0]
        rule.update(seen)
        assert list(rule.effects()["weights"]) == pytest.approx([0.96, 0.984, 1.056])
        rule.state = rule.state | {"scores": [99.0, 0.0, 0.0]} if isinstance(rule, plain.PlainRule) else {
            **rule.state, "scores": torch.tensor([99.0, 0.0, 0.0], dtype=torch.float64)}  # fmt: skip
        assert sum(rule.effects()["weights"]) == pytest.approx(3), "of mean 1 after the bounds too"


@pytest.mark.parametrize(
    ("divergence", "expected"), [(0.5, [0.0581, 0.1888, 0.7531]), (0.05, [0.2053, 0.3461, 0.4486])]
)
def test_faal_finds_the_worst_distribution(divergence, expected) -> None:
    scores = torch.tensor([-0.5, 0.1, 0.3], dtype=torch.float64)
    found = worst_distribution(scores, divergence)
    assert found.tolist() == pytest.approx(expected, abs=6e-5)
    assert plain.worst(scores.tolist(), divergence) == pytest.approx(found.tolist(), rel=1e-12)
    assert -float((3 * found).log().mean()) == pytest.approx(divergence, rel=1e-9)
    assert worst_distribution(scores.float(), divergence).tolist() == pytest.approx(expected, abs=6e-5)
    assert worst_distribution(torch.zeros(4), divergence).tolist() == [0.25] * 4


@pytest.mark.parametrize("rates", ["count", "balanced"])
def test_faal_weighs_a_batch_by_its_margins(rates) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (20,), generator=generator)  # class 4 is absent
    found = margin_weights(logits, labels, 0.5, rates == "balanced")
    again = plain.faal(logits.softmax(1).tolist(), labels.tolist(), 0.5, rates)
    assert found.tolist() == pytest.approx(again, rel=1e-11)
    assert float(found.sum()) == pytest.approx(5)
    if rates == "count":
        assert int(found.argmin()) == 4


def pixels(count: int = 40) -> ImageSet:
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (count, 12, 12, 3), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 3  # none of class 3
    return ImageSet(images.numpy(), labels.numpy())


def test_figures_are_those_of_each_image(device, small, monkeypatch) -> None:
    attacked: list[torch.Tensor] = []
    real = feedback.pgd
    monkeypatch.setattr(feedback, "pgd", lambda *a, **k: attacked.append(real(*a, **k)) or attacked[-1])
    changes = {"method": "cfa", "model.name": "small", "run.eval_batch_size": 16}
    pair = make_pair(device, torch.float64, **changes)
    recipe, model = pair.fast.recipe, pair.fast.model
    images = pixels()
    seen = measure(model, images, recipe, seed=5, device=device)
    assert model.training
    changed = torch.cat(attacked)
    assert all(torch.equal(a, b) for a, b in zip(vars(seen).values(), vars(
        measure(model, images, recipe, seed=5, device=device)).values(), strict=True))  # fmt: skip
    assert seen.images.tolist() == [14, 13, 13, 0]
    model.eval()
    x = torch.from_numpy(images.images).permute(0, 3, 1, 2).double().to(device) / 255
    labels = torch.from_numpy(images.labels)
    logits = model(x).detach().cpu()
    features = model.features(changed).detach().cpu()
    model.train()
    for c in range(3):
        own = labels == c
        wrong = (logits.argmax(1) != labels)[own].double().mean()
        assert float(seen.clean[c]) == pytest.approx(1 - float(wrong))
        loss = torch.nn.functional.cross_entropy(logits[own], labels[own])
        assert float(seen.loss[c]) == pytest.approx(float(loss), rel=1e-6)  # pixels are float32 on their way
        assert torch.allclose(seen.centres[c], features[own].mean(0).double(), rtol=1e-5, atol=1e-6)
        assert float(seen.probability[c].sum()) == pytest.approx(1)
        assert float(seen.confusion[c, c]) == pytest.approx(float(seen.robust[c]))
    assert float(seen.clean[3]) == pytest.approx(float(seen.clean[:3].mean())), "absent: as the others"
    assert bool((seen.attacked_loss > seen.loss).all())
    assert bool((seen.divergence > 0).all())


@pytest.mark.parametrize("ball", ["linf", "l2"])
def test_figures_do_not_depend_on_the_batches_of_evaluation(ball, device, small) -> None:
    seen = []
    for size in (7, 500):
        changes = {"method": "cfa", "model.name": "small", "run.eval_batch_size": size, "attack.threat": ball}
        if ball == "l2":
            changes |= {"attack.epsilon": 0.8, "attack.step_size": 0.3}
        engine = make_pair(device, torch.float64, **changes).fast
        seen.append(measure(engine.model, pixels(), engine.recipe, seed=5, device=device))
    for one, other in zip(*(vars(figure).values() for figure in seen), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_rates_are_over_a_class_of_its_own_unless_asked_otherwise() -> None:
    sums = {
        "images": torch.tensor([8.0, 2.0]),
        "clean": torch.tensor([4.0, 2.0]),
        "centres": torch.ones(2, 1),
    }
    rest = {name: torch.zeros(2) for name in ("robust", "loss", "attacked_loss", "divergence", "margin")}
    rest |= {"probability": torch.ones(2, 2), "confusion": torch.zeros(2, 2)}
    own = _rates(sums | rest)
    assert own.clean.tolist() == [0.5, 1.0]
    published = as_published(own, [8, 2])
    assert published.clean.tolist() == pytest.approx([0.8, 0.4]), "2 x 4 / 10: wrong, as published"
    assert published.probability.flatten().tolist() == pytest.approx([0.2, 0.2, 0.2, 0.2])
    assert published.centres.flatten().tolist() == [0.125, 0.5]
    drawn = as_published(own, [72, 8])
    assert drawn.clean.tolist() == pytest.approx([0.9, 0.2]), (
        "of 72 and 8 images 36 and 8 are right: 2 x 36 / 80"
    )


@pytest.mark.parametrize("rates", ["count", "balanced"])
def test_published_rates_are_over_all_images_though_few_are_measured(rates, device, small) -> None:
    changes = {"method": "cfa", "model.name": "small", "feedback.rates": rates, "feedback.images": 3}
    engine = make_pair(device, torch.float32, **changes).fast
    split = SimpleNamespace(train=pixels(), counts=[14, 13, 13, 0])
    told = Feedback(engine.recipe, split, Cfa).after(0, engine.model, device, lambda done: None)
    assert told["images"] == [3, 3, 3, 0]
    assert 0 < max(told["robust"]) <= 1, "what is told is of each class in any case"
    shares = [4 * n / 40 if rates == "balanced" else 1.0 for n in split.counts]
    assert told["radii"] == pytest.approx([0.5 + s * r for s, r in zip(shares, told["robust"], strict=True)])


def test_a_rule_that_never_measures_says_so(tmp_path) -> None:
    small = {"data__limit": 60, "data__test_limit": 10, "attack__steps": 1, "eval_attack__steps": 1}
    recipe = short(method="cgr", optim__epochs=1, optim__ema_decay=0, data__val_fraction=0, **small)
    record = train(recipe, tmp_path / "run")
    assert record["warnings"] == [
        "feedback.rule = cgr measures nothing: feedback.start, feedback.every, optim.epochs and the stages leave no "
        "epoch to measure after"
    ]
    assert "feedback" not in json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    for quiet in ("cfa", "faal", "ce"):
        recipe = build_recipe("digits", {"method": quiet, "optim.epochs": 20}).resolve()
        split = SimpleNamespace(counts=[9, 3])
        assert Feedback(recipe, split, RULES[recipe.feedback.rule]).warnings() == []


@pytest.fixture
def small():
    from srat_fast.registry import model as models

    models("small")(Small)
    yield
    models.remove("small")


@pytest.mark.parametrize("method", [*ROWS, "faal", "mcat", "frl-tuned"])
def test_trajectories_agree_in_float64_across_measurements(method, device, small) -> None:
    """Each engine's network is measured, and each goes on by its own rule."""
    changes = {"feedback.every": 1} if method == "cgr" else {}
    if method == "faal":
        changes = {"attack.loss": "kl", "loss.branch": "clean", "loss.kl_weight": 6.0}
    pair = make_pair(device, torch.float64, method=method, **{"model.name": "small"} | changes)
    images, recipe = pixels(), pair.fast.stages[-1].recipe
    facts = Facts(recipe, COUNTS)
    rules = [(engine, engine.rule(facts)) for engine in (pair.fast, pair.slow)]
    for epoch in range(3):
        for engine, rule in rules:
            engine.steer(rule.effects())
            engine.start_epoch(epoch)
        for x, labels in batches(device, torch.float64, epoch):
            fast, slow = pair.fast.step(x, labels), pair.slow.step(x, labels)
            assert torch.allclose(fast.images, slow.images, rtol=0, atol=1e-12)
            for name, ours in fast.losses.items():
                assert torch.allclose(ours, slow.losses[name], rtol=1e-9, atol=1e-12), name
            for name, ours, theirs in pair.states():
                assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-10), name
        for engine, rule in rules:
            rule.update(measure(engine.model, images, recipe, seed=epoch, device=device))
    weights = pair.fast.objective.class_weights
    moves = float((weights - weights[0]).abs().max()) > 0
    assert moves == (method != "mcat")
    if pair.fast.radii is not None:
        assert bool((pair.fast.radii.factors != pair.fast.radii.factors[0]).any())


def test_what_a_rule_finds_changes_in_place(device, small) -> None:
    """Compiled and captured steps keep pointing at these tensors."""
    engine = make_pair(device, torch.float32, method="frl-remargin", **{"model.name": "small"}).fast
    places = [t.data_ptr() for t in engine.by_epoch()]
    effects = {"weights": [1.0, 2.0, 3.0, 4.0], "pair": [4.0, 3.0, 2.0, 1.0], "radii": [1.0, 0.5, 2.0, 900.0]}
    engine.steer(effects)
    engine.start_epoch(0)
    assert [t.data_ptr() for t in engine.by_epoch()] == places
    assert engine.objective.class_weights.tolist() == effects["weights"]
    assert engine.objective.found["pair"].tolist() == effects["pair"]
    assert engine.radii.factors.tolist() == [1.0, 0.5, 2.0, 20.0], "at most the whole range of pixels"


def due(**changes) -> list[int]:
    recipe = build_recipe(
        "digits", {"optim.epochs": 20} | {n.replace("__", "."): v for n, v in changes.items()}
    )
    feedback = Feedback(recipe.resolve(), load_split(recipe.resolve()), lambda facts: Frl(facts))
    return [epoch for epoch in range(20) if feedback.due(epoch)]


def test_when_classes_are_measured() -> None:
    assert due(method="frl") == [*range(19)], "after the last epoch it would change nothing"
    assert due(method="cfa", feedback__start=0.3) == [*range(5, 19)]
    assert due(method="cgr", feedback__every=6) == [5, 11, 17]
    assert due(method="faal") == due(method="trades") == []


def test_measurements_are_part_of_the_work() -> None:
    """10 classes, 5 of more than 20 images; 2 steps of 2 passes, and one of x and of x' each."""
    counts = [100, 80, 60, 40, 30, 20, 15, 10, 6, 5]
    small = {"data.name": "digits", "optim.epochs": 7, "feedback.images": 20, "feedback.steps": 2}
    recipe = build_recipe("digits", {"method": "frl"} | small)
    assert feedback_flops(10, recipe, counts) == 6 * (6 * 20 + 15 + 10 + 6 + 5) * 6 * 10
    assert measured_epochs(recipe) == [0, 1, 2, 3, 4, 5]
    assert measured_epochs(recipe.replace({"feedback.every": 3, "feedback.start": 0.5})) == [5]
    assert measured_epochs(build_recipe("digits", {"method": "dafa"} | small)) == [4]
    other = build_recipe("digits", {"method": "trades", "loss.kl_weight": 1.5, "optim.epochs": 7})
    forward = planned_flops(other) / 27
    more = work_of(recipe, counts) - work_of(other, counts)
    assert more == pytest.approx(6 * 156 * 6 * forward, rel=1e-6)
    held_out = recipe.replace({"feedback.split": "validation", "data.val_fraction": 0.1})
    assert work_of(held_out, counts) - work_of(other, counts) == pytest.approx(6 * 38 * 6 * forward, rel=1e-6)
    assert feedback_flops(10, build_recipe("digits", {"method": "faal"}), counts) == 0


@pytest.mark.parametrize(
    ("changes", "boundary"),
    [
        ({"method": "frl-remargin"}, 4),  # between two batches of an epoch
        ({"method": "cgr", "feedback.every": 1, "feedback.images": 2, "feedback.split": "validation"}, 6),
        ({"method": "dafa", "feedback.start": 0.3}, 8),
    ],
    ids=str,
)
def test_a_resumed_run_equals_the_uninterrupted_one(changes, boundary, tmp_path) -> None:
    small = {
        "data.limit": 60,
        "data.test_limit": 10,
        "attack.steps": 1,
        "eval_attack.steps": 1,
        "feedback.steps": 1,
    }
    recipe = short(**{name.replace(".", "__"): value for name, value in (small | changes).items()})
    train(recipe, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "run", stops=StopAfter(boundary))
    train(recipe, tmp_path / "run", resume="must")
    assert_equal_runs(tmp_path / "whole", tmp_path / "run")
    lines = [
        [
            json.loads(line).get("feedback")
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("whole", "run")
    ]
    assert lines[0] == lines[1]
    expected = [True, changes["method"] != "dafa", False]
    assert [line is not None for line in lines[0]] == expected
    for line in filter(None, lines[0]):
        assert line["split"] == changes.get("feedback.split", "training")
        assert max(line["images"]) <= changes.get("feedback.images", 100)
        assert len(line["weights"]) == len(line["robust"]) == 10
        assert all(math.isfinite(w) for w in line["weights"])


GATED = {"ema_decay": 0.75, "ema_every": "epoch", "ema_gate": 0.24}


def test_a_gated_average_resumes_where_it_was(tmp_path, monkeypatch) -> None:
    """Refused, begun, gone on: a resumed run that forgot that it had begun would begin again."""
    real, worst = Fit._validate, [0.1, 0.6, 0.24]

    def validate(fit: Fit, epoch: int) -> dict:
        verdict = real(fit, epoch)
        verdict["robust"]["per_class"] = [0.9, math.nan, worst[epoch]]
        return verdict

    monkeypatch.setattr(Fit, "_validate", validate)
    small = {"data__limit": 60, "data__test_limit": 10, "attack__steps": 1, "eval_attack__steps": 1}
    recipe = short(method="ce", **small, **{f"optim__{name}": value for name, value in GATED.items()})
    record = train(recipe, tmp_path / "whole")
    assert record["ema"]["epochs"] == 2
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "run", stops=StopAfter(11))
    train(recipe, tmp_path / "run", resume="must")
    assert_equal_runs(tmp_path / "whole", tmp_path / "run")
    for name in ("whole", "run"):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        taken = [json.loads(line)["average"] for line in lines]
        assert taken == [{"worst": w, "taken": w >= 0.24} for w in worst]


def test_an_average_that_no_epoch_was_let_into_is_none(tmp_path) -> None:
    small = {"data__limit": 60, "data__test_limit": 10, "attack__steps": 1, "eval_attack__steps": 1}
    gate = GATED | {"ema_gate": 1.0}
    recipe = short(
        method="ce", optim__epochs=1, **small, **{f"optim__{name}": value for name, value in gate.items()}
    )
    record = train(recipe, tmp_path / "run")
    assert "ema" not in record
    assert record["warnings"][-1].startswith(
        "no moving average: in no epoch had every class a robust accuracy of 1 "
    )
    assert not (tmp_path / "run" / "ema.safetensors").exists()
    own = build_recipe(None, {"method": "cfa", "protocol": "own"}).resolve()
    assert (own.optim.ema_gate, own.optim.ema_decay, own.data.val_fraction) == (0.24, 0.88, 0.02)


def test_the_reference_trains_by_its_own_rule(tmp_path) -> None:
    record = train(short(method="cfa", run__engine="reference", optim__epochs=2), tmp_path / "run")
    assert record["status"] == "finished"
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    steps, each = record["recipe"]["attack"]["steps"], record["flops_per_image"]
    per_image = each / training_flops(1, build_recipe(None, {"method": "cfa", "attack.steps": steps}))
    assert record["feedback_flops"] == pytest.approx(
        sum(line["feedback"]["images"]) * (2 * steps + 2) * per_image
    )
    assert line["feedback"]["radii"] == pytest.approx([0.5 + r for r in line["feedback"]["robust"]])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"method": "frl", "feedback.split": "validation"},
            r"feedback\.split = 'validation': data\.val_fraction > 0 is needed with validation",
        ),
        (
            {"method": "srat-ldam", "feedback.rule": "cfa"},
            r"loss\.weighting = 'deferred': feedback\.rule = cfa has class weights of its own; none is needed",
        ),
        ({"method": "harl", "feedback.rule": "wat"}, "base loss harl has no class weights; off is needed"),
        ({"method": "ce", "feedback.rule": "wat", "attack.examples": "clean"}, "adversarial is needed"),
        ({"method": "faal", "attack.loss": "objective"}, "the weights of feedback.rule = faal come after the attack"),
        ({"method": "faal", "feedback.every": 2}, "has an effect with feedback.rule = frl, cfa, wat, dafa, cgr only"),
        ({"method": "frl", "feedback.wat_rate": 0.5}, "has an effect with feedback.rule = wat only"),
        ({"method": "frl", "feedback.rule": "frll"}, "did you mean frl"),
        (
            {"method": "ce", "optim.ema_gate": 0.2, "optim.ema_decay": 0.9, "optim.ema_every": "epoch"},
            r"optim\.ema_gate = 0\.2: has an effect with optim\.ema_decay > 0, .* and data\.val_fraction > 0 only",
        ),
        ({"method": "ce", "loss.graph_weight": 1.0}, "has an effect with a method that has the term graph only"),
        (
            {"method": "ce", "feedback.rule": "cgr", "loss.graph_weight": 1.0},
            "has an effect with a method that has the term graph only",
        ),
        (
            {"method": "cgr", "feedback.rule": "off", "loss.graph_weight": 1.0},
            "has an effect with feedback.rule = cgr only",
        ),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(changes, says) -> None:
    with pytest.raises(UserError, match=says):
        build_recipe(None, changes)


def test_the_best_epoch_is_best_in_what_the_recipe_says() -> None:
    verdict = {"robust": {"overall": 0.6, "balanced": 0.4, "per_class": [0.9, 0.2, math.nan, 0.1]}}
    assert [selected(verdict, by) for by in ("overall", "balanced", "worst")] == [0.6, 0.4, 0.1]
    with pytest.raises(
        UserError, match=r"optim\.select = 'worst': has an effect with data\.val_fraction > 0 only"
    ):
        build_recipe(None, {"optim.select": "worst"})
    assert build_recipe().fingerprint() == build_recipe(None, {"optim.select": "balanced"}).fingerprint()


@pytest.mark.parametrize("by", ["overall", "worst"])
def test_a_selection_is_on_record_by_its_rule(by, tmp_path) -> None:
    small = {"data__limit": 60, "data__test_limit": 10, "attack__steps": 1, "eval_attack__steps": 1}
    record = train(short(method="ce", optim__select=by, optim__epochs=2, **small), tmp_path / "run")
    assert record["best"]["by"] == by
    for judged in (record, record["last"], record["best"]):
        low, high = judged["robust"]["intervals"]["worst"]
        assert low <= judged["robust"]["worst"] <= high
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]

    def figure(line: dict) -> float:
        robust = line["validation"]["robust"]
        return robust["overall"] if by == "overall" else min(v for v in robust["per_class"] if v is not None)

    assert figure(lines[record["best"]["epoch"]]) == max(map(figure, lines))
