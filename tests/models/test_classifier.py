"""The classifier around any backbone, a second network from training to export, and runs of earlier versions."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional

import srat_fast
from srat_fast.attacks.pgd import pgd
from srat_fast.attacks.shadow import Shadow
from srat_fast.attacks.threat import LInfBall
from srat_fast.errors import Interrupted, UserError
from srat_fast.models.build import adjusted, build_model, check_batch_norm, forward_flops, planned_flops
from srat_fast.models.classifier import Classifier
from srat_fast.models.files import load_model, save_model
from srat_fast.models.resnet import resnet18
from srat_fast.recipe import build_recipe
from srat_fast.reference import Reference
from srat_fast.registry import model as models
from srat_fast.report.collect import find_runs
from srat_fast.sweep.plan import work_of
from srat_fast.training.step import FastEngine
from tests.training.short_runs import StopAfter, assert_equal_runs, record

EARLIER = Path(__file__).parent / "data"
BUILT_IN = ["resnet18", "resnet34", "resnet50", "preactresnet18", "wrn-28-10", "wrn-34-10", "wrn-70-16"]


class Plain(nn.Module):
    """No BatchNorm, no buffers, nothing to fold, a bias and a weight of its own; it averages the map itself."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.feature_dim = 2 * width
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.norm = nn.GroupNorm(1, width)
        self.scale = nn.Parameter(torch.ones(width, 1, 1))
        self.out = nn.Linear(width, 2 * width)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return self.out(functional.relu(self.scale * self.norm(self.stem(images))).mean(dim=(2, 3)))


class Partly(nn.Module):
    """One BatchNorm that follows a convolution with a bias, and one in front, which cannot be folded."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.feature_dim = width
        self.first = nn.BatchNorm2d(channels)
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.second = nn.BatchNorm2d(width)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.second(self.stem(self.first(images))))

    def folds(self) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        return [(self.stem, self.second)]


@pytest.fixture(autouse=True)
def networks() -> Iterator[None]:
    models("plain")(Plain)
    models("partly")(Partly)
    yield
    for name in ("plain", "partly"):
        models.remove(name)


def short(network: str, **changes: object) -> srat_fast.Recipe:
    fields = {
        "data.name": "digits", "data.limit": 40, "data.ratio": 2, "data.test_limit": 20, "model.name": network,
        "model.width": 4, "model.feature_dim": 4, "optim.epochs": 1, "optim.batch_size": 20, "attack.steps": 2,
        "eval_attack.steps": 2, "optim.ema_decay": 0.5, "run.device": "cpu", "run.precision": "fp32",
    }  # fmt: skip
    return build_recipe(None, fields | {name.replace("__", "."): value for name, value in changes.items()})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"run__engine": "reference"},
        {"run__precision": "bf16", "attack__bn": "running", "model__normalize": "dataset"},
    ],
)
def test_a_second_network_from_training_to_export(changes, tmp_path) -> None:
    recipe, run = short("plain", **changes), tmp_path / "run"
    srat_fast.train(recipe, tmp_path / "whole")
    with pytest.raises(Interrupted):
        srat_fast.train(recipe, run, stops=StopAfter(1))
    srat_fast.train(recipe, run, resume="must")
    assert_equal_runs(tmp_path / "whole", run)
    kept = record(run)
    assert kept["recipe"]["model"]["name"] == "plain"
    assert kept["flops_per_image"] == planned_flops(recipe)
    model = srat_fast.load(run)
    assert (model.name, model.classes, model.channels, model.width) == ("plain", 10, 1, 4)
    images = torch.rand(3, 1, 8, 8)
    formats = "safetensors" if changes else "safetensors,torch-export"
    made = srat_fast.export(run, formats, real_batch=False)
    torch.testing.assert_close(srat_fast.load(made["out"])(images), model(images), rtol=0, atol=0)
    assert "plain of width 4" in (Path(made["out"]) / "MODEL_CARD.md").read_text()
    evaluated = srat_fast.evaluate(run, "clean", weights="ema", device="cpu")["clean"]
    assert evaluated["overall"] == kept["ema"]["standard"]["overall"]
    with pytest.raises(
        UserError,
        match=r"--format = 'robustbench': RobustBench has resnet18, .*model\.name of this run is plain",
    ):
        srat_fast.export(run, "robustbench")


@pytest.mark.parametrize("network", ["plain", "partly", *BUILT_IN[1:]])
@pytest.mark.parametrize("bn", ["batch", "running"])
def test_both_engines_agree_on_other_networks(network, bn, device) -> None:
    ball = {"attack__threat": "l2", "attack__epsilon": 0.8, "attack__step_size": 0.3}
    if bn == "batch":
        ball = {"attack__epsilon": 0.1, "attack__step_size": 0.05}
    recipe = short(network, attack__bn=bn, **ball, optim__lr=0.01, model__width=2).resolve()
    model = build_model(recipe, classes=4, channels=3, moments=None).to(device, torch.float64)
    counts, under = [9, 5, 3, 3], [2, 3]
    fast = FastEngine(recipe, copy.deepcopy(model), counts, under)
    slow = Reference(recipe, model, counts, under)
    generator = torch.Generator().manual_seed(0)
    for engine in (fast, slow):
        engine.start_epoch(0)
    for _ in range(3):
        images = torch.rand(6, 3, 8, 8, generator=generator, dtype=torch.float64).to(device)
        labels = torch.randint(0, 4, (6,), generator=generator).to(device)
        start = torch.rand(1, generator=generator)  # of the noise that both draw
        fast.noise.manual_seed(int(1000 * start))
        slow.noise.manual_seed(int(1000 * start))
        assert torch.allclose(fast.attack(images, labels), slow.attack(images, labels), rtol=0, atol=1e-12)
        fast.noise.manual_seed(1)
        slow.noise.manual_seed(1)
        fast.step(images, labels)
        slow.step(images, labels)
        for (name, ours), theirs in zip(
            fast.model.state_dict().items(), slow.model.state_dict().values(), strict=True
        ):
            assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-10), name


@pytest.mark.parametrize(
    ("network", "norms"),
    [
        ("resnet18", 20),
        ("resnet34", 36),
        ("resnet50", 53),
        ("partly", 2),
        ("preactresnet18", 17),
        ("wrn-28-10", 25),
        ("wrn-34-10", 31),
        ("wrn-70-16", 67),
    ],
)
def test_folded_and_unfolded_logits_and_gradients_agree(network, norms, monkeypatch, device) -> None:
    torch.manual_seed(0)
    model = Classifier(network, 5, width=4).train()
    for _ in range(3):
        model(torch.rand(16, 3, 16, 16))
    model = model.to(device, torch.float64)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight, 1.0, 0.2)
        nn.init.normal_(norm.bias)
    folded = Shadow(model, dtype=torch.float64, bn="running")
    monkeypatch.setattr(Classifier, "folds", lambda self: [])
    unfolded = Shadow(model, dtype=torch.float64, bn="running")
    left = [sum(isinstance(m, nn.BatchNorm2d) for m in each.modules()) for each in (folded, unfolded)]
    pre_activation = network.startswith(("preact", "wrn"))
    assert left == [1 if network == "partly" else norms if pre_activation else 0, norms]
    images = torch.rand(4, 3, 16, 16, dtype=torch.float64, device=device).requires_grad_(True)
    found = []
    for network_ in (folded, unfolded, model.eval()):
        logits = network_(images)
        found.append((logits, torch.autograd.grad(logits.square().sum(), images)[0]))
    for logits, gradient in found[1:]:
        assert torch.allclose(logits, found[0][0], rtol=1e-12, atol=1e-12)
        assert torch.allclose(gradient, found[0][1], rtol=1e-9, atol=1e-12)


def test_bf16_casts_convolutions_and_linear_layers_of_any_backbone(device) -> None:
    model = Classifier("plain", 5, width=4).to(device)
    shadow = Shadow(model, dtype=torch.bfloat16, bn="batch")
    kinds = {name: tuple(t.dtype for t in (module.weight, module.bias)) for name, module in (
        ("stem", shadow.network.backbone.stem), ("out", shadow.network.backbone.out),
        ("norm", shadow.network.backbone.norm), ("linear", shadow.network.linear),
    )}  # fmt: skip
    half, full = (torch.bfloat16,) * 2, (torch.float32,) * 2
    assert kinds == {"stem": half, "out": half, "norm": full, "linear": full}
    images = torch.rand(4, 3, 8, 8, device=device)
    with torch.no_grad():
        model.backbone.stem.bias.add_(1.0)
        shadow.refresh()
        assert torch.allclose(shadow(images), model(images), atol=0.05)
    assert shadow(images).dtype == torch.float32


def test_state_dicts_have_plain_names_in_order_and_are_loaded_strictly() -> None:
    model = Classifier("resnet18", 10, width=4, projection_dim=6, mean=torch.rand(3), std=torch.rand(3) + 0.1)
    state = model.state_dict()
    names = list(state)
    assert names[:3] == ["mean", "std", "conv1.weight"]
    assert names[-6:-3] == ["linear.weight", "linear.bias", "projection.0.weight"]
    assert names[2:-6] == list(resnet18(3, 4).state_dict())
    assert [name.removeprefix("backbone.") for name, _ in model.named_parameters()] == [
        name for name in names if not name.endswith(("mean", "var", "std", "tracked"))
    ]
    other = copy.deepcopy(model)
    other.load_state_dict(state)
    assert list(nn.Sequential(other).state_dict())[2] == "0.conv1.weight"
    with torch.no_grad():
        model.backbone.conv1.weight.zero_()  # a copy's hooks are its own
    assert float(other.state_dict()["conv1.weight"].abs().sum()) > 0
    wrong = dict(state, extra=torch.zeros(1))
    del wrong["layer1.0.conv1.weight"]
    with pytest.raises(RuntimeError) as error:
        other.load_state_dict(wrong)
    assert 'Missing key(s) in state_dict: "layer1.0.conv1.weight"' in str(error.value)
    assert 'Unexpected key(s) in state_dict: "extra"' in str(error.value)


def test_a_backbone_that_does_not_fit_is_refused() -> None:
    class Taken(Plain):
        def __init__(self, channels: int, width: int) -> None:
            super().__init__(channels, width)
            self.linear = nn.Linear(1, 1)

    class Wrong(Plain):
        def features(self, images: torch.Tensor) -> torch.Tensor:
            return super().features(images)[:, 1:]

    try:
        models("taken")(Taken)
        models("wrong")(Wrong)
        with pytest.raises(
            UserError, match=r"model\.name = 'taken': its backbone has a linear, which is the class"
        ):
            Classifier("taken", 3, width=4)
        with pytest.raises(UserError, match=r"its features must be \[B, 8\] or \[B, 8, h, w\], not \[2, 7\]"):
            Classifier("wrong", 3, width=4)(torch.rand(2, 3, 8, 8))
    finally:
        models.remove("taken")
        models.remove("wrong")
    with pytest.raises(
        UserError, match=r"model\.name = 'resnet19': one of resnet18, .*; did you mean resnet18\?"
    ):
        Classifier("resnet19", 3)


def test_a_file_says_what_network_it_is_of(tmp_path) -> None:
    file = tmp_path / "m.safetensors"
    model = Classifier("partly", 5, channels=1, width=3, mean=torch.rand(1), std=torch.rand(1) + 0.1).eval()
    save_model(file, model, {})
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(srat_fast.load(file)(images), model(images), rtol=0, atol=0)
    models.remove("partly")
    for read, field in ((load_model, "RUN"), (srat_fast.load, "path")):
        with pytest.raises(UserError) as error:
            read(file)
        assert error.value.line() == (
            f"{field} = {str(file)!r}: its network partly is not registered: one of {', '.join(models)} is known, "
            "others by --plugin FILE.py"
        )
    with pytest.raises(UserError, match=r"model\.name = 'partly'"):
        build_recipe(None, {"model.name": "partly"})


def test_a_cosine_head_is_its_formula(tmp_path) -> None:
    """RoBal's form: gamma on the weight's norm; under the backbone's name of the head, in float32, in its file."""
    torch.manual_seed(0)
    model = Classifier(
        "wrn-28-10", 5, channels=1, width=4, head="cosine", head_scale=10, head_gamma=1 / 32
    ).eval()
    state, images = model.state_dict(), torch.rand(3, 1, 8, 8)
    assert [name for name in state if name.startswith("fc.")] == ["fc.weight", "fc.shift"]
    f = model.features(images).detach().double().numpy()
    w = state["fc.weight"].double().numpy()
    cosines = (f / np.linalg.norm(f, axis=1, keepdims=True)) @ (
        w / (np.linalg.norm(w, axis=1, keepdims=True) + 1 / 32)
    ).T
    assert np.allclose(model(images).detach(), 10 * cosines, rtol=1e-5, atol=1e-5)
    features = model.features(images)
    expected = model.linear(features)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model.classify(features), expected, rtol=0, atol=0)
    zeros = torch.zeros(2, model.feature_dim, requires_grad=True)
    logits = model.classify(zeros)
    logits.sum().backward()
    torch.testing.assert_close(logits, torch.zeros(2, 5), rtol=0, atol=0)
    assert zeros.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.linear.parameters())
    save_model(tmp_path / "m.safetensors", model, {})
    again = srat_fast.load(tmp_path / "m.safetensors")
    assert again.arguments() == model.arguments()
    torch.testing.assert_close(again(images), model(images), rtol=0, atol=0)
    assert forward_flops(model, 8) == forward_flops(Classifier("wrn-28-10", 5, channels=1, width=4), 8)
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(UserError, match=r"those of wrn-28-10: a cosine head's scale is in the header of its"):
        srat_fast.load(tmp_path / "m.pt", model="wrn-28-10")
    with pytest.raises(
        UserError, match=r"model\.head = 'cosinus': one of linear, cosine, scaled; did you mean cosine"
    ):
        Classifier("plain", 5, head="cosinus")


@pytest.mark.parametrize("bn", ["batch", "running"])
def test_the_attack_s_copy_has_the_cosine_head(bn, device) -> None:
    model = (
        Classifier("resnet18", 5, width=4, head="cosine", head_scale=3.0, head_gamma=0.1).train().to(device)
    )
    images = torch.rand(4, 3, 8, 8, device=device)
    shadow = Shadow(model, dtype=torch.float32, bn=bn)
    with torch.no_grad():
        model.linear.weight.mul_(2.0)
        shadow.refresh()
        expected = model.train(bn == "batch")(images)
        assert torch.allclose(shadow(images), expected, atol=1e-5)


COUNTS = [50, 20, 8, 2]


def adjusting(**changes: float) -> srat_fast.Recipe:
    return short(
        "plain", method="ce", **{f"model__{name}": value for name, value in changes.items()}
    ).resolve()


@pytest.mark.parametrize(
    "changes",
    [
        {"inference_prior": 1.5},
        {"inference_norm": 0.7},
        {"inference_counts": 0.3},
        {"inference_norm": 1.0, "inference_counts": 0.5, "inference_prior": 2.0},
        {"inference_prior": 0.4, "head": "cosine", "head_scale": 2.0, "head_gamma": 0.25},
        {"inference_scale": 5.0, "inference_prior": 0.4, "head": "cosine", "head_gamma": 0.25},
    ],
)
def test_inference_adjustments_are_their_formulas(changes, tmp_path) -> None:
    torch.manual_seed(0)
    head = {name: value for name, value in changes.items() if name.startswith("head")}
    model = Classifier("plain", 4, channels=1, width=4, **head)
    raw = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made = adjusted(model, adjusting(**changes), COUNTS)
    torch.testing.assert_close(dict(model.state_dict()), raw, rtol=0, atol=0, msg="a copy is adjusted")
    f = torch.randn(6, model.feature_dim)
    w, n = raw["linear.weight"].double().numpy(), np.array(COUNTS, np.float64)
    if head:
        z = (
            head.get("head_scale", 1.0)
            * (f.double() / f.double().norm(dim=1, keepdim=True)).numpy()
            @ (w / (np.linalg.norm(w, axis=1, keepdims=True) + 0.25)).T
        )
    else:
        norms = np.linalg.norm(w, axis=1, keepdims=True)
        z = f.double().numpy() @ (w / norms ** changes.get("inference_norm", 0.0)).T
        if "inference_norm" not in changes:
            z = z + raw["linear.bias"].double().numpy()
    z = z / n ** changes.get("inference_counts", 0.0) * changes.get("inference_scale", 1.0)
    z = z - changes.get("inference_prior", 0.0) * np.log(n / n.sum())
    assert np.allclose(made.classify(f).detach(), z, rtol=1e-5, atol=1e-5)
    save_model(tmp_path / "m.safetensors", made, {})
    again = load_model(tmp_path / "m.safetensors")  # a plain network, with no further attribute
    torch.testing.assert_close(again.classify(f), made.classify(f), rtol=0, atol=0)
    assert set(again.arguments()) == set(model.arguments())


def test_without_adjustment_the_network_itself_is_judged() -> None:
    model = Classifier("plain", 4, channels=1, width=4)
    assert adjusted(model, adjusting(), COUNTS) is model


def test_an_attack_sees_the_adjustment() -> None:
    torch.manual_seed(0)
    model = Classifier("plain", 4, width=4).eval()
    made = adjusted(model, adjusting(inference_prior=1.0), COUNTS).eval()
    images, labels = torch.rand(8, 3, 8, 8), torch.arange(8) % 4
    attack = {"ball": LInfBall(0.1), "steps": 5, "step_size": 0.05}
    raw, seen = (pgd(each, images, labels, **attack) for each in (model, made))
    assert not torch.equal(raw, seen)
    with torch.no_grad():
        on_raw, on_seen = (functional.cross_entropy(made(x), labels) for x in (raw, seen))
    assert on_seen > on_raw


def test_batch_norm_is_asked_of_the_network() -> None:
    recipe = build_recipe(None, {"data.name": "digits", "optim.batch_size": 32}).resolve()
    for name in ("plain", "partly"):
        check_batch_norm(recipe, 65, Classifier(name, 10, channels=1, width=4))


def test_work_is_counted_on_the_network() -> None:
    recipe = short("plain", data__name="cifar10", data__limit=None, method="ce", optim__epochs=3)
    forward = 2 * (32 * 32 * 3 * 9 * 4 + 4 * 8 + 8 * 10)  # convolution, linear layers; two operations each
    state = torch.random.get_rng_state()
    assert forward_flops(Classifier("plain", 10, width=4), 32) == forward
    assert work_of(recipe, [60, 40]) == 7 * forward * 100 * 3
    torch.random.set_rng_state(state)


@pytest.fixture
def earlier(tmp_path) -> Path:
    """Runs of the commit 789620c, of ResNet-18 at width 1: one finished, one that was stopped after two steps."""
    return Path(shutil.copytree(EARLIER, tmp_path / "earlier"))


def test_runs_of_earlier_versions_load_evaluate_and_report(earlier) -> None:
    run = earlier / "finished"
    assert "name" not in record(run)["recipe"]["model"]
    model = srat_fast.load(run)
    assert (model.name, model.width, model.projection_dim, model.normalize) == ("resnet18", 1, 4, True)
    state = safetensors.torch.load_file(run / "model.safetensors")
    torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0)
    attacks = srat_fast.evaluate(run, "clean,pgd-3", device="cpu")
    for name, kind in (("clean", "standard"), ("pgd-3", "robust")):
        assert abs(attacks[name]["overall"] - record(run)[kind]["overall"]) <= 0.025  # one image of 40
    assert find_runs([run])[0].fields["model.name"] == "resnet18"
    made = srat_fast.export(run, real_batch=False)
    header = (Path(made["out"]) / "model.safetensors").read_bytes()
    described = json.loads(
        json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]["network"]
    )
    assert described == {"name": "resnet18", "classes": 10, "channels": 1, "width": 1, "projection_dim": 4}


def test_runs_of_earlier_versions_are_resumed(earlier) -> None:
    run = earlier / "interrupted"
    recipe = build_recipe(str(run / "recipe.json"))
    srat_fast.train(recipe, run, resume="must")
    for file in ("model.safetensors", "ema.safetensors"):
        ours, theirs = (
            safetensors.torch.load_file(earlier / each / file) for each in ("interrupted", "finished")
        )
        assert list(ours) == list(theirs)
        for name, tensor in ours.items():
            # bit-equal on the machine that they were made on; another one rounds in another way
            assert torch.allclose(tensor, theirs[name], rtol=1e-3, atol=1e-4), name
