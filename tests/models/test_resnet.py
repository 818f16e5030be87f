"""The network: shapes, names, size, precision of the head, files."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import safetensors.torch
import torch

from srat_fast.errors import UserError
from srat_fast.models.build import build_model, check_batch_norm, forward_flops, training_flops
from srat_fast.models.classifier import Classifier
from srat_fast.models.files import load_model, save_model, weights_bytes
from srat_fast.recipe import build_recipe


def test_it_is_the_cifar_resnet18() -> None:
    model = Classifier("resnet18", 10)
    assert sum(p.numel() for p in model.parameters()) == 11_173_962  # the well-known count of CIFAR ResNet-18
    names = set(model.state_dict())
    assert {"conv1.weight", "bn1.running_mean", "layer2.0.shortcut.0.weight", "linear.bias"} < names
    assert abs(forward_flops(model, 32) / 1.111e9 - 1) < 0.005  # performance.md


def test_work_of_a_training_image_is_counted_on_the_network() -> None:
    recipe = build_recipe("paper").resolve()
    assert abs(training_flops(forward_flops(Classifier("resnet18", 10), 32), recipe) / 25.55e9 - 1) < 0.005
    natural = recipe.replace({"method": "natural"})
    assert training_flops(100, natural) == 300


@pytest.mark.parametrize(
    ("method", "changes", "units"),
    [
        ("at-bsl", {}, 23),
        ("robustlt:at-bsl", {}, 23),
        ("reat", {}, 23),
        ("trades", {}, 27),
        ("trades", {"attack.loss": "ce"}, 26),
        ("mart", {}, 26),
        ("mart", {"loss.kl_target": "detached"}, 24),
        ("awp", {}, 26),
        ("awp", {"optim.epochs": 20, "optim.awp_epoch": 10}, 24.5),
        ("trades-awp", {}, 33),
        ("robal-r", {}, 26),
        ("robal-r", {"attack.steps": 5}, 16),
        ("srat:trades", {}, 27),
        ("ce", {"loss.branch": "clean"}, 24),
        ("bat", {}, 51),
        ("bat", {"loss.kl_weight": 0.0, "loss.entropy_weight": 0.0, "attack.loss": "ce"}, 44),
        ("ce", {"attack.stop": "first-wrong"}, 23),
    ],
)
def test_passes_of_the_fields_methods(method, changes, units) -> None:
    """TRADES costs 1.17 times PGD-10 training, MART and AT-AWP 1.13, TRADES-AWP 1.43."""
    assert training_flops(100, build_recipe("paper", {"method": method} | changes)) == 100 * units


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (32, 3), (37, 3)])
def test_any_image_size(size: int, channels: int) -> None:
    model = Classifier("resnet18", 7, channels=channels, width=4, projection_dim=6).eval()
    images = torch.rand(3, channels, size, size)
    features = model.features(images)
    assert features.shape == (3, 32)
    assert model(images).shape == (3, 7)
    torch.testing.assert_close(model(images), model.classify(features), rtol=0, atol=0)
    z = model.separable(features)
    assert z.shape == (3, 6)
    assert torch.allclose(z.norm(dim=1), torch.ones(3))


def test_without_head_the_penultimate_features_are_separated() -> None:
    model = Classifier("resnet18", 3, width=4)
    features = torch.randn(5, 32)
    assert torch.allclose(model.separable(features), features / features.norm(dim=1, keepdim=True))


def test_head_and_logits_stay_in_full_precision_under_autocast() -> None:
    model = Classifier("resnet18", 3, width=4, projection_dim=8)
    with torch.autocast("cpu", torch.bfloat16):
        features = model.features(torch.rand(4, 3, 8, 8))
        assert (
            features.dtype
            == model.classify(features).dtype
            == model.separable(features).dtype
            == torch.float32
        )


def test_weights_of_a_seed_do_not_depend_on_the_method_or_the_global_state() -> None:
    def weights(method: str, seed: int = 0):
        recipe = build_recipe(None, {"method": method, "seed": seed, "model.width": 4}).resolve()
        return build_model(recipe, classes=10, channels=3, moments=None).state_dict()

    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = weights("ce")
    torch.testing.assert_close(torch.random.get_rng_state(), before, rtol=0, atol=0)
    torch.manual_seed(2)
    two, other = weights("srat-ldam"), weights("ce", 1)
    torch.testing.assert_close(dict(one), {name: two[name] for name in one}, rtol=0, atol=0)
    assert "projection.0.weight" in two
    assert not torch.equal(one["linear.weight"], other["linear.weight"])


def test_normalisation_is_inside_the_model() -> None:
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    torch.manual_seed(0)
    plain = Classifier("resnet18", 3, width=4).eval()
    inside = Classifier("resnet18", 3, width=4, mean=mean, std=std).eval()
    inside.load_state_dict(plain.state_dict() | {"mean": inside.mean, "std": inside.std})
    images = torch.rand(2, 3, 8, 8)
    shifted = (images - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    assert torch.allclose(inside(images), plain(shifted), atol=1e-6)


@pytest.mark.parametrize(
    "options", [{}, {"projection_dim": 6}, {"mean": torch.rand(3), "std": torch.rand(3) + 0.1}]
)
def test_files_give_the_same_network_back(options, tmp_path) -> None:
    model = Classifier("resnet18", 4, width=4, **options).eval()
    save_model(tmp_path / "m.safetensors", model, {"method": "ce"})
    loaded = load_model(tmp_path / "m.safetensors")
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(loaded(images), model(images), rtol=0, atol=0)
    assert not loaded.training


WRITE = """
import sys, torch
from srat_fast.models.files import weights_bytes
state = {"b": torch.arange(6.0).view(2, 3).t(), "a": torch.ones(3, dtype=torch.int64), "mean": torch.tensor(0.5)}
sys.stdout.buffer.write(weights_bytes(state, {name: name * 3 for name in ("é", "data", "method", "a", "fingerprint")}))
"""


def test_equal_weights_are_equal_files() -> None:
    written = []
    for seed in "12":
        process = [sys.executable, "-c", WRITE]
        written.append(subprocess.check_output(process, env=os.environ | {"PYTHONHASHSEED": seed}))
    assert written[0] == written[1]
    length = int.from_bytes(written[0][:8], "little")
    assert length % 8 == 0
    assert json.loads(written[0][8 : 8 + length])["__metadata__"]["é"] == "ééé"
    state = safetensors.torch.load(written[0])
    torch.testing.assert_close(state["b"], torch.arange(6.0).view(2, 3).t(), rtol=0, atol=0)
    assert state["a"].tolist() == [1, 1, 1]
    assert float(state["mean"]) == 0.5


def test_files_of_earlier_versions_load(tmp_path) -> None:
    model = Classifier("resnet18", 4, width=4).eval()
    safetensors.torch.save_file(model.state_dict(), tmp_path / "m.safetensors", {"method": "ce", "data": "x"})
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(load_model(tmp_path / "m.safetensors")(images), model(images), rtol=0, atol=0)


def test_damaged_and_foreign_weights_are_refused(tmp_path) -> None:
    file = tmp_path / "m.safetensors"
    with pytest.raises(UserError, match="cannot be read: No such file"):
        load_model(file)
    file.write_bytes(b"not safetensors")
    with pytest.raises(UserError, match="cannot be read"):
        load_model(file)
    file.write_bytes(weights_bytes({"linear.weight": torch.zeros(2, 2)}, {}))
    with pytest.raises(UserError, match="not those of resnet18"):
        load_model(file)


def test_a_batch_of_one_tiny_image_is_refused_before_training() -> None:
    recipe = build_recipe(None, {"data.name": "digits", "optim.batch_size": 32}).resolve()
    model = Classifier("resnet18", 10, channels=1, width=4)
    check_batch_norm(recipe, 64, model)
    with pytest.raises(UserError, match=r"optim\.batch_size = 32: leaves a batch of one image \(65 in all\)"):
        check_batch_norm(recipe, 65, model)
    check_batch_norm(build_recipe(None, {"optim.batch_size": 32}).resolve(), 65, model)
