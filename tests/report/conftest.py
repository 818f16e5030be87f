"""Records and run directories for the report's tests."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from srat_fast.recipe import build_recipe

CLASSES = ["ant", "bee", "cat", "dog"]


def make_record(**changes: Any) -> dict[str, Any]:
    """A record of a finished run; dotted names change the recipe, others the record."""
    recipe_changes = {"data.name": "digits", "data.imbalance": "exp", "data.ratio": 10.0} | {
        name: value for name, value in changes.items() if "." in name or name in ("method", "seed")
    }
    record: dict[str, Any] = {
        "recipe": build_recipe(None, recipe_changes).resolve().to_dict(),
        "status": "finished",
        "classes": CLASSES,
        "counts": [40, 20, 10, 4],
        "well": [0, 1],
        "under": [2, 3],
        "test_images": 40,
        "collapsed": None,
        "standard": accuracies(0.9),
        "robust": accuracies(0.5),
        "images_per_second": 600.0,
        "seconds": {"total": 60.0},
        "device": "cpu: a processor",
        "git_commit": "abc",
        "versions": {"torch": "2.13.0"},
    }
    record.update(copy.deepcopy({k: v for k, v in changes.items() if k not in recipe_changes}))
    return json.loads(json.dumps(record))


def accuracies(level: float) -> dict[str, Any]:
    return {
        "overall": level,
        "balanced": level,
        "well": level + 0.05,
        "under": level - 0.05,
        "per_class": [level + 0.08, level + 0.02, level, level - 0.1],
    }


def write_run(path: Path, record: dict[str, Any], epochs: int = 3) -> Path:
    """A run directory with this record and a few lines of metrics."""
    path.mkdir(parents=True)
    (path / "recipe.json").write_text(json.dumps(record["recipe"]))
    if record["status"] != "running":
        (path / "record.json").write_text(json.dumps(record))
    lines = [
        {"epoch": e, "lr": 0.1, "classification": 1 / (e + 1), "separation": 2.0, "train_accuracy": 0.1 * e}
        for e in range(epochs)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def make_study(place: Path) -> Path:
    """Natural, ce with three seeds, a lambda sweep of srat-ldam, one failed run and one under way."""
    root = place / "study"
    write_run(root / "natural", make_record(method="natural", robust=accuracies(0.12)))
    for seed, level in enumerate((0.50, 0.52, 0.57)):
        write_run(root / f"ce-{seed}", make_record(method="ce", seed=seed, robust=accuracies(level)))
    for weight in (0.0, 1.0, 2.0, 4.0):
        record = make_record(
            **{"method": "srat-ldam", "loss.separation_weight": weight, "standard": accuracies(0.8)}
        )
        write_run(root / f"srat-{weight:g}", record)
    failed = make_record(method="ldam", status="failed", problem="the loss is nan in epoch 2")
    for name in ("standard", "robust", "collapsed"):
        del failed[name]
    write_run(root / "failed", failed, epochs=1)
    write_run(
        root / "under-way", {"status": "running", "recipe": make_record(method="focal")["recipe"]}, epochs=2
    )
    return root


@pytest.fixture
def study(tmp_path) -> Path:
    """Ten runs, as `make_study` makes them."""
    return make_study(tmp_path)
