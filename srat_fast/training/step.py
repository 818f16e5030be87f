"""One step of the fast path: a batch enters; the model is attacked, differentiated and updated, and losses leave."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor

from srat_fast.attacks.pgd import batch_norm_mode, cross_entropy, pgd
from srat_fast.attacks.threat import LInfBall
from srat_fast.losses.objective import Objective
from srat_fast.models.resnet import ResNet18
from srat_fast.recipe import Recipe
from srat_fast.seeds import seed_for
from srat_fast.training.schedule import learning_rate
from srat_fast.training.stopwatch import Stopwatch


class StepResult(NamedTuple):
    """What one step leaves, on the device and detached: the host need not wait for it.

    Attributes:
        total: L of Eq. 7, scalar.
        classification: L_cls, scalar.
        separation: L_sep, scalar, 0 where the method has none.
        correct: training images classified right (adversarial ones, before the update), scalar int64.
        images: what the network was trained on, [B, C, H, W].
    """

    total: Tensor
    classification: Tensor
    separation: Tensor
    correct: Tensor
    images: Tensor


class FastEngine:
    """The product's training step: channels_last, autocast, input-only attack gradients, `srat_kernels` losses.

    Args:
        recipe: resolved, precision included.
        model: on the device, in train mode; laid out as channels_last here.
        counts: training images per class.
        under: labels of the under-represented half.
    """

    def __init__(self, recipe: Recipe, model: ResNet18, counts: list[int], under: list[int]) -> None:
        self.recipe, self.row = recipe, recipe.row
        self.device = next(model.parameters()).device
        self.model = model.train()
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        self.objective = Objective(recipe, counts, under, self.device)
        self.ball = LInfBall(recipe.attack.epsilon)
        self.noise = torch.Generator(self.device).manual_seed(seed_for(recipe.seed, "attack"))
        self.nonfinite = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.stopwatch = Stopwatch(self.device)
        self.optimizer = torch.optim.SGD(
            model.parameters(),
            lr=recipe.optim.lr,
            momentum=recipe.optim.momentum,
            weight_decay=recipe.optim.weight_decay,
            fused=True,
        )

    def start_epoch(self, epoch: int) -> None:
        """Set the epoch's learning rate and class weights.

        Args:
            epoch: from 0.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, epoch)
        self.objective.start_epoch(epoch)

    def attack(self, images: Tensor, labels: Tensor) -> Tensor:
        """The recipe's training attack on a batch.

        Args:
            images: [B, C, H, W] in [0, 1].
            labels: [B].

        Returns:
            Adversarial images, same shape, fp32.
        """
        attack = self.recipe.attack
        assert attack.step_size is not None, "the recipe is resolved"
        start = self.ball.random_start(images, self.noise) if attack.random_start else None
        loss = cross_entropy if attack.loss == "ce" else self.objective.raw_classification
        # one autocast region around all steps, so that the weights are cast to bf16 once a batch
        with batch_norm_mode(self.model, attack.bn), self._autocast():
            return pgd(
                self.model,
                images,
                labels,
                ball=self.ball,
                steps=attack.steps,
                step_size=attack.step_size,
                start=start,
                loss=loss,
                nonfinite=self.nonfinite,
            )

    def step(self, images: Tensor, labels: Tensor) -> StepResult:
        """Algorithm 1 on one batch: attack, objective, update.

        Args:
            images: [B, C, H, W] in [0, 1].
            labels: [B].

        Returns:
            The step's losses.
        """
        images = images.contiguous(memory_format=torch.channels_last)
        if self.row.adversarial:
            with self.stopwatch.region("attack"):
                images = self.attack(images, labels)
        with self.stopwatch.region("step"):
            return self.update(images, labels)

    def update(self, images: Tensor, labels: Tensor) -> StepResult:
        """The outer minimisation: one SGD step on the objective of Eq. 7.

        Args:
            images: [B, C, H, W], adversarial unless the method is natural.
            labels: [B].

        Returns:
            The step's losses.
        """
        with self._autocast():
            features = self.model.features(images)
            logits = self.model.classify(features)
            separable = self.model.separable(features) if self.row.separation else None
        loss = self.objective(separable, logits, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        if self.recipe.optim.clip_norm > 0:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optim.clip_norm)
        self.optimizer.step()
        correct = (logits.detach().argmax(dim=1) == labels).sum()
        return StepResult(
            loss.total.detach(), loss.classification.detach(), loss.separation.detach(), correct, images
        )

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.run.precision == "bf16")
