"""Short runs for the tests of resuming: a recipe, a process that runs it, and a comparison of what two runs left."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from srat_fast import Recipe
from srat_fast.training.stops import Stops
from tests.tiny import TINY, tiny_recipe

#: All that a run may keep: several batches an epoch, a moving average, validation, curves.
SHORT = TINY | {
    "optim.epochs": 3,
    "optim.batch_size": 32,
    "optim.ema_decay": 0.5,
    "data.val_fraction": 0.2,
    "run.deterministic": True,
    "run.tensorboard": True,
}
#: What of a line of metrics.jsonl does not depend on the clock.
EXACT = ("epoch", "lr", "loss", "classification", "separation", "train_accuracy", "nonfinite_gradients",
         "zero_gradient_share", "validation")  # fmt: skip


class StopAfter(Stops):
    """Asks to stop at the n-th boundary, without a signal."""

    def __init__(self, boundaries: int) -> None:
        super().__init__()
        self._left = boundaries

    @property
    def requested(self) -> bool:
        if self._left == 0:
            self.signal = signal.SIGTERM
        self._left -= 1
        return self.signal is not None


def short(**changes: Any) -> Recipe:
    """The short recipe with fields changed; "__" stands for the dot."""
    return tiny_recipe(SHORT, **changes)


def options(recipe: dict[str, Any] = SHORT) -> list[str]:
    """The recipe's fields as arguments of `srat-fast train`."""
    return [part for name, value in recipe.items() for part in ("--set", f"{name}={value}")]


def command(out: Path, *more: str, recipe: dict[str, Any] = SHORT) -> list[str]:
    """`srat-fast train` of the short recipe as a process of its own."""
    return [sys.executable, "-m", "srat_fast", "train", *options(recipe), "--out", str(out), *more]


def finish(out: Path, *more: str, recipe: dict[str, Any] = SHORT) -> subprocess.CompletedProcess[str]:
    """Run the process to its end."""
    return subprocess.run(command(out, *more, recipe=recipe), capture_output=True, text=True, check=False)


def metrics(out: Path) -> list[dict[str, Any]]:
    """The exact part of metrics.jsonl."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: line.get(name) for name in EXACT} for line in lines]


def record(out: Path) -> dict[str, Any]:
    """record.json."""
    return json.loads((out / "record.json").read_text())


def assert_equal_runs(one: Path, other: Path) -> None:
    """Byte-equal weights files, equal metrics and results."""
    for name in ("model.safetensors", "best.safetensors", "ema.safetensors"):
        assert (one / name).exists() == (other / name).exists(), name
        if (one / name).exists():
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert metrics(one) == metrics(other)
    first, second = record(one), record(other)
    for key in ("standard", "robust", "collapsed", "ema", "status", "weights_checksums"):
        assert first.get(key) == second.get(key), key
    assert first.get("best") == second.get("best")
