"""The state of a run as files: every random stream comes back, or begins anew in a known way."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks.checkpoints import measure
from srat_fast.progress import ProgressView
from srat_fast.record import RunDirectory
from srat_fast.seeds import seed_for
from srat_fast.training import resume
from srat_fast.training.fit import EpochRunner, MovingAverage
from srat_fast.training.setup import prepare, resolve_hardware
from tests.training.short_runs import short


@pytest.fixture
def parts(tmp_path):
    """A run before its first step."""
    setup = prepare(*resolve_hardware(short().resolve()))
    run = RunDirectory.create(tmp_path / "run")
    yield setup, EpochRunner(setup, ProgressView("", Console(quiet=True)), [1], run.path), run
    run.release()


def drawn(setup) -> list[float]:
    """The next number of each stream."""
    noise = torch.rand(1, generator=setup.engine.noise)
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.standard_normal(),
            float(torch.rand(1)), float(noise)]  # fmt: skip


def test_every_random_stream_comes_back(parts) -> None:
    setup, runner, run = parts
    drawn(setup)  # gauss and standard_normal keep a second number for the next call: it is part of the state
    files = resume.snapshot(setup, runner, run, {"best": None}, {})
    expected = drawn(setup)
    assert drawn(setup) != expected
    assert resume.restore(setup, runner, run, files) == {"best": None}
    assert drawn(setup) == expected


def test_a_state_of_another_kind_of_device_begins_the_noise_anew(parts) -> None:
    setup, runner, run = parts
    files = resume.snapshot(setup, runner, run, {"best": None}, {})
    content = torch.load(io.BytesIO(files[resume.STATE]), weights_only=True)
    content["noise_device"], content["noise"] = "cuda", torch.zeros(16, dtype=torch.uint8)
    content["position"] |= {"epoch": 2, "batch": 1}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    resume.restore(setup, runner, run, files | {resume.STATE: buffer.getvalue()})
    assert setup.engine.noise.initial_seed() == seed_for(setup.recipe.seed, "attack", 2, 1)
    assert (runner.epoch, runner.batch) == (2, 1)


def test_tensors_stay_where_they_are(parts) -> None:
    """Captured graphs and compiled code keep pointing at them."""
    setup, runner, run = parts
    engine = setup.engine
    tensors = [*engine.state(), *runner.ema.module.state_dict().values()]
    places = [t.data_ptr() for t in tensors]
    files = resume.snapshot(setup, runner, run, {"best": None}, {})
    with torch.no_grad():
        for tensor in engine.model.parameters():
            tensor.add_(1.0)
    resume.restore(setup, runner, run, files)
    after = [*engine.state(), *runner.ema.module.state_dict().values()]
    assert [t.data_ptr() for t in after] == places
    weights = dict(engine.model.state_dict())
    assert weights.keys() == runner.ema.module.state_dict().keys()
    torch.testing.assert_close(weights, dict(runner.ema.module.state_dict()), rtol=0, atol=0)


def test_an_average_by_the_epoch_takes_the_weights_in_once_it_is_over(tmp_path) -> None:
    setup = prepare(*resolve_hardware(short(optim__ema_every="epoch", optim__ema_decay=0.75).resolve()))
    runner = EpochRunner(setup, ProgressView("", Console(quiet=True)), [1], tmp_path)
    weight, average = setup.engine.model.linear.weight, runner.ema.module.linear.weight
    first = average.clone()
    runner.run()
    torch.testing.assert_close(average, first, rtol=0, atol=0)
    runner.advance()
    assert torch.allclose(average, 0.75 * first + 0.25 * weight)
    assert not torch.allclose(weight, first)


def test_a_gated_average_begins_with_its_first_epoch_and_has_its_statistics() -> None:
    setup = prepare(*resolve_hardware(short().resolve()))
    model = setup.engine.model
    average = MovingAverage(model, 0.75, gated=True)
    ours, theirs = average.module.state_dict(), model.state_dict()
    values = []
    for value in (2.0, 4.0):
        for tensor in theirs.values():
            tensor.fill_(value)
        average.update()
        values.append({name: float(tensor.double().mean()) for name, tensor in ours.items()})
    assert set(values[0].values()) == {2.0}, "begun, not averaged with weights that were never trained"
    assert values[1] == {n: 2.5 if theirs[n].is_floating_point() else 4.0 for n in theirs}
    assert average.taken == 2


def test_the_benchmark_of_saves_runs(tmp_path: Path) -> None:
    found = measure(2, tmp_path)
    assert found["bytes"] > 100_000
    assert min(found.values()) > 0
