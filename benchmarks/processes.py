"""What several processes exchange and what that costs: `torchrun --nproc-per-node 2 benchmarks/processes.py`.

Processor time of a step of N processes against one of a single process on the same share of images, in turns (A B A B);
collectives and bytes are counted where torch is called. `--model` prints docs/explanation/performance.md's table of
predicted GPU steps from such counts, in one process.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from srat_fast.models.build import build_model
from srat_fast.ranks import ALONE, Ranks, joined
from srat_fast.recipe import build_recipe
from srat_fast.training.step import FastEngine

COUNTS = [5000 // 2**k for k in range(10)]
UNDER = list(range(5, 10))


class Link(NamedTuple):
    """What connects GPUs, taken as given: seconds of a small collective, and bytes a second of a large one."""

    latency: float
    speed: float


#: 8 GPUs of one NVLink node; 64 of eight such nodes, by 400 Gb/s a GPU.
LINKS = {8: Link(18e-6, 350e9), 64: Link(45e-6, 45e9)}
#: ResNet-18 at PGD-10: expected images a second of a GPU at batch 128 (performance.md), by `attack.bn`.
SPEEDS = {"batch": 7946.0, "running": 10380.0}
GRADIENTS, NORMS, STEPS = 11_173_962 * 4, 20, 10


def make(kind: str, bn: str, ranks: Ranks, width: int, batch: int, steps: int) -> FastEngine:
    """An engine of the paper's method."""
    fields = {
        "run.batch_norm": "local" if kind == "local" else "sync",
        "attack.bn": bn,
        "model.width": width,
        "optim.batch_size": batch,
        "attack.steps": steps,
        "run.precision": "fp32",
        "run.compile": "off",
        "run.capture": "off",
    }
    recipe = build_recipe("paper", fields).resolve()
    model = build_model(recipe, classes=10, channels=3, moments=None)
    engine = FastEngine(recipe, model, COUNTS, UNDER, ranks)
    engine.start_epoch(0)
    return engine


class Counted:
    """Collectives and their bytes."""

    def __init__(self) -> None:
        self.calls = self.bytes = 0
        for name in ("all_reduce", "all_gather"):
            setattr(dist, name, self._counting(getattr(dist, name)))

    def _counting(self, function: Any) -> Any:
        def call(first: Any, *more: Any, **named: Any) -> Any:
            sent = more[0] if isinstance(first, list) else first
            self.calls, self.bytes = self.calls + 1, self.bytes + sent.numel() * sent.element_size()
            return function(first, *more, **named)

        return call


def measure(width: int, batch: int, steps: int, rounds: int) -> None:
    """Print a line a variant."""
    with joined("cpu", 600.0) as ranks:
        counted = Counted()
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(batch, 3, 32, 32, generator=generator)
        labels = torch.randint(10, (batch,), generator=generator)
        own = images[ranks.share(batch)]
        cases = [("sync", "batch"), ("sync", "running"), ("local", "batch"), ("alone", "batch")]
        engines = {
            (kind, bn): make(kind, bn, ALONE if kind == "alone" else ranks, width, batch, steps)
            for kind, bn in cases
        }  # fmt: skip
        seconds: dict[Any, list[float]] = {case: [] for case in engines}
        told = {}
        for _ in range(rounds + 1):
            for case, engine in engines.items():
                calls, sent = counted.calls, counted.bytes
                before = time.process_time()
                engine.step(own, labels[ranks.share(batch)] if case[0] == "alone" else labels)
                seconds[case].append(time.process_time() - before)
                told[case] = counted.calls - calls, counted.bytes - sent
        if ranks.first:
            alone = statistics.median(seconds["alone", "batch"][1:])
            for case, all_of in seconds.items():
                median = statistics.median(all_of[1:])
                share = f", {1 - alone / median:.0%} of it not spent alone" if case[1] == "batch" else ""
                calls, sent = told[case]
                print(
                    f"{case[0]:5} attack.bn {case[1]:7} {median:.3f} s of processor time a step{share}; "
                    f"{calls} collectives, {sent / 1e6:.2f} MB",
                    flush=True,
                )


def predicted(size: int, kind: str, bn: str) -> tuple[float, float, int]:
    """(Seconds of a step's computation, seconds of what it exchanges, small collectives), 128 images a GPU."""
    link = LINKS[size]
    update = 2 * NORMS if kind == "sync" else 0
    attack = STEPS * (2 * NORMS + 1) if kind == "sync" and bn == "batch" else 0
    small = (
        update + attack + 3
    )  # the outputs of the batch: logits, projections; and local statistics or the like
    large = 2 * (size - 1) / size * GRADIENTS / link.speed
    return 128 / SPEEDS[bn], small * link.latency + large, small


def main() -> None:
    """Measure, or print the model's table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--model", action="store_true")
    given = parser.parse_args()
    if not given.model:
        measure(given.width, given.batch, given.steps, given.rounds)
        return
    print(
        "| GPUs | `run.batch_norm` | `attack.bn` | small collectives a step | exchange, ms | step, ms | efficiency |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for size in LINKS:
        for kind, bn in (("sync", "batch"), ("sync", "running"), ("local", "batch"), ("local", "running")):
            computing, exchange, small = predicted(size, kind, bn)
            step = computing + exchange
            row = (
                size,
                kind,
                bn,
                small,
                f"{1000 * exchange:.1f}",
                f"{1000 * step:.1f}",
                f"{computing / step:.0%}",
            )
            print(f"| {' | '.join(map(str, row))} |")


if __name__ == "__main__":
    main()
