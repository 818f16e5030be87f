"""The engine, fast against reference in the same run: `pytest benchmarks/ --benchmark-only`.

Each benchmark's gate comes first; `extra_info["ratios"]` is then measured in turns, A B A B, by medians: against the
reference engine and, the fairer yardstick, against the same step with vectorised losses ("eager").
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest

from benchmarks.engine.cases import Case, Engines, build, rows, training_case
from benchmarks.engine.ladder import PRODUCT
from benchmarks.engine.serving import evaluation_case, loader_case
from benchmarks.engine.stages import BASELINES, MAIN
from benchmarks.engine.work import BATCHES, ON_GPU, PRECISIONS, Work
from benchmarks.measure import machine

RUNGS = (*BASELINES, PRODUCT)
ROUNDS, BLOCK = (5, 0.3) if ON_GPU else (3, 0.0)


@lru_cache(maxsize=1)  # the parts of one size follow each other
def engines(work: Work) -> Engines:
    return build(work, RUNGS)


def timed(benchmark: Any, case: Case, implementation: str) -> None:
    """The ratios first, then the implementation alone under pytest-benchmark's clock."""
    found = [row for row in rows(case, ROUNDS, BLOCK) if row["implementation"] == implementation]
    benchmark.group = case.op
    benchmark.extra_info.update(machine(), rows=found)
    benchmark.extra_info["ratios"] = {row["reference"]: row["ratio"]["median"] for row in found}
    benchmark.pedantic(case.functions[implementation], rounds=ROUNDS, iterations=1)


@pytest.mark.parametrize("part", ["step", "attack", "update", "epoch"])
@pytest.mark.parametrize("bn", ["batch", "running"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("batch", BATCHES)
def test_training(benchmark: Any, batch: int, precision: str, bn: str, part: str) -> None:
    built = engines(Work("srat-ldam", batch, bn, precision))
    # on a CPU "eager" and the reference take the same time (NOTES.md): one of them is enough for the parts
    rungs = RUNGS if ON_GPU or part == "step" else ("reference", PRODUCT)
    timed(benchmark, training_case(built, part, rungs), PRODUCT)


@pytest.mark.parametrize("batch", BATCHES)
def test_loader(benchmark: Any, batch: int) -> None:
    timed(benchmark, loader_case(batch), "memory")


@pytest.mark.parametrize("batch", BATCHES)
def test_evaluation(benchmark: Any, batch: int) -> None:
    timed(benchmark, evaluation_case(Work("srat-ldam", batch, "batch", MAIN)), "product")
