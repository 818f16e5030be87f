"""The attempts: each variant computes what the product does, the table and the bookkeeping say what is so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.attempts.ideas import ATTEMPTS, Attempt
from benchmarks.attempts.measuring import conditions, measured
from benchmarks.attempts.table import done, keep, table, tasks
from benchmarks.engine.ladder import PRODUCT, check, make_engine, warm
from benchmarks.engine.work import PRECISIONS, Work, batch_of
from srat_fast.training.capture import preserved

ROOT = Path(__file__).resolve().parents[2]
BY_NAME = {attempt.name: attempt for attempt in ATTEMPTS}
#: What changes the code of the attack; the others change settings only.
OWN_CODE = ("fused-norm", "fused-convolution", "padded-stem", "turned-stem", "halves", "loss-inside")


def small(attempt: Attempt, precision: str, place: int = 0) -> Work:
    return Work("srat-ldam", 16, attempt.sizes[place][1], precision, width=8, steps=2)


@pytest.mark.parametrize("name", OWN_CODE)
def test_same_images_and_statistics_in_float32(name: str) -> None:
    attempt = BY_NAME[name]
    work = small(attempt, "fp32")._replace(steps=1)
    images, labels = batch_of(work)
    ours, theirs = attempt.make(work), make_engine(PRODUCT, work)
    for engine in (ours, theirs):
        warm(engine, images, labels)
    with preserved([*ours.state(), *theirs.state()]):
        found, wanted = (engine.attack(images, labels) for engine in (ours, theirs))
        assert float((found - images).abs().max()) > 0.01, "there was an attack"
        assert float(((found - wanted).abs() > 1e-6).double().mean()) < 0.01  # signs of what is nearly 0
        for (which, mine), other in zip(ours.model.named_buffers(), theirs.model.buffers(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5, msg=which)
        assert int(ours.nonfinite) == int(theirs.nonfinite) == 0


@pytest.mark.parametrize(
    ("name", "place"), [(name, 0) for name in OWN_CODE] + [("padded-stem", 1), ("turned-stem", 1)]
)
def test_every_variant_passes_the_gate_in_the_products_precision(name: str, place: int) -> None:
    attempt = BY_NAME[name]
    work = small(attempt, PRECISIONS[0], place)
    images, labels = batch_of(work)
    engines = [attempt.make(work), make_engine("reference", work), make_engine("autocast", work)]
    for engine in engines:
        warm(engine, images, labels)
    check(PRODUCT, *engines, work, images, labels)


def test_weights_are_taken_over_before_each_attack() -> None:
    for name in ("padded-stem", "turned-stem", "fused-convolution"):
        attempt = BY_NAME[name]
        work = small(attempt, "fp32")
        images, _ = batch_of(work)
        engine = attempt.make(work)
        before = engine.attack_engine.shadow(images).detach().clone()
        with torch.no_grad():
            engine.model.backbone.conv1.weight.mul_(2).add_(0.1)
        engine.attack_engine.shadow.refresh()
        assert not torch.allclose(engine.attack_engine.shadow(images), before), name


def test_a_row_is_measured_and_the_table_shows_it(tmp_path) -> None:
    attempt = BY_NAME["loss-inside"]
    row = measured(attempt, small(attempt, "fp32"), rounds=2, block=0.0)
    assert row["implementation"] == "loss-inside"
    assert row["reference"] == PRODUCT
    assert row["ratio"]["median"] > 0
    shown = {**row, "batch": 128, "bn": "batch"}  # as on a GPU
    line = next(line for line in table([shown]).splitlines() if line.startswith("loss-inside"))
    assert f"{row['ratio']['median']:.3f}" in line
    assert line.rstrip().endswith(keep(row))


def test_a_wrong_attempt_gets_no_row() -> None:
    def wrong(work):
        engine = BY_NAME["padded-stem"].make(work)
        engine.attack = lambda images, labels: images.clone()
        return engine

    attempt = BY_NAME["padded-stem"]._replace(make=wrong)
    with pytest.raises(AssertionError, match="the attack raises the loss"):
        measured(attempt, small(attempt, "fp32"), rounds=2, block=0.0)


def test_keep_needs_more_than_noise() -> None:
    def row(low: float, median: float, high: float):
        return {"ratio": {"median": median, "quartiles": [low, high]}}

    assert keep(row(1.02, 1.03, 1.04)) == "yes"
    assert keep(row(0.97, 1.03, 1.09)) == "noise"
    assert keep(row(0.99, 1.0, 1.005)) == "no"


def test_first_sizes_come_first_and_finished_ones_are_known() -> None:
    order = tasks([])
    firsts = [(attempt, *attempt.sizes[0]) for attempt in ATTEMPTS]
    assert order[: len(firsts)] == firsts
    assert tasks(["fused-norm"]) == [(BY_NAME["fused-norm"], *size) for size in BY_NAME["fused-norm"].sizes]
    assert tasks(["fused-norm"], first_size=True) == [firsts[0]]
    rows = [
        {"op": "attempt", "implementation": "halves", "batch": 128, "bn": "running", "commit": "a"},
        {"op": "attempt", "implementation": "halves", "batch": 128, "bn": "batch", "commit": "b"},
        {"op": "step"},
    ]
    assert done(rows, {"commit": "a"}) == {("halves", 128, "running")}
    assert done(rows, {"commit": "a", "torch": "9.9"}) == set()


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=[attempt.name for attempt in ATTEMPTS])
def test_settings_are_inductors_and_are_put_back(attempt: Attempt) -> None:
    import torch._inductor.config as inductor

    before = {name: getattr(inductor, name) for name in attempt.settings}, torch.backends.cudnn.benchmark
    with conditions(attempt):
        assert all(getattr(inductor, name) == value for name, value in attempt.settings.items())
        assert torch.backends.cudnn.benchmark == (attempt.cudnn or before[1])
    assert (
        {name: getattr(inductor, name) for name in attempt.settings},
        torch.backends.cudnn.benchmark,
    ) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_only_the_predictions() -> None:
    script = [sys.executable, str(ROOT / "benchmarks" / "attempts" / "run.py")]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    wrong = subprocess.run([*script, "--only", "magic"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "fused-norm" in wrong.stderr.splitlines()[-1]


def test_every_attempt_is_in_the_notes_with_its_prediction() -> None:
    notes = (ROOT / "benchmarks" / "NOTES.md").read_text(encoding="utf-8")
    for attempt in ATTEMPTS:
        batch, bn = attempt.sizes[0]
        assert f"| {attempt.name} | {batch}, {bn} | {attempt.gain:.2f} |" in notes, attempt.name
