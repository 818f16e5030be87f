"""Evaluating a finished run: a run directory and attack names enter, accuracies leave and join its record."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from srat_fast.data.memory import MemoryLoader
from srat_fast.data.split import load_split
from srat_fast.errors import UserError
from srat_fast.evaluation.accuracy import PgdSettings, accuracies, collapsed_class, predict
from srat_fast.evaluation.judge import eval_settings
from srat_fast.hardware import device_name, numerics, resolve_device
from srat_fast.models.files import load_model
from srat_fast.recipe import recipe_from_dict
from srat_fast.record import MODEL, RECIPE, RECORD, RunDirectory, versions


def parse_attacks(names: str, default: PgdSettings) -> dict[str, PgdSettings | None]:
    """What `--attack` stands for.

    Args:
        names: comma-separated, each "clean" or "pgd-K".
        default: the run's evaluation attack; its step size and radius apply.

    Returns:
        Name -> settings, None for clean images.

    Raises:
        UserError: an unknown name.
    """
    attacks: dict[str, PgdSettings | None] = {}
    for name in (part.strip().lower() for part in names.split(",")):
        steps = re.fullmatch(r"pgd-([1-9][0-9]{0,4})", name)
        if name == "clean":
            attacks[name] = None
        elif steps:
            attacks[name] = PgdSettings(int(steps[1]), default.step_size, default.epsilon)
        else:
            raise UserError("--attack", "a comma-separated list of clean and pgd-K, K from 1 to 99999", names)
    return attacks


def evaluate(
    run: str | Path,
    attacks: str = "clean,pgd-20",
    *,
    changes: dict[str, Any] | None = None,
    device: str = "auto",
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> dict[str, Any]:
    """Accuracies of a run's saved model on its test images, in fp32, eager and eval mode.

    Args:
        run: a run directory.
        attacks: as for `parse_attacks`.
        changes: recipe fields to change, such as {"data.root": ..., "data.test_limit": 1000}.
        device: "auto", "cpu", "cuda" or "cuda:N".
        progress: told (attack, images done, images in all).

    Returns:
        Attack name -> {"overall", "well", "under", "balanced", "per_class", "seconds", "images", attack settings};
        the same is appended to `evaluations` in the run's record.json, with whether the images are the run's own.

    Raises:
        UserError: not a run, unknown attack, images missing.
    """
    directory = RunDirectory.open(Path(run))
    recipe = recipe_from_dict(directory.read_json(RECIPE)).replace(changes or {}).resolve()
    chosen = parse_attacks(attacks, eval_settings(recipe))
    place = resolve_device(device)
    model = load_model(directory.path / MODEL).to(place)
    split = load_split(recipe)
    loader = MemoryLoader(split.test, batch_size=recipe.run.eval_batch_size, device=place)
    results: dict[str, Any] = {}
    for name, attack in chosen.items():
        started, done = time.perf_counter(), 0

        def report(images: int, name: str = name) -> None:
            nonlocal done
            done += images
            progress(name, done, len(split.test))

        with numerics(recipe.run.deterministic):
            predictions, labels = predict(model, loader, attack, seed=recipe.seed, progress=report)
        results[name] = accuracies(predictions, labels, split.well, split.under) | {
            "collapsed": collapsed_class(predictions),
            "images": len(split.test),
            "seconds": time.perf_counter() - started,
            "device": device_name(place),
        }
        if attack is not None:
            results[name] |= {"steps": attack.steps, "step_size": attack.step_size, "epsilon": attack.epsilon}
    record = directory.read_json(RECORD)
    # a subset of the test images has a checksum of its own, which says nothing about the rest
    subset = recipe.data.test_limit != record["recipe"]["data"]["test_limit"]
    same = None if subset else split.checksum == record["data_checksum"]
    entry = {"attacks": results, "data_checksum": split.checksum, "same_data": same, "versions": versions()}
    directory.write_json(RECORD, record | {"evaluations": [*record.get("evaluations", []), entry]})
    return results
