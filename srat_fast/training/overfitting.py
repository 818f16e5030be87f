"""Catastrophic overfitting: accuracies of training and of PGD enter; whether they contradict each other leaves."""

from __future__ import annotations

from typing import Any

from srat_fast.recipe import Recipe

#: Training accuracy on the attacked images from which, and robust accuracy up to which, the two contradict each other.
HIGH, NEAR_ZERO = 0.5, 0.05


def catastrophic_overfitting(recipe: Recipe, train_accuracy: float, robust: dict[str, Any]) -> bool | None:
    """Whether a model resists the attack of its training and no other (Wong et al. 2020, on one-step attacks).

    Args:
        recipe: resolved.
        train_accuracy: on the adversarial images of an epoch.
        robust: PGD accuracies {"overall", "balanced", ...}, of validation images where there are some, else of test
            images.

    Returns:
        The verdict; None where the two cannot be compared: training on clean images, or an evaluation attack with a
        larger radius than training's.
    """
    assert recipe.eval_attack.epsilon is not None, "the recipe is resolved"
    if not recipe.row.adversarial or recipe.eval_attack.epsilon > recipe.attack.epsilon * (1 + 1e-9):
        return None
    return train_accuracy >= HIGH and max(robust["overall"], robust["balanced"]) <= NEAR_ZERO


def overfitting_verdict(recipe: Recipe, metrics: dict[str, Any], robust: dict[str, Any]) -> dict[str, Any]:
    """The verdict on a run's last epoch, for its record.

    Args:
        recipe: resolved.
        metrics: the last line of metrics.jsonl, with `validation` where there is one.
        robust: PGD accuracies on the test images.

    Returns:
        {"catastrophic_overfitting": verdict, "warnings": [text]}.
    """
    validated = "validation" in metrics
    against = metrics["validation"]["robust"] if validated else robust
    verdict = catastrophic_overfitting(recipe, metrics["train_accuracy"], against)
    warnings = []
    if verdict:
        warnings.append(
            f"catastrophic overfitting: {metrics['train_accuracy']:.0%} right under the attack of training, "
            f"{against['overall']:.0%} under PGD-{recipe.eval_attack.steps} on the "
            f"{'validation' if validated else 'test'} images; try more attack.steps or a smaller attack.step_size"
        )
    return {"catastrophic_overfitting": verdict, "warnings": warnings}
