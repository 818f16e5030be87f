"""A run's network: recipe and data facts enter, an initialised `ResNet18` leaves."""

from __future__ import annotations

import torch
from torch import Tensor

from srat_fast.errors import UserError
from srat_fast.models.resnet import ResNet18
from srat_fast.recipe import Recipe, ResolvedRecipe
from srat_fast.seeds import seed_for


def build_model(
    recipe: Recipe, *, classes: int, channels: int, moments: tuple[Tensor, Tensor] | None
) -> ResNet18:
    """The network of a recipe with weights from the recipe's seed.

    Args:
        recipe: resolved.
        classes: C.
        channels: of the images.
        moments: per-channel (mean, std) for `model.normalize = dataset`, else None.

    Returns:
        A float32 model on the CPU; the global random state is left as it was.
    """
    head = recipe.row.separation and recipe.loss.separation_features == "projection"
    mean, std = moments if moments is not None else (None, None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(recipe.seed, "weights"))
        return ResNet18(
            classes,
            channels=channels,
            width=recipe.model.width,
            feature_dim=recipe.model.feature_dim if head else None,
            mean=mean,
            std=std,
        )


def check_batch_norm(recipe: ResolvedRecipe, images: int) -> None:
    """Refuse batches of one image where the last stage is one pixel: BatchNorm has nothing to average there.

    Args:
        recipe: resolved.
        images: training images an epoch.

    Raises:
        UserError: naming the batch size.
    """
    size = recipe.data.image_size
    batch = recipe.optim.batch_size
    if size <= 8 and (batch == 1 or images % batch == 1):
        raise UserError(
            "optim.batch_size",
            f"leaves a batch of one image ({images} in all), which BatchNorm cannot normalise at {size} pixels; "
            "take another size",
            batch,
        )
