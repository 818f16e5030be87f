"""The ladder of tricks: a rung's name and a size enter, an engine leaves that has passed its gate.

Rungs, each with the tricks of those before it unless it says "only":
reference (the package's Algorithm 1, losses in Python loops), eager (vectorised losses, else the same),
autocast-only (eager under bf16 autocast, channels_last), compile-only (eager with torch.compile), input-gradients,
autocast (both), shadow (the product without compilation), compiled, captured (CUDA graphs), captured-max (the same,
compiled by max-autotune).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.engine.eager import EagerLoop, Tricks
from benchmarks.engine.work import COUNTS, DEVICE, ON_GPU, UNDER, Work
from srat_fast.models.build import build_model
from srat_fast.training.capture import preserved
from srat_fast.training.plain import ReferenceEngine
from srat_fast.training.step import FastEngine

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
    """An engine with the weights of the recipe's seed, ready for its first step (compiled and captured where it is).

    Args:
        rung: one of `RUNGS`.
        work: the size.

    Returns:
        Something with attack, update, step, start_epoch and model.
    """
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
    """The gate: attack and update from common weights do what the oracle's do; all engines are left as they were.

    Args:
        rung: of `RUNGS`.
        engine: the one to be checked.
        oracle: fp32; it takes over the engine's weights.
        yardstick: the autocast rung, likewise; read for engines in bf16 only, and may be the engine itself.
        work: the size.
        images: [B, 3, 32, 32].
        labels: [B].

    Raises:
        AssertionError: the engine is wrong, so that its time would mean nothing.
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
            total = float(each.update(batch, labels).losses["total"])
            results.append((total, _gradient(each)))
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


def _gradient(engine: Any) -> Tensor:
    return torch.cat([p.grad.double().flatten() for p in engine.model.parameters() if p.grad is not None])
