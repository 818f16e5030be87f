"""The attack engine against eager PGD on the model: same pixels, same BatchNorm statistics, no trace of weights."""

from __future__ import annotations

import copy

import pytest
import torch

from srat_fast.attacks.engine import AttackEngine
from srat_fast.attacks.pgd import pgd
from srat_fast.attacks.shadow import Shadow
from srat_fast.attacks.threat import LInfBall
from srat_fast.models.batch import Batch
from srat_fast.models.classifier import Classifier
from srat_fast.recipe import build_recipe
from srat_fast.training.step import FastEngine
from srat_kernels import separation_loss

BALL = LInfBall(0.03)


def network(device: torch.device, dtype: torch.dtype, normalize: bool = False) -> Classifier:
    """A small network whose running statistics are those of some data, in train mode."""
    torch.manual_seed(0)
    moments = (
        {"mean": torch.tensor([0.4, 0.5, 0.6]), "std": torch.tensor([0.2, 0.3, 0.4])} if normalize else {}
    )
    model = Classifier("resnet18", 5, width=8, projection_dim=4, **moments).train()
    for _ in range(3):
        model(torch.rand(16, 3, 16, 16))
    return model.to(device, dtype, memory_format=torch.channels_last)


def batch(device: torch.device, dtype: torch.dtype, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(size)
    images = torch.rand(size, 3, 16, 16, generator=generator).contiguous(memory_format=torch.channels_last)
    return images.to(device, dtype), torch.randint(0, 5, (size,), generator=generator).to(device)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("size", [16, 3])
@pytest.mark.parametrize("steps", [1, 10])
@pytest.mark.parametrize("bn", ["batch", "running", "frozen"])
def test_same_examples_and_statistics_as_eager_pgd(
    device, bn: str, steps: int, size: int, normalize: bool
) -> None:
    model = network(device, torch.float64, normalize)
    eager = copy.deepcopy(model)
    engine = AttackEngine(model, dtype=torch.float64, bn=bn, compiled=False)
    images, labels = batch(device, torch.float64, size)
    settings = {"ball": BALL, "steps": steps, "step_size": 0.01}
    start = BALL.random_start(images, torch.Generator(device).manual_seed(1))
    eager.train(bn != "running")
    before = copy.deepcopy(model.state_dict())
    ours = engine(images, labels, start=start, **settings)
    theirs = pgd(eager, images, labels, start=start, **settings)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)
    expected = before if bn == "frozen" else eager.state_dict()
    for (name, a), b in zip(model.state_dict().items(), expected.values(), strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-14), name
    assert int(model.backbone.bn1.num_batches_tracked) == 3 + (steps if bn == "batch" else 0)
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def apart(batch: Batch) -> torch.Tensor:
    """An inner loss of features, separable rows, logits and the head."""
    away = (batch.features - batch.clean_features).square().sum()
    return (
        away
        + separation_loss(batch.separable, batch.labels)
        + (batch.logits @ batch.model.linear.weight).sum()
    )


apart.features = True


@pytest.mark.parametrize("bn", ["batch", "running", "frozen"])
def test_a_loss_that_reads_features_has_them_as_in_eager_pgd(device, bn: str) -> None:
    model = network(device, torch.float64)
    eager = copy.deepcopy(model).train(bn != "running")
    engine = AttackEngine(model, dtype=torch.float64, bn=bn, compiled=False, features=True)
    images, labels = batch(device, torch.float64)
    start = BALL.random_start(images, torch.Generator(device).manual_seed(1))
    settings = {"ball": BALL, "steps": 2, "step_size": 0.01, "start": start, "loss": apart}
    ours, theirs = engine(images, labels, **settings), pgd(eager, images, labels, **settings)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)
    assert int(model.backbone.bn1.num_batches_tracked) == 3 + (3 if bn == "batch" else 0)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("bn", ["batch", "running"])
def test_pixels_in_float32(device, bn: str) -> None:
    """k = 1 from a common start: only pixels whose gradient is nearly zero may differ, and by whole steps."""
    model = network(device, torch.float32)
    eager = copy.deepcopy(model).train(bn == "batch")
    engine = AttackEngine(model, dtype=torch.float32, bn=bn, compiled=False)
    images, labels = batch(device, torch.float32)
    settings = {"ball": BALL, "steps": 1, "step_size": 0.01}
    differ = (engine(images, labels, **settings) - pgd(eager, images, labels, **settings)).abs() > 1e-6
    assert float(differ.double().mean()) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bn", ["batch", "running"])
def test_the_shadow_follows_the_weights_in_place(device, bn: str, dtype: torch.dtype) -> None:
    model = network(device, torch.float32)
    shadow = Shadow(model, dtype=dtype, bn=bn)
    images, _ = batch(device, torch.float32)
    places = {name: t.data_ptr() for name, t in shadow.state_dict(keep_vars=True).items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    shadow.refresh()
    assert {name: t.data_ptr() for name, t in shadow.state_dict(keep_vars=True).items()} == places
    fresh = Shadow(copy.deepcopy(model), dtype=dtype, bn=bn)
    torch.testing.assert_close(shadow(images), fresh(images), rtol=0, atol=0)
    assert shadow(images).dtype == torch.float32
    assert not any(p.requires_grad for p in shadow.parameters())


def test_bf16_convolutions_are_cast_and_the_rest_is_shared(device) -> None:
    model = network(device, torch.float32)
    shadow = Shadow(model, dtype=torch.bfloat16, bn="batch").network
    assert shadow.backbone.conv1.weight.dtype == torch.bfloat16
    assert shadow.backbone.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    for name in ("bn1.weight", "bn1.running_mean", "linear.weight", "layer4.1.bn2.bias"):
        ours, theirs = (
            dict(shadow.state_dict(keep_vars=True))[name],
            dict(model.state_dict(keep_vars=True))[name],
        )
        assert ours.data_ptr() == theirs.data_ptr(), name


def test_counters_of_zero_and_non_finite_gradients(device) -> None:
    images = torch.rand(2, 3, 4, 4, device=device)
    labels = torch.zeros(2, dtype=torch.int64, device=device)
    zero, bad = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))

    def blind(x: torch.Tensor) -> torch.Tensor:
        """Looks at red only, and at nothing of the second image."""
        seen = x[:, 0].sum(dim=(1, 2)) * torch.tensor([1.0, 0.0], device=device)
        return torch.stack([seen, -seen], dim=1)

    pgd(blind, images, labels, ball=BALL, steps=2, step_size=0.01, nonfinite=bad, zero=zero)
    assert int(zero) == 2 * (96 - 16)
    assert int(bad) == 0
    pgd(lambda x: blind(x) * float("nan"), images, labels, ball=BALL, steps=1, step_size=0.01, nonfinite=bad)
    assert int(bad) > 0


@pytest.mark.parametrize(
    ("requested", "mode"),
    [("auto", "default"), ("default", "default"), ("max-autotune", "max-autotune-no-cudagraphs")],
)
def test_attack_and_update_are_compiled_in_the_mode_asked_for(device, monkeypatch, requested, mode) -> None:
    """Never in one that captures by itself."""
    modes = []
    monkeypatch.setattr(
        torch, "compile", lambda function, **options: modes.append(options["mode"]) or function
    )
    recipe = build_recipe(
        "paper", {"run.compile": "on", "run.compile_mode": requested, "run.precision": "fp32"}
    )
    FastEngine(recipe.resolve(), network(device, torch.float32), [30, 20, 12, 6, 3], [2, 3, 4])
    assert modes == [mode, mode]
