"""The work of a training image: a network and a recipe enter, FLOP counts leave, counted on the real network."""

from __future__ import annotations

import copy

import torch
from torch.utils.flop_counter import FlopCounterMode

from srat_fast.models.resnet import ResNet18
from srat_fast.recipe import Recipe


def forward_flops(model: ResNet18, channels: int, size: int) -> int:
    """FLOPs of one image's forward pass (a multiply-add counts as two), projection head included.

    Args:
        model: on any device; a copy on the CPU is run.
        channels: of the image.
        size: its height and width.

    Returns:
        1.11e9 for the full network at 32 x 32.
    """
    shadow = copy.deepcopy(model).float().cpu().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        features = shadow.features(torch.empty(1, channels, size, size, device="cpu"))
        shadow.classify(features)
        shadow.separable(features)
    return counter.get_total_flops()


def training_flops(forward: int, recipe: Recipe) -> int:
    """FLOPs of one training image (performance.md "The work and its floor").

    An attack step is a forward pass and the gradient of the input (2 forwards); the training step adds the weights'
    gradient (3): 10 x 2 + 3 = 23 forwards for PGD-10.

    Args:
        forward: of one image.
        recipe: its attack.

    Returns:
        25.55e9 for the `paper` recipe.
    """
    attack = 2 * recipe.attack.steps if recipe.row.adversarial else 0
    return (attack + 3) * forward
