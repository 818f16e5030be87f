"""FGSM and projected gradient descent, readable and eager."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from srat_fast.attacks.inner import ce
from srat_fast.attacks.threat import Threat
from srat_fast.errors import EvaluationFailure
from srat_fast.models.batch import Batch


def fgsm(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    ball: Threat,
    loss: Callable[[Batch], Tensor] = ce,
) -> Tensor:
    """The fast gradient sign method (Goodfellow et al. 2015): one step of length epsilon from the clean image."""
    return pgd(model, images, labels, ball=ball, steps=1, step_size=ball.epsilon, loss=loss)


def pgd(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    ball: Threat,
    steps: int,
    step_size: float | Tensor,
    start: Tensor | None = None,
    loss: Callable[[Batch], Tensor] = ce,
    objective: Any = None,
    nonfinite: Tensor | None = None,
    zero: Tensor | None = None,
    gather: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """PGD-k (Madry et al. 2018): k steps up the loss, each projected onto the ball and [0, 1].

    Only the gradient of the images is computed: parameters get none, and their `.grad` is untouched.

    Args:
        model: images -> logits [B, C]; its train/eval mode is the caller's choice.
        images: [B, C, H, W] in [0, 1].
        labels: [B].
        ball: the threat model.
        steps: k >= 1.
        step_size: alpha, or [B] of them.
        start: the first x', such as `ball.random_start(...)`; None starts at `images`.
        loss: what is climbed, of `srat_fast.attacks.inner` or one's own: batch -> scalar.
        objective: the batch's, for a loss that reads it.
        nonfinite: one-element int64 counter of non-finite gradient entries.
        zero: one-element int64 counter of gradient entries that are exactly zero.
        gather: the batch's, for a loss that is taken on the images of several processes; `labels` are then all of them.

    Returns:
        Adversarial images [B, C, H, W], detached.

    Raises:
        EvaluationFailure: the loss does not depend on the images through any gradient.
    """
    adversarial = (images if start is None else start).detach().clone()
    batch = Batch(None, adversarial, labels, images, forward=model, objective=objective, gather=gather)
    for _ in range(steps):
        batch.move(adversarial.requires_grad_(True))
        with torch.enable_grad():
            value = loss(batch)
        found = torch.autograd.grad(value, adversarial, allow_unused=True) if value.requires_grad else (None,)
        if found[0] is None:
            raise EvaluationFailure("no gradient reaches the images: the model is cut off from its input")
        adversarial = adversarial.detach()
        if len(images):  # none: another process of the run has the whole batch
            adversarial = ball.step(adversarial, found[0], images, step_size, nonfinite, zero)
    return adversarial
