"""Memory before and after the fact: the estimate against allocations, and one line that says what to lower."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from srat_fast import TrainingFailure, build_recipe, train
from srat_fast.models.build import build_model, planned_memory, tensor_bytes
from srat_fast.recipe import Recipe
from srat_fast.training.cost import memory_errors, to_lower
from srat_fast.training.parity import compile_errors
from srat_fast.training.step import FastEngine
from tests.training.short_runs import record, short


def test_torchs_cpu_allocator() -> None:
    with (
        pytest.raises(TrainingFailure, match=r"^out of memory in epoch 1; lower --batch-size$"),
        memory_errors("in epoch 1", "--batch-size"),
    ):
        torch.empty(1 << 55, dtype=torch.uint8)


def test_numpys_allocator() -> None:
    with pytest.raises(TrainingFailure, match="out of memory here"), memory_errors("here", "it"):
        np.empty(1 << 55, np.uint8)


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), memory_errors("here", "it"):
        torch.ones(2, 3) @ torch.ones(2, 3)


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("srat_fast.training.fit.judge", "out of memory in evaluation; lower --set run.eval_batch_size"),
        (
            "srat_fast.training.trainer.prepare",
            "out of memory while preparing; lower data.limit or model.width",
        ),
    ],
)
def test_evaluation_and_start_up(where, says, tmp_path, monkeypatch) -> None:
    """The allocation is real; only the place is chosen."""
    monkeypatch.setattr(where, lambda *arguments, **more: torch.empty(1 << 55, dtype=torch.uint8))
    out = tmp_path / "run"
    with pytest.raises(TrainingFailure, match=says):
        train(short(data__val_fraction=0, optim__epochs=1), out)
    if "evaluation" in says:
        assert record(out)["status"] == "failed"
        assert list((out / "checkpoint").glob("000001-*")), (
            "training's state is kept: --resume evaluates again"
        )
    else:
        assert not out.exists()


@pytest.mark.parametrize(
    ("network", "width", "lower", "kept"),
    [
        ("resnet18", 64, "--batch-size or --set model.width", "4.5"),
        ("wrn-70-16", 64, "--batch-size or --set model.width", "77.3"),
    ],
)
def test_the_advice_names_the_network_and_what_an_image_costs_it(network, width, lower, kept) -> None:
    recipe = build_recipe(None, {"model.name": network, "model.width": width})
    says = f"out of memory; lower {lower}: {network} keeps about {kept} MiB of each image in float32"
    with pytest.raises(TrainingFailure) as error, compile_errors(recipe):
        torch.empty(1 << 55, dtype=torch.uint8)
    assert str(error.value) == says


def test_a_network_that_has_one_width_is_not_advised_another() -> None:
    assert to_lower(Recipe().replace({"model.name": "timm:resnet18"})) == "--batch-size"


def most_allocated(recipe: Recipe) -> int:
    """The largest sum of what torch's allocator gave out and had not got back, over an engine and two steps."""
    engines = []
    images, labels = (
        torch.rand(recipe.optim.batch_size, 3, 32, 32),
        torch.arange(recipe.optim.batch_size) % 10,
    )
    model = build_model(recipe, classes=10, channels=3, moments=None)
    with torch.profiler.profile(profile_memory=True) as profiler:
        engines.append(FastEngine(recipe.resolve(), model, [4] * 10, [9]))
        engines[0].start_epoch(0)
        for _ in range(2):
            engines[0].step(images, labels)
    events = profiler.profiler.kineto_results.events()
    live = most = 0
    for _, size in sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"):
        live += size
        most = max(most, live)
    return most + sum(p.nbytes for p in model.parameters())  # the weights were there before


@pytest.mark.parametrize(
    ("network", "changes"),
    [
        ("resnet18", {"model.width": 8, "attack.bn": "running"}),
        ("resnet50", {"model.width": 4, "run.precision": "bf16"}),
        ("wrn-28-10", {"model.width": 4, "attack.threat": "l2"}),
    ],
)
def test_estimated_tensors_are_those_of_a_step(network, changes) -> None:
    """Within a quarter, weights, gradients and momentum included, in every network's own proportion."""
    fields = {
        "data.name": "cifar10", "model.name": network, "optim.batch_size": 16, "run.eval_batch_size": 1,
        "attack.steps": 1, "run.precision": "fp32", "run.compile": "off", "run.device": "cpu",
    }  # fmt: skip
    recipe = build_recipe(None, fields | changes)
    measured, estimated = most_allocated(recipe), tensor_bytes(recipe, "cpu")
    assert 0.75 <= estimated / measured <= 1.25, (measured, estimated)


def test_the_estimate_follows_network_width_batch_image_and_evaluation() -> None:
    fields = {
        "data.name": "folder",
        "data.image_size": 32,
        "run.eval_batch_size": 16,
        "optim.batch_size": 128,
    }
    base = planned_memory(build_recipe(None, fields), 1000, "cpu")
    larger = [
        {"model.name": "wrn-28-10"}, {"model.width": 128}, {"optim.batch_size": 256}, {"optim.ema_decay": 0.9},
        {"run.eval_batch_size": 500}, {"data.image_size": 48},
    ]  # fmt: skip
    for change in larger:
        assert planned_memory(build_recipe(None, fields | change), 1000, "cpu") > base, change
    assert planned_memory(build_recipe(None, fields), 50000, "cpu") > base
    few = build_recipe(None, fields | {"run.eval_batch_size": 500, "data.test_limit": 16})
    assert planned_memory(few, 1000, "cpu") == base
