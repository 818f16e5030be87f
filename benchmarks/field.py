"""Cost of a training step of the field's methods, in units of PGD-10 adversarial training (`ce`) on one CPU thread.

python -m benchmarks.field [--rounds N]: all methods in turn in each round, so that what slows the machine slows all;
process time, since other processes may run; ratios within a round, then their median and deviation over the rounds.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from srat_fast.models.build import build_model, training_flops
from srat_fast.recipe import build_recipe
from srat_fast.training.step import FastEngine

METHODS = ("ce", "at-bsl", "he", "harl", "reat", "robustlt:at-bsl", "srat:at-bsl", "mart", "robal-n", "awp", "trades",
           "trades-awp", "frl-remargin", "cfa", "wat", "cgr", "faal", "mcat", "bat")  # fmt: skip
#: CIFAR-10-LT, imbalance ratio 50
COUNTS = [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100]
BATCH, SIZE, WIDTH = 32, 32, 16
RESULT = Path(__file__).resolve().parent / "results" / "field-one-cpu-thread.json"


def engine_of(method: str) -> FastEngine:
    """A method under the paper's protocol in float32, neither compiled nor captured, past its warm-up."""
    fields = {"method": method, "model.width": WIDTH, "run.precision": "fp32", "run.device": "cpu",
              "run.compile": "off", "run.capture": "off"}  # fmt: skip
    recipe = build_recipe("paper", fields).resolve()
    model = build_model(recipe, classes=len(COUNTS), channels=3, moments=None)
    engine = FastEngine(recipe, model, COUNTS, [5, 6, 7, 8, 9])
    engine.steer({name: torch.rand_like(found) + 0.5 for name, found in engine.objective.found.items()})
    engine.start_epoch(5)
    return engine


def measured(rounds: int) -> dict[str, Any]:
    """Milliseconds a step and the ratio to `ce`: measured, and predicted from the passes alone."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(BATCH, 3, SIZE, SIZE, generator=generator)
    labels = torch.multinomial(torch.tensor(COUNTS, dtype=torch.float), BATCH, True, generator=generator)
    labels[-3:] = torch.tensor([7, 8, 9])  # REAT's term needs one of the rarest third
    engines = {method: engine_of(method) for method in METHODS}
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for at in range(rounds + 1):
        shift = at % len(METHODS)
        for method in METHODS[shift:] + METHODS[:shift]:
            before = time.process_time()
            engines[method].step(images, labels)
            if at:  # the first round warms up
                seconds[method].append(time.process_time() - before)
    unit = training_flops(1, engines["ce"].recipe)
    rows = {}
    for method in METHODS:
        ratios = [own / ce for own, ce in zip(seconds[method], seconds["ce"], strict=True)]
        rows[method] = {
            "milliseconds": round(1000 * statistics.median(seconds[method]), 1),
            "ratio": round(statistics.median(ratios), 3),
            "deviation": round(statistics.stdev(ratios), 3),
            "predicted": round(training_flops(1, engines[method].recipe) / unit, 3),
        }
    network = f"ResNet-18 of width {WIDTH}, batch {BATCH} of {SIZE} x {SIZE}, PGD-10, float32"
    return {
        "network": network,
        "rounds": rounds,
        "processor": processor(),
        "torch": torch.__version__,
        "rows": rows,
    }


def processor() -> str:
    """Its name where the system tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(
        (line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine()
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=24)
    found = measured(parser.parse_args().rounds)
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
