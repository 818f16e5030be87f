"""Standard and robust accuracy of a run, with a flag for models that predict one class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from srat_fast.data.arrays import ImageSet
from srat_fast.data.memory import MemoryLoader
from srat_fast.evaluation.accuracy import PgdSettings, accuracies, collapsed_class, predict
from srat_fast.evaluation.intervals import intervals
from srat_fast.recipe import ResolvedRecipe


def eval_settings(recipe: ResolvedRecipe) -> PgdSettings:
    """The recipe's evaluation attack."""
    attack = recipe.eval_attack
    return PgdSettings(attack.steps, attack.step_size, attack.epsilon, attack.threat)


def judge(
    model: nn.Module,
    images: ImageSet,
    *,
    well: list[int],
    under: list[int],
    attack: PgdSettings,
    batch_size: int,
    device: torch.device,
    seed: int,
    progress: Callable[[int], None] = lambda images: None,
    confident: bool = False,
) -> dict[str, Any]:
    """Clean and robust accuracy; `confident`: each with its intervals."""
    loader = MemoryLoader(images, batch_size=batch_size, device=device)
    clean, labels = predict(model, loader, None, progress=progress)
    attacked, _ = predict(model, loader, attack, seed=seed, progress=progress)
    found: dict[str, Any] = {}
    for kind, predictions in (("standard", clean), ("robust", attacked)):
        found[kind] = accuracies(predictions, labels, well, under)
        if confident:
            found[kind]["intervals"] = intervals(predictions, labels, well, under)
    return found | {"collapsed": collapsed_class(clean)}
