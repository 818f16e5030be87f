"""FGSM and projected gradient descent, readable and eager: images and a loss enter, adversarial images leave."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from srat_fast.attacks.threat import LInfBall
from srat_fast.errors import EvaluationFailure


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """What every method's attack maximises: unweighted cross-entropy on raw logits (method.md "inner maximisation").

    Args:
        logits: [B, C].
        labels: [B].

    Returns:
        Scalar mean.
    """
    return functional.cross_entropy(logits, labels)


def carlini_wagner(logits: Tensor, labels: Tensor) -> Tensor:
    """The margin that PGD maximises as "CW" in the adversarial-training literature (Carlini and Wagner 2017, f_6).

    max_{j != y} logit_j - logit_y: positive where the image is already misclassified. Scaling the logits scales its
    gradient and leaves the gradient's sign as it is, which cannot be said of cross-entropy.

    Args:
        logits: [B, C], C >= 2.
        labels: [B].

    Returns:
        Scalar mean.
    """
    own = logits.gather(1, labels[:, None]).squeeze(1)  # [B]
    others = logits.scatter(1, labels[:, None], float("-inf"))  # [B, C]
    return (others.amax(dim=1) - own).mean()


def fgsm(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    ball: LInfBall,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
) -> Tensor:
    """The fast gradient sign method (Goodfellow et al. 2015): one step of length epsilon from the clean image.

    Args:
        model: images -> logits [B, C].
        images: [B, C, H, W] in [0, 1].
        labels: [B].
        ball: the threat model.
        loss: (logits, labels) -> scalar to maximise.

    Returns:
        Adversarial images [B, C, H, W], detached.
    """
    return pgd(model, images, labels, ball=ball, steps=1, step_size=ball.epsilon, loss=loss)


def pgd(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    ball: LInfBall,
    steps: int,
    step_size: float,
    start: Tensor | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    nonfinite: Tensor | None = None,
    zero: Tensor | None = None,
) -> Tensor:
    """PGD-k (Madry et al. 2018): k sign steps, each projected onto the ball and [0, 1].

    Only the gradient of the images is computed: parameters get none, and their `.grad` is untouched.

    Args:
        model: images -> logits [B, C]; its train/eval mode is the caller's choice.
        images: [B, C, H, W] in [0, 1].
        labels: [B].
        ball: the threat model.
        steps: k >= 1.
        step_size: alpha.
        start: the first x', such as `ball.random_start(...)`; None starts at `images`.
        loss: (logits, labels) -> scalar to maximise.
        nonfinite: one-element int64 counter of non-finite gradient entries.
        zero: one-element int64 counter of gradient entries that are exactly zero, and so do not move their pixel.

    Returns:
        Adversarial images [B, C, H, W], detached.

    Raises:
        EvaluationFailure: the loss does not depend on the images through any gradient.
    """
    adversarial = (images if start is None else start).detach().clone()
    for _ in range(steps):
        adversarial.requires_grad_(True)
        with torch.enable_grad():
            value = loss(model(adversarial), labels)
        found = torch.autograd.grad(value, adversarial, allow_unused=True) if value.requires_grad else (None,)
        if found[0] is None:
            raise EvaluationFailure("no gradient reaches the images: the model is cut off from its input")
        adversarial = ball.step(adversarial.detach(), found[0], images, step_size, nonfinite, zero)
    return adversarial
