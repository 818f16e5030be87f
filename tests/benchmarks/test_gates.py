"""The gates fail closed, the plain counterparts are what they say, intervals are counted once."""

from __future__ import annotations

import pytest
import torch

from benchmarks.ladder import EAGER, PRODUCT, check, make_engine, warm
from benchmarks.measure import Case, rows
from benchmarks.operations import covered
from benchmarks.step import _compilation, compared
from benchmarks.work import LARGEST_SEPARATION, PRECISIONS, Work, batch_of

WORK = Work("srat-ldam", 16, "batch", "fp32", width=8, steps=2)


@pytest.fixture
def ready():
    images, labels = batch_of(WORK)

    def engine(rung: str):
        made = make_engine(rung, WORK)
        warm(made, images, labels)
        return made

    return engine, images, labels


@pytest.mark.parametrize("bn", ["batch", "running"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("rung", [*(rung for rung in EAGER if not EAGER[rung].compiled), "shadow"])
def test_every_rung_passes_and_is_left_as_it_was(rung: str, precision: str, bn: str) -> None:
    work = WORK._replace(bn=bn, precision=precision)
    images, labels = batch_of(work)
    engine, *others = (make_engine(name, work) for name in (rung, "reference", "autocast"))
    for each in (engine, *others):
        warm(each, images, labels)
    before = {name: t.clone() for name, t in engine.model.state_dict().items()}
    check(rung, engine, *others, work, images, labels)
    torch.testing.assert_close(dict(engine.model.state_dict()), dict(before), rtol=0, atol=0)


def test_a_weak_attack_gets_no_time(ready, monkeypatch) -> None:
    make, images, labels = ready
    engine = make(PRODUCT)
    monkeypatch.setattr(engine, "attack", lambda images, labels: images.clone())
    with pytest.raises(AssertionError, match="the attack raises the loss"):
        check(PRODUCT, engine, make("reference"), make("autocast"), WORK, images, labels)


def test_an_attack_outside_of_the_ball_gets_no_time(ready, monkeypatch) -> None:
    make, images, labels = ready
    engine = make(PRODUCT)
    monkeypatch.setattr(engine, "attack", lambda images, labels: (images + 0.1).clamp(0, 1))
    with pytest.raises(AssertionError, match="leaves the ball"):
        check(PRODUCT, engine, make("reference"), make("autocast"), WORK, images, labels)


def test_a_wrong_gradient_gets_no_time(ready, monkeypatch) -> None:
    make, images, labels = ready
    engine = make("eager")
    real = engine.update

    def wrong(images, labels):
        result = real(images, labels)
        engine.model.backbone.conv1.weight.grad.mul_(3)
        return result

    monkeypatch.setattr(engine, "update", wrong)
    with pytest.raises(AssertionError, match="the gradient is"):
        check("eager", engine, make("reference"), make("autocast"), WORK, images, labels)


def test_large_batches_name_the_references_own_method() -> None:
    assert WORK._replace(batch=LARGEST_SEPARATION).reference_method == "srat-ldam"
    assert WORK._replace(batch=LARGEST_SEPARATION + 1).reference_method == "ce"


def test_rows_compare_each_implementation_with_each_reference() -> None:
    names = ("reference", "eager", "shadow")
    own = {name: {"method": "ce", "precision": "fp32"} for name in names}
    calls = {name: (lambda: sum(range(1000))) for name in names}
    pairs = [(a, b) for a in names for b in names[:2] if a != b and compared(a, b, names[:2])]
    assert pairs == [("eager", "reference"), ("shadow", "reference"), ("shadow", "eager")]
    found = list(rows(Case("step", {"batch": 4}, calls, pairs, own, 4, 1.0), rounds=3, block=0.0))
    assert [(row["implementation"], row["reference"]) for row in found] == pairs
    assert all(row["images_per_second"] > 0 and row["reference_method"] == "ce" for row in found)


def test_one_trick_is_compared_with_the_product_only() -> None:
    references = ("reference", "eager", "autocast-only", "compile-only")
    names = (*references, "autocast", PRODUCT)
    found = {(a, b) for a in names for b in references if a != b and compared(a, b, references)}
    assert {b for a, b in found if a == PRODUCT} == set(references)
    assert {b for a, b in found if a == "autocast-only"} == {"reference", "eager"}
    assert {b for a, b in found if a == "autocast"} == {"reference", "eager"}
    assert ("reference", "eager") not in found


def test_what_was_compiled_says_how_and_how_long() -> None:
    engine = make_engine("shadow", WORK)
    assert _compilation("shadow", engine, {}) == {"compile_seconds": 0.0}
    engine = make_engine("compiled", WORK)  # compiles at its first step only
    engine.compile_seconds = 1.234
    found = _compilation("compiled", engine, {"cache_hits": 0, "cache_misses": 0})
    assert found["compile_seconds"] == 1.23
    assert found["compile_mode"] == "default"
    assert set(found) == {"compile_seconds", "compile_mode", "cache_hits", "cache_misses"}


def test_overlapping_intervals_count_once() -> None:
    assert covered([]) == 0
    assert covered([(5, 7), (0, 2), (1, 3), (6, 6.5)]) == 5
