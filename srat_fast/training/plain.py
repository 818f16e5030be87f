"""`--engine reference`: the reference algorithm behind the trainer's interface, with its guard, counters and clock."""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
from torch import Tensor, nn

from srat_fast.models.classifier import Classifier
from srat_fast.recipe import ResolvedRecipe
from srat_fast.reference import Reference


class PlainResult(NamedTuple):
    """Losses by name, images classified right, and the images trained on."""

    losses: dict[str, Tensor]
    correct: Tensor
    images: Tensor


class PlainSeconds:
    """Wall time per region."""

    def __init__(self) -> None:
        self.sums = {"attack": 0.0, "step": 0.0}

    def seconds(self) -> dict[str, float]:
        """Name -> seconds."""
        return dict(self.sums)


class PlainGuard:
    """Notices the first step whose loss or gradient is not finite; from then on nothing is updated."""

    def __init__(self, model: nn.Module) -> None:
        self._buffers = list(model.buffers())
        self._before = [b.clone() for b in self._buffers]
        device = next(model.parameters()).device
        self.steps, self.bad = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))
        self.loss, self.found = (torch.zeros(1, device=device) for _ in range(2))

    def before_step(self) -> None:
        """Keep the running statistics."""
        if not int(self.bad):
            self._before = [b.clone() for b in self._buffers]

    def allows(self, total: Tensor, norm: Tensor) -> bool:
        """Whether the update may happen."""
        self.steps += 1
        if int(self.bad):
            return False
        if bool(torch.isfinite(total)) and bool(torch.isfinite(norm)):
            return True
        self.bad.copy_(self.steps)
        self.loss.fill_(float(total))
        self.found.fill_(1)
        return False

    def settle(self) -> None:
        """Put the running statistics back to those before the step that was not finite."""
        for buffer, old in zip(self._buffers, self._before, strict=True):
            buffer.copy_(old)


class ReferenceEngine(Reference):
    """The reference with the fast engine's interface."""

    def __init__(
        self, recipe: ResolvedRecipe, model: Classifier, counts: list[int], under: list[int]
    ) -> None:
        super().__init__(recipe, model, counts, under)
        self.nonfinite, self.zero = (torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(2))
        self.guard = PlainGuard(self.model)
        self.stopwatch = PlainSeconds()
        self.compile_seconds = 0.0

    @property
    def terms(self) -> tuple[str, ...]:
        """What the objective is the sum of."""
        return ("classification", *self.row.terms)

    @property
    def remembered(self) -> dict[str, Tensor]:
        """Its terms remember nothing."""
        return {}

    def see(self, gradient: Tensor) -> None:
        """Count what the record reports of the attack's gradients."""
        self.nonfinite += int((~torch.isfinite(gradient)).sum())
        self.zero += int((gradient == 0).sum())

    def step(self, images: Tensor, labels: Tensor) -> PlainResult:
        """One batch of Algorithm 1, its update left out once a step was not finite."""
        started = self._now()
        self.guard.before_step()
        x = images.contiguous()
        if self.row.adversarial:
            x = self.examples(x, labels)
        attacked = self._now()
        result = self.update(x, labels, images)
        self.stopwatch.sums["attack"] += attacked - started
        self.stopwatch.sums["step"] += self._now() - attacked
        return result

    def update(self, x: Tensor, labels: Tensor, images: Tensor | None = None) -> PlainResult:
        """The outer minimisation on images that are adversarial already, the clean ones beside them."""
        clean = x if images is None else images
        before = [p.detach().clone() for p in self.model.parameters()]
        with self.perturbed(x, labels, clean):
            found, logits = self.gradient(x, labels, clean)
            allowed = self.guard.allows(found["total"], self.norm)
            if allowed:
                self.optimizer.step()
        if not allowed:  # a perturbation that is not finite cannot be subtracted
            for parameter, old in zip(self.model.parameters(), before, strict=True):
                parameter.detach().copy_(old)
        return PlainResult(found, (logits.argmax(dim=1) == labels).sum(), x)

    def close(self) -> None:
        """Nothing to give back."""

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
