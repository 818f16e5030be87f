"""The training step, fast against reference in the same run: `pytest benchmarks/ --benchmark-only`.

Each comparison first passes its correctness gate (one update on common images gives the same loss), then takes turns,
A B A B, so that a drifting clock hits both. `extra_info["ratio"]` is reference time / fast time, by medians.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable

import pytest
import torch

from srat_fast.data.arrays import ImageSet
from srat_fast.data.memory import MemoryLoader
from srat_fast.hardware import resolve_precision
from srat_fast.models.build import build_model
from srat_fast.recipe import Recipe, build_recipe
from srat_fast.reference import ReferenceEngine
from srat_fast.training.step import FastEngine

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
COUNTS, UNDER = [40, 30, 20, 10], [2, 3]
# a narrow network and few steps on a CPU, so that the suite takes minutes; the paper's sizes on a GPU
SIZES = (
    {"width": 64, "steps": 10, "batch": 128}
    if DEVICE.type == "cuda"
    else {"width": 16, "steps": 3, "batch": 32}
)


def recipe(precision: str, bn: str) -> Recipe:
    fields = {
        "data.name": "folder",
        "model.width": SIZES["width"],
        "attack.steps": SIZES["steps"],
        "attack.bn": bn,
        "run.precision": precision,
        "run.device": DEVICE.type,
    }
    return build_recipe("paper", fields).resolve()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    count = SIZES["batch"]
    pixels = torch.randint(0, 256, (count, 32, 32, 3), generator=generator, dtype=torch.uint8)
    labels = torch.multinomial(torch.tensor(COUNTS, dtype=torch.float), count, True, generator=generator)
    loader = MemoryLoader(ImageSet(pixels.numpy(), labels.numpy()), batch_size=count, device=DEVICE)
    return next(iter(loader.epoch(0)))


def engines(precision: str, bn: str) -> tuple[FastEngine, ReferenceEngine]:
    full = recipe("fp32", bn)
    model = build_model(full, classes=4, channels=3, moments=None).to(DEVICE)
    fast = FastEngine(recipe(precision, bn), model, COUNTS, UNDER)
    slow = ReferenceEngine(full, copy.deepcopy(model), COUNTS, UNDER)
    fast.start_epoch(0)
    slow.start_epoch(0)
    return fast, slow


def seconds(call: Callable[[], object]) -> float:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def in_turns(fast: Callable[[], object], slow: Callable[[], object], rounds: int = 3) -> float:
    """Median time of `slow` over that of `fast`, after one warm-up of each."""
    seconds(fast), seconds(slow)
    pairs = [(seconds(fast), seconds(slow)) for _ in range(rounds)]
    return statistics.median(p[1] for p in pairs) / statistics.median(p[0] for p in pairs)


PRECISIONS = sorted({"fp32", resolve_precision(Recipe(), DEVICE)})


@pytest.mark.parametrize("bn", ["batch", "running"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("part", ["attack", "update", "step"])
def test_fast_against_reference(benchmark, part: str, precision: str, bn: str) -> None:
    fast, slow = engines(precision, bn)
    images, labels = batch()
    gate, oracle = copy.deepcopy(fast.model), copy.deepcopy(slow.model)
    ours, theirs = fast.update(images, labels).total, slow.update(images, labels).total
    torch.testing.assert_close(ours, theirs, rtol=1e-4 if precision == "fp32" else 0.03, atol=0)
    fast.model.load_state_dict(gate.state_dict())
    slow.model.load_state_dict(oracle.state_dict())
    calls = [lambda engine=engine: getattr(engine, part)(images, labels) for engine in (fast, slow)]
    benchmark.extra_info |= {"ratio": in_turns(*calls), "images": len(labels), "device": str(DEVICE)} | SIZES
    benchmark.pedantic(lambda: seconds(calls[0]), rounds=3, iterations=1)
