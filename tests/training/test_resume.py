"""Taking a run up again gives what it would have given uninterrupted, bit for bit."""

from __future__ import annotations

import functools
import signal
from pathlib import Path

import pytest

from srat_fast import train
from srat_fast.errors import Interrupted, TrainingFailure
from srat_fast.training.parity import compile_errors
from srat_fast.training.step import FastEngine
from srat_fast.training.stops import Stops
from tests.training.short_runs import StopAfter, assert_equal_runs, record, short


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run of an engine, made once."""

    @functools.cache
    def run(engine: str) -> Path:
        out = tmp_path_factory.mktemp(engine) / "whole"
        train(short(run__engine=engine), out)
        return out

    return run


@pytest.mark.parametrize(
    ("engine", "boundary"),
    [*(("fast", n) for n in (0, 1, 3, 5, 9, 17)), *(("reference", n) for n in (1, 5, 17))],
)
def test_a_resumed_run_equals_the_uninterrupted_one(boundary, engine, whole, tmp_path) -> None:
    """Boundaries fall before the first step, in and after epochs, in validation and in the final evaluation."""
    out = tmp_path / "run"
    recipe = short(run__engine=engine)
    with pytest.raises(Interrupted) as stop:
        train(recipe, out, stops=StopAfter(boundary))
    assert stop.value.code == 143
    if boundary:  # at 0 it stops before anything is there
        assert record(out)["status"] == "interrupted"
    assert out.exists() == bool(boundary)
    train(recipe, out, resume="auto")
    assert_equal_runs(whole(engine), out)


@pytest.mark.parametrize(
    "changes",
    [
        {"run__precision": "bf16", "attack__bn": "running"},
        {
            "optim__momentum": 0,
            "optim__ema_decay": 0,
            "data__val_fraction": 0,
            "model__normalize": "dataset",
            "data__policy": "randaugment",
        },
    ],
)
def test_other_recipes_resume_too(changes, tmp_path) -> None:
    recipe = short(**changes)
    train(recipe, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "run", stops=StopAfter(3))
    train(recipe, tmp_path / "run", resume="must")
    assert_equal_runs(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize("boundary", [3, 5, 8])
def test_radius_weights_and_average_by_the_epoch_resume_too(boundary, tmp_path) -> None:
    """At the end of an epoch, in its validation, and in the epoch in which weights begin to be perturbed."""
    recipe = short(method="robustlt:trades-awp", optim__awp_epoch=1, optim__ema_every="epoch")
    train(recipe, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "run", stops=StopAfter(boundary))
    train(recipe, tmp_path / "run", resume="must")
    assert_equal_runs(tmp_path / "whole", tmp_path / "run")


def test_a_signal_that_ends_the_compiler_too_is_a_stop_and_no_failure(whole, tmp_path, monkeypatch) -> None:
    """Ctrl-C at a terminal, `timeout` and schedulers signal the whole process group."""
    stops, asked = Stops(), {"signal": None}

    def killed(engine: FastEngine, *batch: object) -> None:
        stops.signal = asked["signal"]
        with compile_errors():
            raise RuntimeError("C++ compile error")

    out, recipe = tmp_path / "run", short(run__engine="fast")
    for number, error, status in (
        (None, TrainingFailure, "failed"),
        (signal.SIGTERM, Interrupted, "interrupted"),
    ):
        asked["signal"] = number
        with monkeypatch.context() as patched:
            patched.setattr(FastEngine, "step", killed)
            with pytest.raises(error, match="compil") as ended:
                train(recipe, out, stops=stops, resume="auto")
        assert record(out)["status"] == status
    assert ended.value.code == 143
    train(recipe, out, resume="auto")
    assert_equal_runs(whole("fast"), out)
