"""Stages: a plan as recipe data, each against the reference across its edge, and runs that are stopped at any point."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from srat_fast import load
from srat_fast.data.split import load_split
from srat_fast.errors import Interrupted, UserError
from srat_fast.models.build import adjusted, stage_flops, training_flops
from srat_fast.progress import ProgressView
from srat_fast.recipe import build_recipe, recipe_from_dict, stages_of, to_toml
from srat_fast.recipe.stages import edges_of
from srat_fast.report.collect import find_runs
from srat_fast.report.figures.curves import curve_drawings
from srat_fast.report.groups import group_runs
from srat_fast.sharing.card import model_card
from srat_fast.training.feedback import Facts, Feedback, Frl
from srat_fast.training.fit import EpochRunner
from srat_fast.training.setup import prepare, resolve_hardware
from srat_fast.training.trainer import train
from tests.training import tape
from tests.training.short_runs import StopAfter, assert_equal_runs, record, short
from tests.training.test_capture import engine_of, loader_of, recipe_of

#: two stages of a few steps each
FEW = {
    "data__limit": 60,
    "data__test_limit": 10,
    "attack__steps": 1,
    "eval_attack__steps": 1,
    "model__width": 4,
}


def plan(**changes: Any) -> Any:
    return build_recipe(
        "paper", {name.replace("__", "."): value for name, value in changes.items()}
    ).resolve()


def test_lengths_share_the_epochs_of_the_run() -> None:
    assert edges_of((40, 60), 100) == [0, 40, 100]
    assert edges_of((40, 60), 200) == [0, 80, 200]
    assert edges_of((190, 10), 4) == [0, 3, 4], "each has an epoch at least"
    assert edges_of((1, 98, 1), 3) == [0, 1, 2, 3]
    assert edges_of((5, 1, 1), 3) == [0, 1, 2, 3]


def test_a_stage_of_another_row_has_that_rows_settings_and_the_runs_network() -> None:
    recipe = plan(method="robustlt:taet", optim__epochs=10, model__width=32, loss__harl_mean=0.5)
    clean, robust = stages_of(recipe)
    assert (clean.first, clean.end, robust.end) == (0, 4, 10)
    assert (clean.recipe.row.base, clean.recipe.row.adversarial, clean.recipe.loss.harl_mean) == (
        "ce",
        False,
        0.0,
    )
    assert (robust.recipe.row.base, robust.recipe.row.adversarial, robust.recipe.loss.harl_mean) == (
        "harl",
        True,
        0.5,
    )
    assert (clean.recipe.attack.radius, robust.recipe.attack.radius) == ("same", "count")
    assert clean.recipe.model.width == robust.recipe.model.width == 32
    assert stages_of(plan(method="harl"))[0].recipe.row == plan(method="harl").row
    assert len(stages_of(plan(method="taet", stages__lengths=()))) == 1
    ratio = {"loss__weight_rule": "ratio", "loss__weight_ratio": 9.0}
    both = stages_of(
        plan(method="cb-reweight", stages__lengths=(1, 1), stages__method=("natural", "method"), **ratio)
    )
    assert [stage.recipe.loss.weight_ratio for stage in both] == [None, 9.0]
    both = stages_of(plan(method="ce", stages__lengths=(1, 1), stages__method=("ldam", "method")))
    assert [stage.recipe.optim.clip_norm for stage in both] == [1.0, 0.0], "what LDAM on a linear head needs"


def test_a_stage_on_clean_images_goes_without_what_an_attack_has() -> None:
    for changes in (
        {"method": "robustlt:at-bsl"},
        {"method": "ce", "attack__radius": "vector", "attack__radius_factors": [1.0] * 10},
        {"method": "ce", "attack__stop": "first-wrong", "loss__branch": "clean", "attack__radius_ramp": 0.5},
    ):
        recipe = plan(stages__lengths=(1, 1), stages__examples=("clean", "method"), **changes)
        clean, robust = (stage.recipe for stage in stages_of(recipe))
        assert not clean.row.adversarial
        assert (clean.attack.radius, clean.attack.radius_ramp, clean.attack.stop) == ("same", 0.0, "off")
        assert clean.loss.branch == "adversarial"
        assert robust.attack == recipe.attack
        assert robust.loss == recipe.loss


def test_a_plan_is_part_of_a_runs_identity_and_of_its_files() -> None:
    taet, harl = (build_recipe(None, {"method": name}) for name in ("taet", "harl"))
    assert taet.fingerprint() != harl.fingerprint()
    own = build_recipe(None, {"method": "harl", "stages.lengths": "1, 3", "stages.examples": "clean, method"})
    assert own.stages.examples == ("clean", "method")
    assert recipe_from_dict(own.to_dict()) == own
    resolved = own.resolve()
    assert recipe_from_dict(resolved.to_dict()).fingerprint() == own.fingerprint() == resolved.fingerprint()
    assert "lengths = [1, 3]" in to_toml(own)


def test_a_recipe_file_has_a_plan(tmp_path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text('method = "at-bsl"\n[stages]\nlengths = [3, 1]\nexamples = ["clean", "method"]\n')
    first, second = stages_of(build_recipe(str(path)).resolve())
    assert (first.recipe.row.adversarial, second.recipe.row.adversarial) == (False, True)
    assert first.recipe.row.base == second.recipe.row.base == "adjusted"


def test_rates_of_a_stage() -> None:
    fields = {
        "optim__epochs": 20,
        "optim__milestones": "4,12",
        "optim__decay": 0.5,
        "optim__warmup_epochs": 0,
    }
    chosen = {"stages__lengths": (10, 10), "stages__lr": (0, 0.2)}
    for schedule, expected in (
        ("constant", {10: 0.2, 19: 0.2}),
        ("cosine", {10: 0.2, 15: 0.1, 19: 0.1 * (1 + math.cos(0.9 * math.pi))}),
        ("half", {10: 0.2, 14: 0.2, 15: 0.02, 19: 0.02}),
    ):
        first, second = stages_of(plan(**fields, **chosen, stages__schedule=("run", schedule)))
        assert [first.rate(epoch) for epoch in (3, 4)] == pytest.approx([0.1, 0.05])
        for epoch, rate in expected.items():
            assert second.rate(epoch) == pytest.approx(rate), (schedule, epoch)
    first, second = stages_of(plan(**fields, stages__lengths=(10, 10)))
    assert second.rate(11) == pytest.approx(0.05)
    assert second.rate(12) == pytest.approx(0.025), "the run's own schedule goes on"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stages.train": "all,head"}, r"stages\.train = \['all', 'head'\]: needs stages\.lengths"),
        (
            {"stages.lengths": "1,1", "stages.sampler": "balanced"},
            r"stages\.sampler = \['balanced'\]: needs 2 entries, one for each of stages\.lengths",
        ),
        ({"stages.lengths": "1,1", "stages.train": "all,heads"}, "a list of all, head, .*; did you mean head"),
        ({"stages.lengths": "1,0"}, r"stages\.lengths = '1,0': a list of integers >= 1"),
        ({"stages.lengths": "1,1", "optim.epochs": 1}, r"optim\.epochs = 1: at least 2, one for each of"),
        (
            {"stages.lengths": "1,1", "stages.schedule": "run,cosine"},
            r"stages\.lr = 0\.0: a number > 0 with stages\.schedule = cosine",
        ),
        ({"stages.lengths": "1", "stages.lr": "0.1"}, r"stages\.lr = 0\.1: 0 with stages\.schedule = run"),
        ({"stages.lengths": "1,1", "stages.train": "all,scales"}, r"model\.head = 'linear': scaled and a stage"),
        ({"model.head": "scaled"}, r"model\.head = 'scaled': scaled and a stage that trains scales"),
        (
            {"stages.lengths": "1,1", "stages.method": "he,method"},
            r"stages\.method = 'he': he needs model\.head = cosine, which is one for the whole run",
        ),
        (
            {"stages.lengths": "1,1", "stages.method": "method,cfa"},
            r"stages\.method = 'cfa': the rule cfa of cfa is possible in the run's own method only",
        ),
        (
            {"method": "trades", "stages.lengths": "1,1", "stages.examples": "clean,method"},
            "the term kl compares adversarial with clean images",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_plans_that_do_not_hold_are_refused(changes, says) -> None:
    with pytest.raises(UserError, match=says):
        build_recipe(None, {"method": "ce"} | changes)


RUNS: dict[str, dict[str, Any]] = {
    "taet": {"optim__epochs": 4},
    "srat:crt": {"optim__epochs": 4, "stages__lengths": (2, 2)},
    "frl-tuned": {"optim__epochs": 4, "stages__lengths": (2, 2), "feedback__frl_slack": 0.0},
    "lws": {"optim__epochs": 4, "stages__lengths": (2, 2), "data__policy": "randaugment"},
}
#: request to stop -> where that is: in the first stage, between the two, in the second
STOPS = [(1, "epoch 1, step 1"), (10, "epoch 3, step 0"), (11, "epoch 3, step 1")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Any:
    """The uninterrupted run of a method, made once."""
    made: dict[tuple[str, str], Path] = {}

    def run(method: str, engine: str) -> Path:
        if (method, engine) not in made:
            made[method, engine] = tmp_path_factory.mktemp("stages") / "whole"
            train(short(method=method, run__engine=engine, **FEW, **RUNS[method]), made[method, engine])
        return made[method, engine]

    return run


@pytest.mark.parametrize(
    ("method", "engine", "stop"),
    [
        *(("taet", "fast", stop) for stop in STOPS),
        ("srat:crt", "fast", STOPS[1]),
        ("lws", "fast", STOPS[2]),
        ("frl-tuned", "fast", (12, "epoch 3, step 1")),
        ("lws", "reference", STOPS[2]),
    ],
    ids=str,
)
def test_a_run_that_was_stopped_goes_on_across_the_edge(method, engine, stop, whole, tmp_path) -> None:
    boundary, where = stop
    recipe = short(method=method, run__engine=engine, **FEW, **RUNS[method])
    with pytest.raises(Interrupted, match=f"{where};"):
        train(recipe, tmp_path / "run", stops=StopAfter(boundary))
    train(recipe, tmp_path / "run", resume="must")
    assert_equal_runs(whole(method, engine), tmp_path / "run")


def test_a_record_knows_the_stages_of_its_epochs(whole) -> None:
    out = whole("taet", "fast")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == [0, 0, 1, 1]
    assert [line["zero_gradient_share"] is None for line in lines] == [True, True, False, False]
    found = record(out)
    clean, robust = found["stages"]
    assert (clean["first_epoch"], clean["epochs"], clean["method"], clean["adversarial"]) == (
        0,
        2,
        "natural",
        False,
    )
    assert (robust["first_epoch"], robust["epochs"], robust["method"], robust["adversarial"]) == (
        2,
        2,
        "taet",
        True,
    )
    assert (clean["flops_per_image"] / 3, robust["flops_per_image"] / 5) == pytest.approx(
        (clean["flops_per_image"] / 3,) * 2
    )
    assert found["flops_per_image"] == (clean["flops_per_image"] + robust["flops_per_image"]) / 2
    assert found["best"]["epoch"] >= 2, "what the first stage leaves is another method"


def test_the_card_of_an_export_tells_of_stages_and_of_the_weights_begun_with(whole) -> None:
    def text(about: dict[str, Any]) -> str:
        return model_card(
            about, weights="last", files=[], image=(1, 8), normalised=False, checked_on=["clean"]
        )

    taet, lws = (record(whole(method, "fast")) for method in ("taet", "lws"))
    assert (
        "| stages | 2 epochs natural, clean images, uniform draws, trained: all; "
        "2 epochs taet, adversarial images, uniform draws, trained: all |"
    ) in text(taet)
    assert "2 epochs lws, adversarial images, balanced draws, trained: scales |" in text(lws)
    assert "| last layer | linear, the trained factors of its classes multiplied in |" in text(lws)
    assert "begun with" not in text(lws)
    lws["recipe"]["model"]["start_sha256"] = "ab"
    assert "| begun with | weights of another training (SHA-256 `ab`) |" in text(lws)


@pytest.mark.parametrize(("method", "graphs"), [("taet", [2, 6, 6]), ("srat:crt", [4, 8, 8])])
def test_captured_stages_are_recorded_anew(method, graphs, monkeypatch) -> None:
    """Of attack and update for each of two shapes; a stage on clean images has no attack."""
    tape.install(monkeypatch)
    changes = {"method": method, "stages__lengths": (1, 2)}
    eager, captured = (engine_of(recipe_of(run__capture=choice, **changes)) for choice in ("off", "on"))
    made = []
    for epoch in range(3):
        eager.start_epoch(epoch)
        captured.start_epoch(epoch)
        for images, labels in loader_of().epoch(epoch):
            theirs, ours = eager.step(images, labels), captured.step(images, labels)
            torch.testing.assert_close(ours.losses["total"], theirs.losses["total"])
        made.append(tape.Graph.made)
    assert made == graphs
    for mine, other in zip(captured.state(), eager.state(), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("method", ["crt", "lws", "srat:trades-awp"])
def test_features_that_rest_stay_as_they_are(method) -> None:
    """Weights and BatchNorm of all but the head, in attack and update; its momentum begins anew."""
    changes: dict[str, Any] = {"method": method, "stages__lengths": (1, 2), "run__engine": "fast"}
    if method == "srat:trades-awp":
        changes |= {"stages__train": ("all", "head"), "optim__awp_epoch": 0}
    engine = engine_of(recipe_of(**changes))
    for epoch in range(3):
        engine.start_epoch(epoch)
        before = {name: value.clone() for name, value in engine.model.state_dict().items()}
        if epoch == 1:
            momentum = [entry["momentum_buffer"] for entry in engine.optimizer.state.values()]
            assert all(not bool(buffer.any()) for buffer in momentum)
            assert len(momentum) == (1 if method == "lws" else 2)
        for images, labels in loader_of().epoch(epoch):
            engine.step(images, labels)
        after = engine.model.state_dict()
        moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
        head = {"linear.scales"} if method == "lws" else {"linear.weight", "linear.bias"}
        if epoch:
            assert moved == head
        else:
            assert {"bn1.running_mean", "linear.weight"} < moved
            assert "linear.scales" not in moved


def test_a_new_head_is_drawn_once_and_by_the_runs_seed() -> None:
    one, other = (engine_of(recipe_of(method="crt", stages__lengths=(1, 2), seed=seed)) for seed in (0, 1))
    old = one.model.linear.weight.clone()
    for engine in (one, other):
        engine.start_epoch(1)
    new = one.model.linear.weight.clone()
    assert not torch.equal(old, new)
    assert not torch.equal(new, other.model.linear.weight)
    one.start_epoch(2)
    assert torch.equal(one.model.linear.weight, new)
    head = torch.nn.Linear(one.model.feature_dim, 4)
    assert float(new.detach().abs().max()) <= float(head.weight.detach().abs().max()) * 1.1


def test_scales_are_part_of_the_weights_that_are_saved(whole) -> None:
    out = whole("lws", "fast")
    model = load(out)
    assert type(model.linear) is torch.nn.Linear
    assert "linear.scales" not in model.state_dict()
    assert json.loads((out / "recipe.json").read_text())["model"]["head"] == "scaled"
    engine = engine_of(recipe_of(method="lws", stages__lengths=(1, 2)))
    with torch.no_grad():
        engine.model.linear.scales.copy_(torch.tensor([1.0, 2.0, 0.5, 3.0]))
    images, _ = next(iter(loader_of().epoch(0)))
    served = adjusted(engine.model, engine.recipe, [8, 6, 4, 2])
    assert type(served.linear) is torch.nn.Linear
    torch.testing.assert_close(served.eval()(images), engine.model.eval()(images))


def test_the_average_begins_anew_where_other_parameters_are_trained(tmp_path) -> None:
    setup = prepare(*resolve_hardware(short(method="crt", stages__lengths=(1, 2), **FEW).resolve()))
    runner = EpochRunner(setup, ProgressView("", Console(quiet=True)), [1, 1], tmp_path)
    runner.run()
    runner.advance()
    average, weights = runner.ema.module.state_dict(), setup.engine.model.state_dict()
    assert not torch.equal(average["conv1.weight"], weights["conv1.weight"])
    runner.run()
    assert torch.equal(average["conv1.weight"], weights["conv1.weight"])
    assert not torch.equal(average["linear.weight"], weights["linear.weight"])


def test_a_gated_average_that_begins_anew_is_told_of_no_epoch_since(tmp_path) -> None:
    gate = {
        "optim__ema_every": "epoch",
        "optim__ema_gate": 1.0,
        "optim__epochs": 2,
        "stages__lengths": (1, 1),
    }
    record = train(short(method="crt", **FEW, **gate), tmp_path / "run")
    assert record["warnings"][-1].startswith(
        "no moving average: in no epoch since stages.train changed had every"
    )


def test_a_frozen_stage_costs_no_backward_pass_of_weights() -> None:
    recipe = plan(method="crt", optim__epochs=20)
    first, second = stages_of(recipe)
    assert (stage_flops(100, first), stage_flops(100, second)) == (2300, 2100)
    assert training_flops(100, recipe) == (19 * 2300 + 2100) / 20
    taet = plan(method="taet", optim__epochs=100)
    assert training_flops(100, taet) == 0.4 * 300 + 0.6 * 2300


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("start") / "trained"
    train(short(method="srat-ce", optim__epochs=1, **FEW), out)
    return out


def test_a_run_begins_with_the_weights_of_another(trained, tmp_path, monkeypatch) -> None:
    sha256 = hashlib.sha256((trained / "model.safetensors").read_bytes()).hexdigest()
    recipe = short(method="faal", protocol="own", model__start=str(trained), model__normalize="none", **FEW)
    same = short(method="faal", protocol="own", model__start=str(trained / "model.safetensors"),
                 model__normalize="none", **FEW)  # fmt: skip
    assert recipe.fingerprint() == recipe.resolve().fingerprint() == same.fingerprint()
    assert (
        recipe.fingerprint()
        != recipe.replace({"model.start": str(trained / "ema.safetensors")}).fingerprint()
    )
    begun = {
        name: w.clone()
        for name, w in prepare(*resolve_hardware(recipe.resolve())).engine.model.state_dict().items()
    }
    given = load(trained).state_dict()
    assert set(given) - set(begun) == {name for name in given if name.startswith("projection.")}
    for name, weight in begun.items():
        assert torch.equal(weight, given[name]), name
    train(recipe, tmp_path / "whole")
    told = record(tmp_path / "whole")["recipe"]["model"]
    assert (told["start"], told["start_sha256"]) == (str(trained), sha256)
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "run", stops=StopAfter(1))
    resolved = recipe.resolve()
    monkeypatch.setattr("srat_fast.training.setup.start_from", None)  # its checkpoint has all that is needed
    train(resolved, tmp_path / "run", resume="must")
    assert_equal_runs(tmp_path / "whole", tmp_path / "run")


def test_a_plan_may_retrain_the_head_of_a_given_run(trained) -> None:
    recipe = short(
        method="ce", model__start=str(trained), stages__lengths="1", stages__train="new-head", **FEW
    )
    model, given = prepare(*resolve_hardware(recipe.resolve())).engine.model, load(trained)
    assert torch.equal(model.state_dict()["conv1.weight"], given.state_dict()["conv1.weight"])
    assert not torch.equal(model.linear.weight, given.linear.weight)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model__start": "nowhere"}, r"model\.start = '.*nowhere': a run directory or a \.safetensors file is needed"),
        ({"model__start": "no.safetensors"}, "cannot be read: No such file"),
        ({"model__start": "."}, "is no finished run"),
        ({"model__start_sha256": "ab"}, r"model\.start_sha256 = 'ab': has an effect with model\.start only"),
        ({"method": "frl", "protocol": "own"}, r"model\.start = 'auto': a run directory is needed: frl as published"),
        ({"model__start": "RUN", "model__start_sha256": "ab"}, r"have the SHA-256 .*, not ab \(model\.start_sha256\)"),
        ({"model__start": "RUN", "model__width": 8}, "its network has width 4, this one 8"),
        ({"model__start": "RUN", "model__head": "cosine"}, "its network has head None, this one cosine"),
        ({"model__start": "RUN", "model__normalize": "dataset"}, r"its images are not normalised \(model\.normalize\)"),
        ({"model__start": "RUN", "data__classes": "1,0,2,3,4,5,6,7,8,9"}, "its classes are others"),
        ({"model__start": "FILE", "data__classes": "1,0,2,3,4,5,6,7,8,9"}, "its classes are others"),
    ],
    ids=str,
)  # fmt: skip
def test_a_start_that_does_not_fit_is_refused(changes, says, trained) -> None:
    paths = {"RUN": str(trained), "FILE": str(trained / "ema.safetensors")}
    chosen = {name: paths.get(value, value) for name, value in (FEW | changes).items()}
    with pytest.raises(UserError, match=says) as error:
        prepare(*resolve_hardware(short(**chosen).resolve()))
    assert "\n" not in error.value.line()


def test_a_start_with_an_adjustment_for_inference_is_refused(tmp_path) -> None:
    train(short(method="tau-norm", optim__epochs=1, **FEW), tmp_path / "run")
    for start in (tmp_path / "run", tmp_path / "run" / "ema.safetensors"):
        with pytest.raises(
            UserError, match=r"its head has an adjustment for inference \(model\.inference_norm\)"
        ):
            prepare(*resolve_hardware(short(model__start=str(start), **FEW).resolve()))


def test_a_rule_measures_from_the_last_epoch_before_its_stage_on() -> None:
    recipe = build_recipe("digits", {"method": "frl-tuned", "optim.epochs": 10}).resolve()
    feedback = Feedback(recipe, load_split(recipe), Frl)
    assert [epoch for epoch in range(10) if feedback.due(epoch)] == [7, 8]
    engine = engine_of(recipe_of(method="frl-tuned", stages__lengths=(1, 1, 1), stages__method="trades,method,ce",
                                 stages__schedule="run,run,run", stages__lr="0,0,0"))  # fmt: skip
    effects = {"weights": [1.0, 2.0, 3.0, 4.0], "pair": [4.0, 3.0, 2.0, 1.0]}
    assert isinstance(engine.rule(Facts(recipe, [1] * 10)), Frl)
    engine.start_epoch(0)
    engine.steer(effects)
    assert engine.objective.found == {}
    for epoch, weights in ((1, effects["weights"]), (2, [1.0] * 4)):
        engine.start_epoch(epoch)
        assert engine.objective.class_weights.tolist() == weights


def test_curves_show_where_a_stage_begins(whole, trained) -> None:
    (drawing,) = curve_drawings(*group_runs(find_runs([whole("taet", "fast")])))
    assert "Dotted lines: a further stage begins." in drawing.caption
    assert "A further stage begins with epoch 3." in drawing.text
    shown = drawing.draw().axes
    assert all([line.get_xdata()[0] for line in place.get_lines()][-1] == 2.5 for place in shown)
    (plain,) = curve_drawings(*group_runs(find_runs([trained])))
    assert "stage" not in plain.caption + plain.text
