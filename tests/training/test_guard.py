"""A loss or gradient that is not finite stops before its update, names the step and keeps the last finite state."""

from __future__ import annotations

import math

import pytest
import safetensors.torch
import torch

from srat_fast import TrainingFailure, train
from srat_fast.record import RunDirectory
from srat_fast.training.fit import MovingAverage
from srat_fast.training.setup import prepare, resolve_hardware
from srat_fast.training.step import FastEngine, LateReader
from tests.training.short_runs import record, short


def engine_of(**changes):
    """An engine and its first two batches."""
    setup = prepare(*resolve_hardware(short(**changes).resolve()))
    return setup.engine, list(setup.loader.epoch(0))[:2]


def state(engine) -> list[torch.Tensor]:
    """Weights, statistics and momentum."""
    momentum = [engine.optimizer.state[p].get("momentum_buffer") for p in engine.model.parameters()]
    tensors = [*engine.model.parameters(), *engine.model.buffers(), *momentum]
    return [t.detach().clone() for t in tensors if t is not None]


@pytest.mark.parametrize(
    ("engine_name", "method", "clip", "poison"),
    [
        *((name, "srat-ldam", 1.0, math.nan) for name in ("fast", "reference")),
        *((name, "natural", 0.0, math.inf) for name in ("fast", "reference")),
        ("fast", "awp", 1.0, math.nan),
        ("fast", "trades-awp", 0.0, math.inf),
        ("reference", "awp", 0.0, math.nan),
    ],
)
def test_a_poisoned_batch_changes_nothing(engine_name, method, clip, poison) -> None:
    """A real non-finite loss and gradient: a batch with one NaN or infinite pixel, as a broken loader would give."""
    engine, ((images, labels), second) = engine_of(
        method=method, run__engine=engine_name, optim__clip_norm=clip
    )
    engine.start_epoch(0)
    engine.step(images, labels)
    before = state(engine)
    assert float(engine.guard.bad) == 0
    bad = second[0].clone()
    bad[0, 0, 0, 0] = poison
    result = engine.step(bad, second[1])
    assert not torch.isfinite(result.losses["total"])
    assert int(engine.guard.bad) == 2
    assert not math.isfinite(float(engine.guard.loss))
    engine.step(*second)  # the host sees it late: what comes in between changes nothing either
    engine.step(images, labels)
    assert int(engine.guard.bad) == 2
    engine.guard.settle()
    torch.testing.assert_close(before, state(engine), rtol=0, atol=0)


@pytest.mark.parametrize("engine_name", ["fast", "reference"])
def test_a_gradient_alone_is_seen(engine_name) -> None:
    """A finite loss with an infinite gradient."""
    engine, ((images, labels), _) = engine_of(run__engine=engine_name, method="ce")
    engine.start_epoch(0)
    engine.model.linear.weight.register_hook(lambda g: g / 0)
    before = [p.detach().clone() for p in engine.model.parameters()]
    engine.update(images, labels)
    assert int(engine.guard.bad) == 1
    assert math.isfinite(float(engine.guard.loss))
    torch.testing.assert_close(before, list(engine.model.parameters()), rtol=0, atol=0)


def test_the_moving_average_stands_still_too() -> None:
    engine, ((images, labels), _) = engine_of()
    average = MovingAverage(engine.model, 0.5)
    engine.start_epoch(0)
    engine.step(images, labels)
    average.update(engine.guard.found)
    expected = 0.5 * engine.model.linear.weight
    plain = MovingAverage(engine.model, 0.5)
    engine.step(images, labels)
    plain.update()
    gated = [p.clone() for p in average.module.parameters()]
    average.update(torch.ones(1))
    torch.testing.assert_close(gated, list(average.module.parameters()), rtol=0, atol=0)
    assert not torch.equal(expected, engine.model.linear.weight)
    again = MovingAverage(engine.model, 0.5)
    again.update(torch.zeros(1))
    assert torch.allclose(again.module.linear.weight, engine.model.linear.weight)


class Poisoned:
    """A loader whose n-th batch has a NaN: the fault comes through the front door."""

    def __init__(self, loader, epoch: int, batch: int) -> None:
        self._loader, self._at = loader, (epoch, batch)
        self.batch_size, self.images_per_epoch = loader.batch_size, loader.images_per_epoch

    def __len__(self) -> int:
        return len(self._loader)

    def epoch(self, number: int = 0, start: int = 0):
        for index, (images, labels) in enumerate(self._loader.epoch(number, start), start):
            if (number, index) == self._at:
                images[0] = math.nan
            yield images, labels

    def close(self) -> None:
        self._loader.close()


@pytest.mark.parametrize("engine_name", ["fast", "reference"])
def test_a_run_stops_before_the_update_keeps_its_state_and_can_go_on(
    engine_name, tmp_path, monkeypatch
) -> None:
    import dataclasses

    from srat_fast.training import trainer

    recipe = short(run__engine=engine_name, run__tensorboard=False)
    train(recipe, tmp_path / "whole")
    real = trainer.prepare

    def prepare_poisoned(*arguments):
        setup = real(*arguments)
        return dataclasses.replace(setup, loader=Poisoned(setup.loader, 1, 2))

    monkeypatch.setattr(trainer, "prepare", prepare_poisoned)
    out = tmp_path / "run"
    with pytest.raises(TrainingFailure, match=r"the loss is nan in epoch 2, step 3 \(before its update\)"):
        train(recipe, out)
    kept = record(out)
    assert (kept["status"], kept["epoch"], kept["step"]) == ("failed", 1, len(prepare_steps(recipe)) + 2)
    assert "lower optim.lr" in kept["problem"]
    (place,) = (out / "checkpoint").glob("0*")
    assert place.name == "000001-0000002"
    weights = safetensors.torch.load_file(place / "model.safetensors")
    assert all(bool(torch.isfinite(w).all()) for w in weights.values())
    monkeypatch.setattr(trainer, "prepare", real)  # the cause is mended
    train(recipe, out, resume="auto")
    a, b = (safetensors.torch.load_file(tmp_path / n / "model.safetensors") for n in ("whole", "run"))
    # all but the attack's noise, which had moved on: the same run, not the same bits
    assert all(torch.isfinite(b[name]).all() for name in a)
    assert RunDirectory.open(out).read_json("record.json")["status"] == "finished"


def prepare_steps(recipe) -> range:
    """Steps of one epoch."""
    setup = prepare(*resolve_hardware(recipe.resolve()))
    return range(len(setup.loader))


def test_the_late_reader_reads_a_cpu_at_once() -> None:
    source = torch.zeros(1, dtype=torch.int64)
    reader = LateReader(source)
    assert reader.poll() == 0
    source.fill_(3)
    assert reader.poll() == reader.now() == 3


def test_a_fused_update_is_passed_over_where_the_flag_says_so() -> None:
    """What the guard rests on: the fused optimiser reads `found_inf` on the device."""
    engine, ((images, labels), _) = engine_of()
    assert isinstance(engine, FastEngine)
    engine.start_epoch(0)
    engine.guard.bad.fill_(1)
    before = [p.detach().clone() for p in engine.model.parameters()]
    engine.update(images, labels)
    torch.testing.assert_close(before, list(engine.model.parameters()), rtol=0, atol=0)
    engine.guard.bad.fill_(0)
    engine.update(images, labels)
    assert not all(torch.equal(a, b) for a, b in zip(before, engine.model.parameters(), strict=True))
