"""Algorithm 1 and the field's methods in its place, line by line, in eager full precision.

Written to be read against the paper: no autocast, no channels_last, no fused anything, and the attack calls
`loss.backward()` and discards the parameters' gradients, as the published code does.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from srat_fast.errors import UserError
from srat_fast.models.classifier import Classifier
from srat_fast.recipe import ResolvedRecipe, Stage, stages_of
from srat_fast.reference import feedback, losses
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
        self.model, self.counts, self._under = model, counts, under
        self.device = next(model.parameters()).device
        self.noise = torch.Generator(self.device).manual_seed(seed_for(recipe.seed, "attack"))
        #: what the feedback rule has found, class by class; as the class weights, in float32 but for the radii
        self.steered: dict[str, Tensor] = {}
        self.epoch, self.stages = 0, stages_of(recipe)
        self.enter(0)
        self._begin()

    def enter(self, number: int) -> None:
        """Train by a stage's recipe what it trains; a new optimiser where that is something else than before."""
        again = number > 0 and self.stage.train == self.stages[number].train
        self.stage: Stage = self.stages[number]
        self.recipe = recipe = self.stage.recipe
        self.row = recipe.row
        _require_formulas(recipe, len(self.counts))
        loss, optim = recipe.loss, recipe.optim
        self.full_weights = losses.class_weights(
            loss.weight_rule, self.counts, self._under, loss.beta, loss.weight_ratio
        ).to(self.device)
        self.weights = torch.ones_like(self.full_weights)
        self.found = dict(self.steered) if recipe.feedback.rule != "off" else {}
        self.adjustment = losses.Adjustment.of(self.row.base, loss, self.counts, self.device)
        self.trained = []
        for name, parameter in self.model.named_parameters():
            if self.stage.train == "all":
                chosen = name != "linear.scales"
            elif self.stage.train == "scales":
                chosen = name == "linear.scales"
            else:
                chosen = name in ("linear.weight", "linear.bias")
            parameter.requires_grad = chosen
            parameter.grad = None
            if chosen:
                self.trained.append(parameter)
        if not again:
            self.optimizer = torch.optim.SGD(
                self.trained,
                lr=optim.lr,
                momentum=optim.momentum,
                weight_decay=optim.weight_decay,
                nesterov=optim.nesterov,
                foreach=False,
            )
        self.learn()

    def learn(self) -> None:
        """Train mode; features that are not trained stay in eval mode, BatchNorm included."""
        self.model.train()
        if self.stage.train != "all":
            self.model.backbone.eval()

    def _begin(self) -> None:
        """A classifier is trained anew from the weights that a layer of its size has of the stage's seed."""
        if self.stage.train == "new-head":
            head = self.model.linear
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(seed_for(self.recipe.seed, "head", self.stage.number))
                new = torch.nn.Linear(head.in_features, head.out_features, bias=head.bias is not None)
                for old, drawn in zip([head.weight, head.bias], [new.weight, new.bias], strict=True):
                    if old is not None:
                        old.copy_(drawn)

    def start_epoch(self, epoch: int) -> None:
        """Warm-up, decay and deferral, as in the paper's Algorithm 1 and Section 5, and the next stage."""
        for number, stage in enumerate(self.stages):
            if stage.first <= epoch < stage.end and number != self.stage.number:
                self.enter(number)
                self._begin()
        self.epoch, optim = epoch, self.recipe.optim
        rate = optim.lr
        for milestone in optim.milestones[:1] if optim.schedule == "compounding" else optim.milestones:
            if epoch >= milestone:
                rate = rate * optim.decay
        if optim.schedule == "compounding" and optim.milestones:  # RoBal's code multiplies the present rate
            for _ in range(optim.milestones[0], epoch):
                rate = rate * optim.decay
        if optim.warmup_epochs and epoch < optim.warmup_epochs:
            rate = optim.lr * (epoch + 1) / optim.warmup_epochs
        own, done = self.stage.schedule, epoch - self.stage.first
        length = self.stage.end - self.stage.first
        if own != "run":
            rate = self.stage.lr
        if own == "cosine":
            rate = 0.5 * rate + 0.5 * rate * math.cos(done * math.pi / length)
        if own == "half" and 2 * done >= length:
            rate = rate / 10
        self.optimizer.param_groups[0]["lr"] = rate
        reweight = self.row.weighting == "balanced"
        if self.row.weighting == "deferred":
            reweight = epoch >= optim.defer_epoch
        self.weights = self.full_weights if reweight else torch.ones_like(self.full_weights)
        if "weights" in self.found:
            self.weights = self.weights * self.found["weights"]

    def rule(self, facts: Any) -> feedback.PlainRule:
        """The recipe's feedback rule, of a run's recipe and counts."""
        return feedback.PlainRule(facts.recipe, list(facts.counts))

    def steer(self, effects: Mapping[str, Any]) -> None:
        """Take over what the feedback rule has found."""
        for name, values in effects.items():
            given = torch.as_tensor(values, dtype=torch.float64, device=self.device)
            self.steered[name] = given if name == "radii" else given.float()
        self.found = dict(self.steered) if self.recipe.feedback.rule != "off" else {}

    def step(self, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """One batch: attack, objective, gradient, update. Losses by name, logits, and the images trained on."""
        x = self.examples(images, labels)
        with self.perturbed(x, labels, images):
            found, logits = self.gradient(x, labels, images)
            self.optimizer.step()
        return found, logits, x

    def radii(self, labels: Tensor) -> Tensor:
        """Each image's factor on radius and step: by its class, and growing over the first epochs."""
        attack, optim = self.recipe.attack, self.recipe.optim
        factors = [1.0 for _ in self.counts]
        if attack.radius == "count":
            factors = losses.radius_factors(self.counts, attack.radius_strength)
        elif attack.radius == "vector":
            factors = list(attack.radius_factors)
        ramp = 1.0
        if attack.radius_ramp > 0:
            ramp = min(self.epoch / (attack.radius_ramp * optim.epochs), 1.0)
        found = self.found["radii"].tolist() if "radii" in self.found else [1.0 for _ in self.counts]
        most = {"linf": 1.0, "l2": 400.0}[attack.threat] / attack.epsilon  # what the balls have room for
        return torch.tensor(
            [min(ramp * factors[y] * found[y], most) for y in labels.tolist()], dtype=torch.float64
        )

    def examples(self, images: Tensor, labels: Tensor) -> Tensor:
        """What the network is trained on; BAT's last right iterates are kept beside it."""
        stop = self.recipe.attack.stop
        if not self.row.adversarial:
            return images
        if stop == "both":
            self.last_right = self.attack(images, labels, "last-right")
            return self.attack(images, labels, "first-wrong")
        return self.attack(images, labels, stop)

    def attack(self, images: Tensor, labels: Tensor, stop: str = "off") -> Tensor:
        """PGD on the training model; with a stop, each image's iterates end as BAT's code ends them."""
        attack = self.recipe.attack
        factors = self.radii(labels).to(self.device).view(-1, 1, 1, 1)
        eps, alpha = (
            (attack.epsilon * factors).to(images.dtype),
            (attack.step_size * factors).to(images.dtype),
        )
        x = self.start(images) if attack.random_start else images.clone()
        statistics = [buffer.clone() for buffer in self.model.buffers()]
        if attack.bn == "running":
            self.model.eval()
        clean = images
        if attack.loss == "kl":
            with torch.no_grad():
                clean = self.logits(self.model.features(images))
        ended: dict[int, Tensor] = {}  # image -> where it stays
        mistakes = [0 for _ in labels]
        if stop != "off":
            x = project(x, images, eps, attack.threat)
        before = x
        for _ in range(attack.steps):
            x = x.detach().requires_grad_(True)
            logits = self.logits(self.model.features(x))
            self.inner(logits, labels, clean).backward()
            gradient = x.grad
            assert gradient is not None
            self.see(gradient)
            here = x.detach().clone()
            for i, wrong in enumerate((logits.argmax(dim=1) != labels).tolist()):
                mistakes[i] += wrong
                if stop == "first-wrong" and mistakes[i] == 2:  # control = 1 - mistakes
                    ended.setdefault(i, here[i])
                if stop == "last-right" and mistakes[i] == 1:
                    ended.setdefault(i, before[i])
            before = here
            if attack.threat == "l2":
                x = l2_step(x.detach(), gradient, images, alpha, eps)
            else:
                x = x.detach() + alpha * torch.sign(gradient)
                x = torch.max(torch.min(x, images + eps), images - eps)
                x = torch.clamp(x, 0, 1)
            for i, stays in ended.items():
                x[i] = stays
        self.optimizer.zero_grad()
        self.learn()
        if attack.bn == "frozen":
            for buffer, before in zip(self.model.buffers(), statistics, strict=True):
                buffer.copy_(before)
        return x.detach()

    def start(self, images: Tensor) -> Tensor:
        """A random start at the one radius of the recipe: the first step brings it into each image's own ball."""
        attack, eps = self.recipe.attack, self.recipe.attack.epsilon
        if attack.start == "uniform" and attack.threat == "l2":
            return l2_start(images, eps, self.noise)
        draw = torch.randn if attack.start == "gaussian" else torch.rand
        drawn = draw(images.shape, generator=self.noise, device=self.device, dtype=images.dtype)
        if attack.start == "gaussian":
            return images + 0.001 * drawn
        if attack.start == "half-uniform":
            return images + eps * drawn
        return torch.clamp(images + (2 * eps * drawn - eps), 0, 1)

    def logits(self, hidden: Tensor, model: Classifier | None = None) -> Tensor:
        """Logits of features; of a cosine head s <f / |f|, w_c / (|w_c| + gamma)>, class by class."""
        model, head = model or self.model, self.recipe.model
        if head.head == "scaled":
            plain = hidden @ model.linear.weight.T + model.linear.bias
            scales = model.get_parameter("linear.scales")
            return torch.stack([z * s for z, s in zip(plain.T, scales, strict=True)], dim=1)
        if head.head != "cosine":
            return model.linear(hidden)
        unit = hidden / hidden.norm(dim=1, keepdim=True).clamp(min=1e-12)
        classes = [unit @ (w / (w.norm() + head.head_gamma)) for w in model.linear.weight]
        return head.head_scale * torch.stack(classes, dim=1)

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
        return self._classification(logits, labels, raw=True)

    def _classification(self, logits: Tensor, labels: Tensor, *, raw: bool = False) -> Tensor:
        loss = self.recipe.loss
        if self.row.base == "harl":
            return losses.harl(logits, labels, loss.harl_mean, loss.harl_variance, loss.harl_share)
        return losses.classification(
            logits,
            labels,
            base=self.row.base,
            weights=self.weights.to(logits.dtype),
            adjustment=self.adjustment.without_margin() if raw else self.adjustment,
            gamma=loss.focal_gamma,
            focal_weighting=loss.focal_weighting,
            reduction=self.recipe.reduction,
        )

    def objective(
        self, model: Classifier, x: Tensor, labels: Tensor, images: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """L = L_cls + the row's further terms, each with its coefficient (Eq. 7: lambda L_sep), and logits of x."""
        loss, terms = self.recipe.loss, self.row.terms
        clean: Tensor | None = None
        if loss.branch == "clean":
            clean = self.logits(model.features(images), model)
        near: Tensor | None = None  # logits of BAT's last right iterates
        if loss.branch == "last-right":
            near = self.logits(model.features(self.last_right), model)
        hidden = model.features(x)
        logits = self.logits(hidden, model)
        if "entropy" in terms and near is None and self.recipe.attack.stop == "both":
            near = self.logits(model.features(self.last_right), model)
        if "kl" in terms and clean is None:
            clean = self.logits(model.features(images), model)
        branch = {"clean": clean, "last-right": near}.get(loss.branch, logits)
        assert branch is not None
        chosen = self.recipe.feedback
        if chosen.rule == "faal":
            predicted = torch.softmax(logits.detach(), dim=1).tolist()
            weights = feedback.faal(predicted, labels.tolist(), chosen.faal_divergence, chosen.rates)
            self.weights = torch.tensor(weights, dtype=torch.float64, device=self.device).float()
            self.found["pair"] = self.weights
        found = {"classification": self._classification(branch, labels)}
        if "separation" in terms:
            z = hidden if model.projection is None else model.projection(hidden)
            z = z / z.norm(dim=1, keepdim=True).clamp(min=1e-12)
            found["separation"] = losses.separation(z, labels, loss.temperature, loss.empty_anchors)
        if "kl" in terms and clean is not None:
            factor, target, factors = loss.kl_factor, loss.kl_target, loss.kl_factors
            pair = self.found.get("pair")
            plain = losses.pair(
                clean, logits, labels, factor=factor, target=target, factors=factors, found=pair
            )
            if pair is not None and self.recipe.reduction == "weighted_mean":
                plain = plain * len(labels) / pair.to(plain)[labels].sum()
            found["kl"] = plain
        if "graph" in terms:
            edges = self.found.get("graph", torch.zeros(len(self.counts), len(self.counts)))
            found["graph"] = losses.graph(logits, labels, edges.to(logits), self.weights.to(logits))
        if "entropy" in terms:
            found["entropy"] = losses.certainty(logits)
            if near is not None:
                found["entropy"] = found["entropy"] + losses.certainty(near)
        if "etf" in terms:
            found["etf"] = losses.frame(model.linear.weight)
        if "tail" in terms:
            found["tail"] = losses.tail(hidden, labels, self.counts, loss.tail_sign)
        total = found["classification"]
        for name, coefficient in terms.items():
            total = total + coefficient * found[name]
        return {"total": total} | found, logits

    @contextmanager
    def perturbed(self, x: Tensor, labels: Tensor, images: Tensor) -> Iterator[None]:
        """AWP: the weights moved for one update by what raises its loss, each layer's by gamma of its own length.

        As published: a copy of the network takes a step up the gradient, and only its direction is kept.
        """
        optim = self.recipe.optim
        if not optim.awp_gamma or self.epoch < optim.awp_epoch:
            yield
            return
        proxy = copy.deepcopy(self.model)
        proxy.zero_grad()
        climb = torch.optim.SGD(proxy.parameters(), lr=optim.lr, foreach=False)
        (-self.objective(proxy, x, labels, images)[0]["total"]).backward()
        climb.step()
        moves: list[tuple[Tensor, Tensor]] = []
        for (name, parameter), after in zip(self.model.named_parameters(), proxy.parameters(), strict=True):
            w = parameter.detach()
            if w.dim() > 1 and "weight" in name and parameter.requires_grad:
                d = after.detach() - w
                moves.append((w, optim.awp_gamma * w.norm() * d / (d.norm() + 1e-20)))
        for w, v in moves:
            w.add_(v)
        yield
        for w, v in moves:
            w.sub_(v)

    def gradient(self, x: Tensor, labels: Tensor, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Losses and logits of `x`; the parameters' gradients, clipped, are in `.grad`."""
        self.optimizer.zero_grad()
        found, logits = self.objective(self.model, x, labels, images)
        found["total"].backward()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.norm = torch.sqrt(sum((g**2).sum() for g in gradients))  # type: ignore[arg-type]  # sum's stub starts from an int
        if self.recipe.optim.clip_norm > 0:
            for g in gradients:
                g *= min(1.0, self.recipe.optim.clip_norm / (float(self.norm) + 1e-6))
        return {name: value.detach() for name, value in found.items()}, logits.detach()


def _require_formulas(recipe: ResolvedRecipe, classes: int) -> None:
    """Refuse what only the fast engine has, and lists of another number of classes."""
    row = recipe.row
    wanted: list[tuple[str, str, tuple[str, ...]]]
    wanted = [("term", name, losses.TERMS) for name in (row.base, *row.terms)]
    wanted += [("inner loss", recipe.attack.loss, losses.INNER)]
    wanted += [("threat model", recipe.attack.threat, losses.THREATS)]
    for what, name, known in wanted:
        if name not in known:
            problem = f"the reference has no formula of the {what} {name}; take fast"
            raise UserError("run.engine", problem, "reference")
    if "tail" in row.terms and 2 * (classes // 3) + 1 >= classes:
        problem = f"of {classes} classes the term tail counts none as rare; 0 is possible"
        raise UserError("loss.tail_weight", problem, recipe.loss.tail_weight)
    for name in ("loss.kl_factors", "attack.radius_factors"):
        given = recipe.value(name)
        if given and len(given) != classes:
            raise UserError(name, f"{classes} numbers are needed, one a class", f"{len(given)} numbers")


def l2_start(images: Tensor, eps: float, noise: torch.Generator) -> Tensor:
    """Uniform in each image's Euclidean ball: a share r of the volume lies within r^(1/d) of the radius."""
    normal = torch.randn(images.shape, generator=noise, device=images.device, dtype=images.dtype)
    uniform = torch.rand(len(images), generator=noise, device=images.device, dtype=images.dtype)
    found = []
    for x, n, u in zip(images, normal, uniform, strict=True):
        radius = eps * u ** (1 / x.numel())
        found.append(torch.clamp(x + radius * n / torch.sqrt((n**2).sum()), 0, 1))
    return torch.stack(found)


def project(x: Tensor, images: Tensor, eps: Tensor, threat: str) -> Tensor:
    """Into each image's ball and into [0, 1]."""
    if threat == "l2":
        return l2_step(x, torch.zeros_like(x), images, torch.zeros(len(x)), eps)
    return torch.clamp(torch.max(torch.min(x, images + eps), images - eps), 0, 1)


def l2_step(adversarial: Tensor, gradient: Tensor, images: Tensor, alpha: Tensor, eps: Tensor) -> Tensor:
    """Along the normalised gradient, back onto the sphere where that is outside of it, and into [0, 1]."""
    found = []
    for x, g, centre, a, e in zip(adversarial, gradient, images, alpha, eps, strict=True):
        steepness = torch.sqrt((g**2).sum())
        if steepness > 0:
            x = x + a * g / steepness
        distance = torch.sqrt(((x - centre) ** 2).sum())
        if distance > e:
            x = centre + e * (x - centre) / distance
        found.append(torch.clamp(x, 0, 1))
    return torch.stack(found)
