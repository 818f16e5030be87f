"""Algorithm 1, line by line, in eager full precision.

Written to be read against the paper: no autocast, no channels_last, no fused anything, and the attack calls
`loss.backward()` and discards the parameters' gradients, as the published code does.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from srat_fast.errors import UserError
from srat_fast.models.classifier import Classifier
from srat_fast.recipe import ResolvedRecipe
from srat_fast.reference import losses
from srat_fast.seeds import seed_for


class Reference:
    """Slow and plain.

    Args:
        recipe: resolved.
        model: on the device.
        counts: training images per class.
        under: labels of the under-represented half.
    """

    def __init__(
        self, recipe: ResolvedRecipe, model: Classifier, counts: list[int], under: list[int]
    ) -> None:
        self.recipe, self.row = recipe, recipe.row
        wanted: list[tuple[str, str, tuple[str, ...]]]
        wanted = [("term", name, losses.TERMS) for name in (self.row.base, *self.row.terms)]
        wanted += [("inner loss", recipe.attack.loss, losses.INNER)]
        wanted += [("threat model", recipe.attack.threat, losses.THREATS)]
        for what, name, known in wanted:
            if name not in known:
                problem = f"the reference has no formula of the {what} {name}; take fast"
                raise UserError("run.engine", problem, "reference")
        self.model = model.train()
        self.device = next(model.parameters()).device
        self.noise = torch.Generator(self.device).manual_seed(seed_for(recipe.seed, "attack"))
        loss = recipe.loss
        self.full_weights = losses.class_weights(
            loss.weight_rule, counts, under, loss.beta, loss.weight_ratio
        ).to(self.device)
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

    def start_epoch(self, epoch: int) -> None:
        """Warm-up, decay and deferral, as in the paper's Algorithm 1 and Section 5."""
        optim = self.recipe.optim
        rate = optim.lr
        for milestone in optim.milestones:
            if epoch >= milestone:
                rate = rate * optim.decay
        if optim.warmup_epochs and epoch < optim.warmup_epochs:
            rate = optim.lr * (epoch + 1) / optim.warmup_epochs
        self.optimizer.param_groups[0]["lr"] = rate
        reweight = self.row.weighting == "balanced"
        if self.row.weighting == "deferred":
            reweight = epoch >= optim.defer_epoch
        self.weights = self.full_weights if reweight else torch.ones_like(self.full_weights)

    def step(self, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """One batch: attack, objective, gradient, update. Losses by name, logits, and the images trained on."""
        x = self.attack(images, labels) if self.row.adversarial else images
        found, logits = self.gradient(x, labels)
        self.optimizer.step()
        return found, logits, x

    def attack(self, images: Tensor, labels: Tensor) -> Tensor:
        """PGD on the training model."""
        attack = self.recipe.attack
        eps, alpha = attack.epsilon, attack.step_size
        x = images.clone()
        if attack.random_start and attack.threat == "l2":
            x = l2_start(images, eps, self.noise)
        elif attack.random_start:
            uniform = torch.rand(x.shape, generator=self.noise, device=self.device, dtype=x.dtype)
            x = torch.clamp(x + (2 * eps * uniform - eps), 0, 1)
        if attack.bn == "running":
            self.model.eval()
        clean = images
        if attack.loss == "kl":
            with torch.no_grad():
                clean = self.model(images)
        for _ in range(attack.steps):
            x = x.detach().requires_grad_(True)
            self.inner(self.model(x), labels, clean).backward()
            gradient = x.grad
            assert gradient is not None
            self.see(gradient)
            if attack.threat == "l2":
                x = l2_step(x.detach(), gradient, images, alpha, eps)
            else:
                x = x.detach() + alpha * torch.sign(gradient)
                x = torch.max(torch.min(x, images + eps), images - eps)
                x = torch.clamp(x, 0, 1)
        self.optimizer.zero_grad()
        self.model.train()
        return x.detach()

    def see(self, gradient: Tensor) -> None:
        """Told the gradient of each attack step."""

    def inner(self, logits: Tensor, labels: Tensor, clean: Tensor) -> Tensor:
        """What the attack climbs; `clean` are the logits before it, where they are needed."""
        kind = self.recipe.attack.loss
        if kind == "ce":
            return functional.cross_entropy(logits, labels)
        if kind == "margin":
            return losses.margin(logits, labels)
        if kind == "kl":
            return losses.divergence(clean, logits)
        # w * L_cls on raw logits: neither margin nor scale
        return self._classification(logits, labels, "ce" if self.row.base == "ldam" else self.row.base)

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

    def objective(self, hidden: Tensor, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Eq. 7: L = L_cls + lambda L_sep."""
        found = {"classification": self._classification(logits, labels, self.row.base)}
        if "separation" in self.row.terms:
            z = hidden if self.model.projection is None else self.model.projection(hidden)
            z = z / z.norm(dim=1, keepdim=True).clamp(min=1e-12)
            loss = self.recipe.loss
            found["separation"] = losses.separation(z, labels, loss.temperature, loss.empty_anchors)
        total = found["classification"]
        for name, coefficient in self.row.terms.items():
            total = total + coefficient * found[name]
        return {"total": total} | found

    def gradient(self, x: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Losses and logits; the parameters' gradients, clipped, are in `.grad`."""
        self.optimizer.zero_grad()
        hidden = self.model.features(x)
        logits = self.model.linear(hidden)
        found = self.objective(hidden, logits, labels)
        found["total"].backward()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.norm = torch.sqrt(sum((g**2).sum() for g in gradients))  # type: ignore[arg-type]  # sum's stub starts from an int
        if self.recipe.optim.clip_norm > 0:
            for g in gradients:
                g *= min(1.0, self.recipe.optim.clip_norm / (float(self.norm) + 1e-6))
        return {name: value.detach() for name, value in found.items()}, logits.detach()


def l2_start(images: Tensor, eps: float, noise: torch.Generator) -> Tensor:
    """Uniform in each image's Euclidean ball: a share r of the volume lies within r^(1/d) of the radius."""
    normal = torch.randn(images.shape, generator=noise, device=images.device, dtype=images.dtype)
    uniform = torch.rand(len(images), generator=noise, device=images.device, dtype=images.dtype)
    found = []
    for x, n, u in zip(images, normal, uniform, strict=True):
        radius = eps * u ** (1 / x.numel())
        found.append(torch.clamp(x + radius * n / torch.sqrt((n**2).sum()), 0, 1))
    return torch.stack(found)


def l2_step(adversarial: Tensor, gradient: Tensor, images: Tensor, alpha: float, eps: float) -> Tensor:
    """Along the normalised gradient, back onto the sphere where that is outside of it, and into [0, 1]."""
    found = []
    for x, g, centre in zip(adversarial, gradient, images, strict=True):
        steepness = torch.sqrt((g**2).sum())
        if steepness > 0:
            x = x + alpha * g / steepness
        distance = torch.sqrt(((x - centre) ** 2).sum())
        if distance > eps:
            x = centre + eps * (x - centre) / distance
        found.append(torch.clamp(x, 0, 1))
    return torch.stack(found)
