"""Accuracies of a model, overall, well, under and per class: fp32, eager, eval mode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from srat_fast.attacks.named import GradientRound, NamedAttack
from srat_fast.attacks.threat import Threat
from srat_fast.data.memory import MemoryLoader
from srat_fast.evaluation.survivors import attack_images
from srat_fast.recipe.sections import Attack
from srat_fast.registry import threat

#: A run is called collapsed where one class takes more than this share of the clean predictions (method.md).
COLLAPSE_SHARE = 0.95


@dataclass(frozen=True)
class PgdSettings:
    """The evaluation's attack.

    Attributes:
        steps: k.
        step_size: alpha, pixel range [0, 1].
        epsilon: radius, pixel range [0, 1].
        threat: threat model, by name.
    """

    steps: int
    step_size: float
    epsilon: float
    threat: str = Attack.threat

    @property
    def ball(self) -> Threat:
        """What an attack may do."""
        return threat[self.threat](self.epsilon)


def predict(
    model: nn.Module,
    loader: MemoryLoader,
    attack: PgdSettings | None,
    *,
    seed: int = 0,
    progress: Callable[[int], None] = lambda images: None,
) -> tuple[Tensor, Tensor]:
    """Predicted and true labels, on clean images or on PGD examples of them.

    The model is judged in eval mode without autocast; its mode is put back afterwards.
    """
    named = NamedAttack("clean", None, (), {})
    if attack is not None:
        one = GradientRound(attack.ball, attack.steps, attack.step_size, "ce", "pgd/0")
        named = NamedAttack(f"pgd-{attack.steps}", attack.ball, (one,), {})
    outcome, labels = attack_images(model, loader, named, seed=seed, progress=progress)
    return outcome.predictions, labels


def accuracies(predictions: Tensor, labels: Tensor, well: list[int], under: list[int]) -> dict[str, Any]:
    """Fractions of right predictions."""
    right = (predictions == labels).double()

    def mean(of: Tensor) -> float:
        return right[of].mean().item() if bool(of.any()) else float("nan")

    per_class = [mean(labels == c) for c in range(len(well) + len(under))]
    present = [value for value in per_class if value == value]
    return {
        "overall": right.mean().item(),
        "balanced": sum(present) / len(present),
        "well": mean(torch.isin(labels, torch.tensor(well))),
        "under": mean(torch.isin(labels, torch.tensor(under))),
        "worst": min(present),
        "per_class": per_class,
    }


def collapsed_class(predictions: Tensor) -> int | None:
    """The class that nearly all predictions name, if there is one."""
    values, counts = predictions.unique(return_counts=True)
    top = int(counts.argmax())
    return int(values[top]) if int(counts[top]) > COLLAPSE_SHARE * len(predictions) else None
