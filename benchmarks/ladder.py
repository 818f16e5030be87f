"""The ladder of tricks: engines from published code to the product, and the gate that each passes before it is timed.

Rungs, each with the tricks of those before it unless it says "only":
reference (the package's Algorithm 1, losses in Python loops), eager (vectorised losses, else the same),
autocast-only (eager under bf16 autocast, channels_last), compile-only (eager with torch.compile), input-gradients,
autocast (both), shadow (the product without compilation), compiled, captured (CUDA graphs), captured-max (the same,
compiled by max-autotune).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.measure import DEVICE, ON_GPU
from benchmarks.work import COUNTS, UNDER, Work
from srat_fast.attacks.pgd import pgd
from srat_fast.attacks.threat import LInfBall
from srat_fast.losses.objective import Objective
from srat_fast.models.batch import Batch
from srat_fast.models.build import build_model
from srat_fast.models.classifier import Classifier
from srat_fast.recipe import ResolvedRecipe
from srat_fast.recipe.stages import learning_rate
from srat_fast.training.capture import preserved
from srat_fast.training.plain import ReferenceEngine
from srat_fast.training.step import FastEngine


class Tricks(NamedTuple):
    """What an eager loop does beyond the published code."""

    input_gradients: bool = False  # the attack differentiates the images only
    mixed: bool = False  # fp32 weights under bf16 autocast, everything channels_last
    compiled: bool = False  # torch.compile, its defaults, on the network's forward and backward


class Total(NamedTuple):
    """The loss of an update, as the gate reads it."""

    losses: dict[str, Tensor]


class EagerLoop:
    """A plain training step on fp32 weights, with the interface of the product's engines.

    Without a trick it is the published kind of code with vectorised losses: eager, fp32, contiguous, parameter
    gradients computed and thrown away in the attack. The recipe's `run` section does not apply.
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
        if self.recipe.optim.clip_norm > 0:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optim.clip_norm)
        self.optimizer.step()
        return Total({"total": total.detach()})

    def step(self, images: Tensor, labels: Tensor) -> Total:
        return self.update(self.attack(images, labels), labels)


EAGER = {
    "eager": Tricks(),
    "autocast-only": Tricks(mixed=True),
    "compile-only": Tricks(compiled=True),
    "input-gradients": Tricks(input_gradients=True),
    "autocast": Tricks(input_gradients=True, mixed=True),
}
FAST: dict[str, dict[str, str]] = {
    "shadow": {},
    "compiled": {"run.compile": "on"},
    "captured": {"run.compile": "on", "run.capture": "on"},
    "captured-max": {"run.compile": "on", "run.capture": "on", "run.compile_mode": "max-autotune"},
}
RUNGS = ("reference", *EAGER, *FAST)
#: What `srat-fast train` runs with its defaults: on a CPU compilation is for long runs only (hardware.py).
PRODUCT = "captured" if ON_GPU else "shadow"
#: Distances that the gate allows between fp32 and the reference: of the
#: loss, relative; of the gradient of all parameters, relative L2. Rounding that puts an activation on the other side of
#: a ReLU's kink moves the gradient by about 1e-3 (measured against float64: 2e-6 without such a one, 1.5e-3 in
#: channels_last, 5.5e-3 compiled). In bf16 the yardstick is torch's plain autocast on the same weights, 0.2 to 0.3 away
#: on an untrained network under LDAM's s = 30: a fixed bound would say little; `FACTOR` times that is allowed on top.
LOSS, GRADIENT, FACTOR = (2e-3 if ON_GPU else 1e-4), 0.05, 2.0
#: Least increase of the loss by an attack, as a share of the increase that the reference's attack reaches.
INCREASE = 0.9


def precision_of(rung: str, work: Work) -> str:
    """The precision of the convolutions on a rung."""
    if rung in FAST:
        return work.precision
    return "bf16" if rung in EAGER and EAGER[rung].mixed else "fp32"


def layout(rung: str, images: Tensor) -> Tensor:
    """The batch as the rung's engine keeps it; done before the clock runs for all."""
    last = rung in FAST or (rung in EAGER and EAGER[rung].mixed)
    return images.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def make_engine(rung: str, work: Work) -> Any:
    """An engine with the weights of the recipe's seed: attack, update, step, start_epoch and model."""
    recipe = work.recipe(**FAST.get(rung, {}), **({} if rung in FAST else {"run.precision": "fp32"}))
    model = build_model(recipe, classes=len(COUNTS), channels=3, moments=None).to(DEVICE)
    if rung in EAGER:
        return EagerLoop(recipe, model, EAGER[rung])
    kind = ReferenceEngine if rung == "reference" else FastEngine
    return kind(recipe, model, COUNTS, UNDER)


def warm(engine: Any, images: Tensor, labels: Tensor) -> None:
    """Start the epoch; compile and capture where the engine does, which is not part of any time."""
    engine.start_epoch(0)
    if isinstance(engine, FastEngine) and "on" in (engine.recipe.run.compile, engine.recipe.run.capture):
        engine.rehearse(images, labels)


def check(
    rung: str, engine: Any, oracle: Any, yardstick: Any, work: Work, images: Tensor, labels: Tensor
) -> None:
    """The gate: attack and update do what the oracle's (fp32) do from common weights, else AssertionError.

    `yardstick` is the autocast rung, read for engines in bf16 only; it may be the engine itself. All are left as they
    were, apart from the weights of oracle and yardstick.
    """
    name, half = f"{rung} {work}", precision_of(rung, work) == "bf16"
    engines = [engine, oracle, *([yardstick] if half else [])]
    for other in engines[1:]:
        other.model.load_state_dict(engine.model.state_dict())
    tensors = [t for e in engines for t in (*e.model.parameters(), *e.model.buffers())]
    ours, theirs = layout(rung, images), images.contiguous()
    with preserved(tensors):
        found, wanted = engine.attack(ours, labels).clone(), oracle.attack(theirs, labels).detach()
    epsilon = engine.recipe.attack.epsilon
    assert float((found - ours).abs().max()) <= epsilon + 1e-6, f"{name}: the attack leaves the ball"
    assert 0 <= float(found.min()) <= float(found.max()) <= 1, f"{name}: the attack leaves [0, 1]"
    clean, reached, other_loss = (_loss(oracle, work, batch, labels) for batch in (theirs, found, wanted))
    assert reached - clean >= INCREASE * (other_loss - clean) > 0, (
        f"{name}: the attack raises the loss from {clean:.4f} to {reached:.4f}, the reference's to {other_loss:.4f}"
    )
    results = []
    for each in engines:
        batch = layout({id(oracle): "reference", id(engine): rung}.get(id(each), "autocast"), wanted)
        with preserved(tensors):
            each.model.zero_grad(set_to_none=True)
            total = float(each.update(batch, labels).losses["total"])
            results.append((total, _gradient(each, batch)))
    (loss, gradient), (true_loss, true_gradient), *plain = results
    bounds = [LOSS, GRADIENT]
    if plain:
        bounds[0] += FACTOR * abs(plain[0][0] / true_loss - 1)
        bounds[1] += FACTOR * _distance(plain[0][1], true_gradient)
    off = abs(loss / true_loss - 1)
    assert off <= bounds[0], f"{name}: the loss is {off:.2g} away, {bounds[0]:.2g} is allowed"
    off = _distance(gradient, true_gradient)
    assert off <= bounds[1], f"{name}: the gradient is {off:.2g} away, {bounds[1]:.2g} is allowed"


def _distance(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def _loss(oracle: Any, work: Work, images: Tensor, labels: Tensor) -> float:
    """The loss that the attack climbs, by the reference's fp32 network in the attack's own BatchNorm mode."""
    oracle.model.train(work.bn == "batch")
    with preserved(oracle.model.buffers()), torch.no_grad():
        value = float(functional.cross_entropy(oracle.model(images.contiguous()), labels))
    oracle.model.train()
    return value


def _gradient(engine: Any, images: Tensor) -> Tensor:
    """The whole gradient of the update that was just made."""
    found = [p.grad for p in engine.model.parameters()]
    if all(gradient is None for gradient in found):  # a replayed graph writes into those of its capture
        found = engine.captured_gradients[images.shape]
    return torch.cat([gradient.double().flatten() for gradient in found if gradient is not None])
