"""The learning rate of an epoch: optimiser settings and an epoch enter, a number leaves. Pure."""

from __future__ import annotations

from srat_fast.recipe import Recipe


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """Linear warm-up, then a factor at each milestone (method.md "schedule").

        warm-up: lr (e + 1) / warmup_epochs      after: lr * decay^(milestones reached)

    Args:
        recipe: resolved.
        epoch: from 0.

    Returns:
        0.1 -> 1e-3 at 160 -> 1e-5 at 180 for the `paper` recipe.
    """
    optim = recipe.optim
    assert optim.warmup_epochs is not None and optim.milestones is not None, "the recipe is resolved"
    if epoch < optim.warmup_epochs:
        return optim.lr * (epoch + 1) / optim.warmup_epochs
    return optim.lr * optim.decay ** sum(epoch >= milestone for milestone in optim.milestones)
