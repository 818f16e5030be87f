"""Algorithm 1, line by line, in eager fp32: a batch enters, the model is updated, losses leave.

Written to be read against the paper: no autocast, no channels_last, no fused anything, and the attack calls
`loss.backward()` and discards the parameters' gradients, as the published code does.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from srat_fast.models.resnet import ResNet18
from srat_fast.recipe import Recipe
from srat_fast.reference import losses
from srat_fast.seeds import seed_for


class ReferenceResult(NamedTuple):
    """The scalars of one step, the correct predictions and the images trained on."""

    total: Tensor
    classification: Tensor
    separation: Tensor
    correct: Tensor
    images: Tensor


class _Seconds:
    """Wall time per region, in the form that the trainer reads."""

    def __init__(self) -> None:
        self.sums = {"attack": 0.0, "step": 0.0}

    def seconds(self) -> dict[str, float]:
        """Name -> seconds."""
        return dict(self.sums)


class _Guard:
    """Notices the first step whose loss or gradient is not finite; from then on nothing is updated."""

    def __init__(self, model: ResNet18) -> None:
        self._buffers = list(model.buffers())
        self._before = [b.clone() for b in self._buffers]
        device = next(model.parameters()).device
        self.steps, self.bad = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))
        self.loss, self.found = (torch.zeros(1, device=device) for _ in range(2))

    def before_step(self) -> None:
        """Keep the running statistics."""
        if not int(self.bad):
            self._before = [b.clone() for b in self._buffers]

    def allows(self, total: Tensor, gradients: list[Tensor]) -> bool:
        """Whether the update may happen."""
        self.steps += 1
        if int(self.bad):
            return False
        if all(bool(torch.isfinite(t).all()) for t in (total, *gradients)):
            return True
        self.bad.copy_(self.steps)
        self.loss.fill_(float(total.detach()))
        self.found.fill_(1)
        return False

    def settle(self) -> None:
        """Put the running statistics back to those before the step that was not finite."""
        for buffer, old in zip(self._buffers, self._before, strict=True):
            buffer.copy_(old)


class ReferenceEngine:
    """Slow and plain; same interface as the fast engine.

    Args:
        recipe: resolved.
        model: on the device, in train mode.
        counts: training images per class.
        under: labels of the under-represented half.
    """

    def __init__(self, recipe: Recipe, model: ResNet18, counts: list[int], under: list[int]) -> None:
        self.recipe, self.row = recipe, recipe.row
        self.device = next(model.parameters()).device
        self.model = model.train()
        self.noise = torch.Generator(self.device).manual_seed(seed_for(recipe.seed, "attack"))
        self.nonfinite = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.zero = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.guard = _Guard(self.model)
        self.compile_seconds = 0.0
        self.stopwatch = _Seconds()
        loss = recipe.loss
        self.full_weights = losses.class_weights(
            loss.weight_rule, counts, under, loss.beta, loss.weight_ratio
        )
        self.full_weights = self.full_weights.to(self.device)
        self.weights = torch.ones_like(self.full_weights)
        self.margins = losses.margins(counts, loss.ldam_max_margin).to(self.device)
        optim = recipe.optim
        self.optimizer = torch.optim.SGD(
            model.parameters(),
            lr=optim.lr,
            momentum=optim.momentum,
            weight_decay=optim.weight_decay,
            foreach=False,
        )

    def close(self) -> None:
        """Nothing to give back."""

    def start_epoch(self, epoch: int) -> None:
        """Warm-up, decay and deferral, as in the paper's Algorithm 1 and Section 5."""
        optim = self.recipe.optim
        rate = optim.lr
        for milestone in optim.milestones or ():
            if epoch >= milestone:
                rate = rate * optim.decay
        if optim.warmup_epochs and epoch < optim.warmup_epochs:
            rate = optim.lr * (epoch + 1) / optim.warmup_epochs
        self.optimizer.param_groups[0]["lr"] = rate
        reweight = self.row.weighting == "balanced"
        if self.row.weighting == "deferred":
            assert optim.defer_epoch is not None, "the recipe is resolved"
            reweight = epoch >= optim.defer_epoch
        self.weights = self.full_weights if reweight else torch.ones_like(self.full_weights)

    def _classification(self, logits: Tensor, labels: Tensor, base: str) -> Tensor:
        loss = self.recipe.loss
        return losses.classification(
            logits,
            labels,
            base=base,
            weights=self.weights.to(logits.dtype),
            margins=self.margins.to(logits.dtype),
            scale=loss.ldam_scale,
            gamma=loss.focal_gamma,
            focal_weighting=loss.focal_weighting,
            reduction=self.recipe.reduction,
        )

    def attack(self, images: Tensor, labels: Tensor) -> Tensor:
        """PGD on the training model."""
        attack = self.recipe.attack
        eps, alpha = attack.epsilon, attack.step_size
        assert alpha is not None, "the recipe is resolved"
        x = images.clone()
        if attack.random_start:
            uniform = torch.rand(x.shape, generator=self.noise, device=self.device, dtype=x.dtype)
            x = torch.clamp(x + (2 * eps * uniform - eps), 0, 1)
        if attack.bn == "running":
            self.model.eval()
        for _ in range(attack.steps):
            x = x.detach().requires_grad_(True)
            logits = self.model(x)
            if attack.loss == "ce":
                loss = functional.cross_entropy(logits, labels)
            else:  # w * L_cls on raw logits: neither margin nor scale
                loss = self._classification(
                    logits, labels, "ce" if self.row.base == "ldam" else self.row.base
                )
            loss.backward()
            assert x.grad is not None
            self.nonfinite += int((~torch.isfinite(x.grad)).sum())
            self.zero += int((x.grad == 0).sum())
            x = x.detach() + alpha * torch.sign(x.grad)
            x = torch.max(torch.min(x, images + eps), images - eps)
            x = torch.clamp(x, 0, 1)
        self.optimizer.zero_grad()
        self.model.train()
        return x.detach()

    def step(self, images: Tensor, labels: Tensor) -> ReferenceResult:
        """One batch of Algorithm 1: attack, then update."""
        started = self._now()
        self.guard.before_step()
        x = images.contiguous()
        if self.row.adversarial:
            x = self.attack(x, labels)
        attacked = self._now()
        result = self.update(x, labels)
        self.stopwatch.sums["attack"] += attacked - started
        self.stopwatch.sums["step"] += self._now() - attacked
        return result

    def update(self, x: Tensor, labels: Tensor) -> ReferenceResult:
        """One line after another: losses, backward, SGD."""
        self.optimizer.zero_grad()
        hidden = self.model.features(x)
        logits = self.model.linear(hidden)
        l_cls = self._classification(logits, labels, self.row.base)
        l_sep = torch.zeros_like(l_cls)
        if self.row.separation:
            z = hidden if self.model.projection is None else self.model.projection(hidden)
            z = z / z.norm(dim=1, keepdim=True).clamp(min=1e-12)
            l_sep = losses.separation(z, labels, self.recipe.loss.temperature, self.recipe.loss.empty_anchors)
        total = l_cls + self.recipe.loss.separation_weight * l_sep
        total.backward()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        allowed = self.guard.allows(total, gradients)
        if self.recipe.optim.clip_norm > 0:
            norm = torch.sqrt(sum((g**2).sum() for g in gradients))  # type: ignore[arg-type]
            for g in gradients:
                g *= min(1.0, self.recipe.optim.clip_norm / (float(norm) + 1e-6))
        if allowed:
            self.optimizer.step()
        correct = (logits.detach().argmax(dim=1) == labels).sum()
        return ReferenceResult(total.detach(), l_cls.detach(), l_sep.detach(), correct, x)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
