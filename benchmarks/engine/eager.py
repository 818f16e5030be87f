"""The middle rungs of the ladder: a model and one or two tricks enter, an engine without the others leaves.

Same interface as the product's engines. With no trick it is the published kind of code with vectorised losses: eager,
fp32, contiguous, parameter gradients computed and thrown away in the attack.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.engine.work import COUNTS, UNDER
from srat_fast.attacks.pgd import pgd
from srat_fast.attacks.threat import LInfBall
from srat_fast.losses.objective import Objective
from srat_fast.models.batch import Batch
from srat_fast.models.classifier import Classifier
from srat_fast.recipe import ResolvedRecipe
from srat_fast.training.step import learning_rate


class Tricks(NamedTuple):
    """What an eager loop does beyond the published code.

    Attributes:
        input_gradients: the attack differentiates the images only.
        mixed: fp32 weights under bf16 autocast, everything channels_last.
        compiled: torch.compile, its defaults, on the network's forward and backward.
    """

    input_gradients: bool = False
    mixed: bool = False
    compiled: bool = False


class Total(NamedTuple):
    """The loss of an update, as the gate reads it."""

    losses: dict[str, Tensor]


class EagerLoop:
    """A plain training step on fp32 weights.

    Args:
        recipe: resolved; its attack, loss and optimiser apply, its `run` section does not.
        model: on the device, fp32.
        tricks: see `Tricks`.
    """

    def __init__(self, recipe: ResolvedRecipe, model: Classifier, tricks: Tricks) -> None:
        self.recipe, self.model, self.tricks = recipe, model.train(), tricks
        self.device = model.linear.weight.device
        self.format = torch.channels_last if tricks.mixed else torch.contiguous_format
        self.model.to(memory_format=self.format)
        self.objective = Objective(recipe, COUNTS, UNDER, self.device)
        self.ball = LInfBall(recipe.attack.epsilon)
        self.noise = torch.Generator(self.device).manual_seed(0)
        optim = recipe.optim
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay
        )
        self.classify, self.separable = model.classify, model.separable
        self._features = torch.compile(model.features, dynamic=False) if tricks.compiled else model.features

    def start_epoch(self, epoch: int) -> None:
        self.objective.start_epoch(epoch)
        self.optimizer.param_groups[0]["lr"] = learning_rate(self.recipe, epoch)

    def features(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.tricks.mixed):
            return self._features(images)

    def logits(self, images: Tensor) -> Tensor:
        return self.model.classify(self.features(images))

    def attack(self, images: Tensor, labels: Tensor) -> Tensor:
        attack = self.recipe.attack
        images = images.contiguous(memory_format=self.format)
        x = self.ball.random_start(images, self.noise)
        self.model.train(attack.bn == "batch")
        if self.tricks.input_gradients:
            x = pgd(
                self.logits,
                images,
                labels,
                ball=self.ball,
                steps=attack.steps,
                step_size=attack.step_size,
                start=x,
            )
        else:
            for _ in range(attack.steps):
                x = x.detach().requires_grad_(True)
                functional.cross_entropy(self.logits(x), labels).backward()
                assert x.grad is not None
                x = self.ball.step(x.detach(), x.grad, images, attack.step_size)
            self.optimizer.zero_grad()
        self.model.train()
        return x.detach()

    def update(self, images: Tensor, labels: Tensor) -> Total:
        self.optimizer.zero_grad()
        total = self.objective(Batch(self, images, labels))["total"]
        total.backward()
        self.optimizer.step()
        return Total({"total": total.detach()})

    def step(self, images: Tensor, labels: Tensor) -> Total:
        return self.update(self.attack(images, labels), labels)
