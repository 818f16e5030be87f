"""Every network of the registry: published size, any image, one run from the command line, files of others, timm."""

from __future__ import annotations

import sys
import types

import pytest
import safetensors.torch
import torch
from torch import nn

import srat_fast
from srat_fast.cli import main
from srat_fast.errors import Interrupted, MissingPackage, UserError
from srat_fast.evaluation.audit.run import _surrogate
from srat_fast.evaluation.subject import open_subject
from srat_fast.models.build import forward_flops
from srat_fast.models.classifier import Classifier
from srat_fast.models.files import save_model
from srat_fast.recipe import build_recipe
from srat_fast.sharing.zoo import zoo_state
from tests.sharing import zoo
from tests.training.short_runs import StopAfter, assert_equal_runs, record

#: parameters with ten classes, and multiply-adds of a 32 x 32 image in billions
PUBLISHED = {
    "resnet18": (11_173_962, 0.56),
    "preactresnet18": (11_172_170, 0.56),
    "resnet34": (21_282_122, 1.16),
    "resnet50": (23_520_842, 1.30),
    "wrn-28-10": (36_479_194, 5.24),
    "wrn-34-10": (46_160_474, 6.66),
    "wrn-70-16": (266_796_506, 38.76),
}
ADDED = [name for name in PUBLISHED if name != "resnet18"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_size_and_work_are_the_published_ones(name: str) -> None:
    parameters, billions = PUBLISHED[name]
    with torch.device("meta"):
        model = Classifier(name, 10)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert forward_flops(model, 32) / 2e9 == pytest.approx(billions, abs=0.005)


def test_the_work_of_a_wide_resnet_by_hand() -> None:
    """WRN-28-10: per group 8 convolutions of 3x3, the first of which changes the channels, beside a 1x1 shortcut."""
    work, inputs = 32**2 * 9 * 3 * 16, 16
    for size, outputs in ((32, 160), (16, 320), (8, 640)):
        work += size**2 * outputs * (9 * (inputs + 7 * outputs) + inputs)
        inputs = outputs
    assert forward_flops(Classifier("wrn-28-10", 10), 32) == 2 * (work + 640 * 10)


@pytest.mark.parametrize("name", ADDED)
def test_any_image_and_any_width(name: str) -> None:
    for size, channels, width in ((8, 1, 1), (19, 3, 5), (32, 2, 4)):
        model = Classifier(name, 7, channels=channels, width=width, projection_dim=3).eval()
        images = torch.rand(2, channels, size, size)
        assert model(images).shape == (2, 7)
        assert model.features(images).shape == (2, model.feature_dim)


def test_width_of_a_wide_resnet_is_its_k() -> None:
    model = Classifier("wrn-28-10", 10, width=32)  # WideResNet-28-5
    assert [model.backbone.conv1.out_channels, model.feature_dim] == [16, 64 * 5]
    assert Classifier("wrn-70-16", 10, width=4).feature_dim == 64


SMOKE = [
    "--dataset", "digits", "--epochs", "1", "--batch-size", "20", "--device", "cpu", "--deterministic",
    "--set", "data.limit=40", "--set", "data.test_limit=20", "--set", "data.ratio=2", "--set", "model.width=2",
    "--set", "model.feature_dim=4", "--set", "attack.steps=1", "--set", "eval_attack.steps=1",
    "--set", "run.tensorboard=false",
]  # fmt: skip


@pytest.mark.parametrize("name", ADDED)
def test_training_from_the_command_line_resumes_bit_equal_and_exports(name, tmp_path, capsys) -> None:
    run = tmp_path / "run"
    with pytest.raises(SystemExit) as end:
        main(["train", "--model", name, *SMOKE, "--attack-bn", "running", "--out", str(tmp_path / "whole")])
    assert not end.value.code, capsys.readouterr().err
    recipe = build_recipe(str(tmp_path / "whole/recipe.json"))
    with pytest.raises(Interrupted):
        srat_fast.train(recipe, run, stops=StopAfter(1))
    srat_fast.train(recipe, run, resume="must")
    assert_equal_runs(tmp_path / "whole", run)
    assert record(run)["recipe"]["model"]["name"] == name
    made = srat_fast.export(run, real_batch=False)
    images = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(
        srat_fast.load(made["out"])(images), srat_fast.load(run)(images), rtol=0, atol=0
    )


@pytest.mark.parametrize("name", ["resnet50", "preactresnet18", "wrn-28-10"])
def test_state_dicts_are_loaded_strictly_under_the_names_of_the_field(name: str) -> None:
    model = Classifier(name, 4, width=2, mean=torch.rand(3), std=torch.rand(3) + 0.1)
    head = "fc" if name.startswith("wrn") else "linear"
    state = model.state_dict()
    assert list(state)[-2:] == [f"{head}.weight", f"{head}.bias"]
    nn.Sequential(Classifier(name, 4, width=2, mean=torch.rand(3), std=torch.rand(3))).load_state_dict(
        {f"0.{key}": tensor for key, tensor in state.items()}
    )
    other = {"extra": torch.ones(1)} | state
    del other[f"{head}.bias"]
    with pytest.raises(RuntimeError) as error:
        model.load_state_dict(other)
    assert f'Missing key(s) in state_dict: "{head}.bias"' in str(error.value)
    assert 'Unexpected key(s) in state_dict: "extra"' in str(error.value)


def theirs() -> nn.Module:
    """A WideResNet as TRADES published it: with a part that no forward pass reads."""
    torch.manual_seed(0)
    return zoo.WideResNet(depth=28, num_classes=7, widen_factor=5, sub_block1=True).eval()


def test_weights_of_others_are_loaded_by_the_name_of_the_network(tmp_path) -> None:
    network, images = theirs(), torch.rand(2, 3, 32, 32)
    torch.save({f"module.{key}": w for key, w in network.state_dict().items()}, tmp_path / "w.pt")
    model = srat_fast.load(tmp_path / "w.pt", model="wrn-28-10")
    assert (model.name, model.width, model.classes, model.channels) == ("wrn-28-10", 32, 7, 3)
    assert (model(images) - network(images)).abs().max() < 1e-5
    normalised = zoo.Rice2020OverfittingNet(28, 5).eval()
    safetensors.torch.save_file(normalised.state_dict(), tmp_path / "n.safetensors")
    model = srat_fast.load(tmp_path / "n.safetensors", model="wrn-28-10")
    assert (model(images) - normalised(images)).abs().max() < 1e-5


def test_another_network_is_one_line(tmp_path) -> None:
    torch.save(theirs().state_dict(), tmp_path / "w.pt")
    ours = Classifier("preactresnet18", 3, width=2)
    save_model(tmp_path / "ours.safetensors", ours, {})
    for file, name, says in (
        ("w.pt", None, "its weights are not those of resnet18: there is no linear.weight"),
        ("w.pt", "wrn-34-10", "its weights are not those of wrn-34-10: .*Missing key"),
        ("w.pt", "wrn-70-16", "its weights are not those of wrn-70-16: "),
        ("w.pt", "wrn-28-11", "model = 'wrn-28-11': one of resnet18, .*did you mean wrn-28-10"),
        ("ours.safetensors", "resnet18", "its weights are those of preactresnet18, not of resnet18"),
    ):
        with pytest.raises(UserError, match=says) as error:
            srat_fast.load(tmp_path / file, model=name)
        assert "\n" not in error.value.line()
        assert "backbone" not in error.value.line()


NORMALISED = {"mean": torch.tensor([0.5, 0.4, 0.3]), "std": torch.tensor([0.2, 0.3, 0.4])}
ZOO = {
    "resnet34": (64, {}, lambda: zoo.ResNet(zoo.BasicBlock, [3, 4, 6, 3])),
    "resnet50": (64, NORMALISED, zoo.Engstrom2019RobustnessNet),
    "preactresnet18": (64, {}, lambda: zoo.PreActResNet(zoo.PreActBlockV2, [2, 2, 2, 2], bn_before_fc=True)),
    "preactresnet18 normalised": (64, NORMALISED, zoo.Rice2020OverfittingNetL2),
    "wrn-28-10": (32, NORMALISED, lambda: zoo.Rice2020OverfittingNet(28, 5)),
    "wrn-34-10": (32, {}, lambda: zoo.WideResNet(34, widen_factor=5)),
    "wrn-70-16": (4, {}, lambda: zoo.WideResNet(70, widen_factor=1)),
}


@pytest.mark.parametrize("case", ZOO)
def test_an_independent_definition_loads_the_state_dict_strictly(case: str) -> None:
    width, moments, make = ZOO[case]
    torch.manual_seed(0)
    model = Classifier(case.split()[0], 10, width=width, projection_dim=5, **moments).eval()
    with torch.no_grad():
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.8, 1.2)
            norm.weight.uniform_(0.8, 1.2)
    other = make().eval()
    other.load_state_dict(zoo_state(model), strict=True)
    images = torch.rand(2, 3, 32, 32) * torch.tensor([1.0, 0.2]).view(2, 1, 1, 1)
    with torch.no_grad():
        expected, found = model(images), other(images)
    assert (expected - found).abs().max() <= 1e-5 * max(1, float(expected.abs().max()))
    assert expected.std(dim=0).max() > 1e-3, "logits that do not vary would prove nothing"


class FakeTimm(types.ModuleType):
    """The parts of timm that are read: two networks, of which one has two heads; vit takes one size of image."""

    class Network(nn.Module):
        def __init__(self, name: str, channels: int) -> None:
            super().__init__()
            self.pretrained_cfg = {"classifier": ("head", "head_dist") if name == "two" else "head.fc"}
            self.num_features, self.head_hidden_size, self.size = 4, 6, 16 if name == "vit" else None
            self.features = nn.Conv2d(channels, 4, 3)  # a name that timm's networks have too
            self.bn1, self.head = nn.BatchNorm2d(4), nn.Sequential()
            self.head.add_module("hidden", nn.Linear(4, 6))

        def forward_features(self, images):
            assert self.size in (None, images.shape[2]), f"Input height doesn't match model ({self.size})."
            return torch.relu(self.bn1(self.features(images)))

        def forward_head(self, x, pre_logits: bool):
            assert pre_logits
            return self.head(x.mean(dim=(2, 3)))

    def __init__(self) -> None:
        super().__init__("timm")

    def list_models(self):
        return ["tiny", "vit", "two"]

    def is_model(self, name: str) -> bool:
        return name in self.list_models()

    def create_model(self, name: str, *, pretrained: bool, num_classes: int, in_chans: int):
        assert (pretrained, num_classes) == (False, 0)
        return self.Network(name, in_chans)


def test_networks_of_timm(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", FakeTimm())
    fields = {"data.name": "digits", "data.limit": 40, "data.ratio": 2, "data.test_limit": 20, "optim.epochs": 1,
              "optim.batch_size": 20, "attack.steps": 1, "eval_attack.steps": 1, "attack.bn": "running",
              "run.device": "cpu", "run.tensorboard": False, "model.name": "timm:tiny", "model.width": 64}  # fmt: skip
    srat_fast.train(build_recipe(None, fields), tmp_path / "run")
    model, images = srat_fast.load(tmp_path / "run"), torch.rand(2, 1, 8, 8)
    assert next(iter(model.state_dict())) == "features.weight"  # timm's own names, its head's too
    assert {"head.hidden.weight", "head.fc.weight", "head.fc.bias"} < set(model.state_dict())
    assert model.features(images).shape == (2, 6)
    made = srat_fast.export(tmp_path / "run", real_batch=False)
    torch.testing.assert_close(srat_fast.load(made["out"])(images), model(images), rtol=0, atol=0)
    monkeypatch.setattr("srat_fast.evaluation.audit.run.train_surrogate", lambda *images, width, **how: width)
    subject = open_subject(tmp_path / "run", {}, weights="last", device="cpu")
    assert _surrogate(subject, None, lambda *done: None)[0] == 64, "its name says its width"
    with pytest.raises(
        UserError, match=r"model\.name = 'timm:tine': timm has no such network; did you mean tiny"
    ):
        Classifier("timm:tine", 3)
    with pytest.raises(UserError, match=r"model\.width = 4: 64 with timm:tiny, whose name says its width"):
        Classifier("timm:tiny", 3, width=4)
    with pytest.raises(UserError, match="it has no single last layer whose input can be had"):
        Classifier("timm:two", 3)
    with pytest.raises(
        UserError, match=r"timm:vit': cannot take images of 8 x 8 pixels: Input height doesn't"
    ):
        srat_fast.train(build_recipe(None, fields | {"model.name": "timm:vit"}), tmp_path / "vit")


def test_without_timm_its_networks_are_one_line(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingPackage, match=r"pip install 'srat-fast\[timm\]'"):
        Classifier("timm:resnet18", 3)
    with pytest.raises(SystemExit) as end:
        main(["train", "--dataset", "digits", "--model", "timm:resnet18", "--out", str(tmp_path / "run")])
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"model\.name = 'tim:resnet18': one of resnet18, .*timm:<name>"):
        build_recipe(None, {"model.name": "tim:resnet18"})
