"""FGSM and projected gradient descent, readable and eager."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from srat_fast.attacks.inner import ce
from srat_fast.attacks.threat import Threat
from srat_fast.errors import EvaluationFailure
from srat_fast.models.batch import Batch, Gather


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
    model: Any,
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
    gather: Gather | None = None,
    stop: str = "off",
) -> Tensor:
    """PGD-k (Madry et al. 2018): k steps up the loss, each projected onto the ball and [0, 1].

    Only the gradient of the images is computed: parameters get none, and their `.grad` is untouched.

    Args:
        model: images -> logits [B, C], or for a loss that declares `features = True` a classifier with `features`,
            `classify` and `separable`; its train/eval mode is the caller's choice.
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
        stop: of each image: "first-wrong", one step after an iterate that is misclassified (where that step has put it
            right again, at the next one that is); "last-right", at the iterate before the first one that is
            misclassified, or at the start; the last of the k + 1 iterates is not looked at. The start is projected.

    Returns:
        Adversarial images [B, C, H, W], detached.

    Raises:
        EvaluationFailure: the loss does not depend on the images through any gradient.
    """
    adversarial = (images if start is None else start).detach().clone()
    halt = None if stop == "off" else _Halt(stop, labels if gather is None else gather.own(labels))
    if halt is not None and len(images):
        adversarial = ball.step(adversarial, torch.zeros_like(adversarial), images, step_size)
    network, forward = (model, None) if getattr(loss, "features", False) else (None, model)
    batch = Batch(network, adversarial, labels, images, forward=forward, objective=objective, gather=gather)
    for _ in range(steps):
        batch.move(adversarial.requires_grad_(True))
        with torch.enable_grad():
            value = loss(batch)
        found = torch.autograd.grad(value, adversarial, allow_unused=True) if value.requires_grad else (None,)
        if found[0] is None:
            raise EvaluationFailure("no gradient reaches the images: the model is cut off from its input")
        adversarial = adversarial.detach()
        if not len(images):  # another process of the run has the whole batch
            continue
        if halt is None:
            adversarial = ball.step(adversarial, found[0], images, step_size, nonfinite, zero)
        else:
            kept = halt.look(batch.own_logits.detach(), adversarial)
            moved = ball.step(adversarial.clone(), found[0], images, step_size, nonfinite, zero)
            adversarial = torch.where(halt.ended, kept, moved)
    return adversarial


class _Halt:
    """Which images of a batch have ended their attack, [B, 1, 1, 1]; all of them stay in the batch."""

    def __init__(self, stop: str, labels: Tensor) -> None:
        self._stop, self._labels = stop, labels
        self.ended = torch.zeros_like(labels, dtype=torch.bool).view(-1, 1, 1, 1)
        self._wrong_before = self.ended
        self._before: Tensor | None = None

    def look(self, logits: Tensor, present: Tensor) -> Tensor:
        """End those of which it is time; where images stay that have ended."""
        wrong = (logits.argmax(dim=1) != self._labels).view(-1, 1, 1, 1)
        if self._stop == "first-wrong":
            self.ended = self.ended | (wrong & self._wrong_before)
            self._wrong_before = self._wrong_before | wrong
            return present
        now = wrong & ~self.ended
        self.ended = self.ended | now
        kept = present if self._before is None else torch.where(now, self._before, present)
        self._before = kept
        return kept
