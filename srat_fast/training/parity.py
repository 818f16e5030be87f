"""The start-up check: compiled and captured code is used only after it has computed what eager mode computes.

A ReLU on the other side of its kink moves a gradient by far more than rounding moves a number, so no fixed bound fits
all networks: 1e-3 refuses sound float32 code. The yardstick is taken from the run's own batch: how far the eager
gradient moves when weights and images are moved by some roundings. `benchmarks/startup.py` has distributions.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from srat_fast.errors import OutOfMemory, TrainingFailure
from srat_fast.models.batch import Batch
from srat_fast.recipe import Recipe
from srat_fast.training.capture import Function, preserved
from srat_fast.training.cost import out_of_memory, to_lower, what_it_needs

if TYPE_CHECKING:
    from srat_fast.training.step import FastEngine

#: Relative size of the moves: 256 roundings of float32, one of bfloat16 (whose own rounding is in the moved gradients
#: already); and how many are tried.
MOVE = {"fp32": 2.0**-16, "bf16": 2.0**-9}
DRAWS = 3
#: A gradient may be this many times as far from the full-precision one as the farthest of the moved ones, tensor by
#: tensor, plus SLACK: a single kink may lie between compiled and eager code and in none of the moves.
FACTOR, SLACK = {"fp32": 3.0, "bf16": 1.5}, 2e-3
#: The same for the loss and its parts: they have no kinks, but one number may be near by luck in all moves.
LOSS_FACTOR, LOSS_SLACK = 4.0, 1e-5
#: Shortfall of the compiled attack in the pixels that it moves (half the strength: 0.43; equal attacks: up to 0.01) and
#: in the increase of the loss (an attack on other weights falls short by more).
PIXELS, INCREASE = 0.1, 0.3
#: Everything is compared at weights that are this much (relative) away from those that the code was compiled with.
ELSEWHERE = 0.3
#: Where a bound is broken, it is tried at other weights, and refused where it is broken at NEEDED of TRIES: a fault is
#: there everywhere, a kink between the two codes is not.
TRIES, NEEDED = 4, 3
WAY_OUT = "--no-compile runs eagerly, --engine reference plainly"


class CompileFailure(TrainingFailure):
    """What torch.compile, Triton or a capture could not do."""


@contextmanager
def compile_errors(recipe: Recipe | None = None) -> Iterator[None]:
    """Turns what torch.compile, Triton or a capture raise into one line that names the way out.

    torch's advice to compute float32 in TF32 is not passed on: float32 means float32 here (`hardware.numerics`).
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
            yield
    except TrainingFailure:
        raise
    except Exception as error:
        if out_of_memory(error):
            advice = "--batch-size" if recipe is None else f"{to_lower(recipe)}: {what_it_needs(recipe)}"
            raise OutOfMemory(f"out of memory; lower {advice}") from None
        # dynamo, inductor, triton and the CUDA runtime raise types of their own; all mean the same here
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CompileFailure(f"compiling the training step failed: {first}; {WAY_OUT}") from error


class Figure(NamedTuple):
    """One comparison: what is away from what, by how much, and the most that is allowed."""

    what: str
    value: float
    bound: float

    @property
    def holds(self) -> bool:
        """NaN never does."""
        return self.value <= self.bound


def distance(ours: Tensor, theirs: Tensor, least: float = 0.0) -> float:
    """|ours - theirs| / max(|theirs|, least); inf where either is not finite."""
    a, b = ours.double(), theirs.double()
    value = float((a - b).norm() / b.norm().clamp(min=max(least, 1e-30)))
    return value if value == value else float("inf")


def check_parity(engine: FastEngine, images: Tensor, labels: Tensor) -> list[Figure]:
    """Refuse an engine whose compiled attack or update differs from its eager one; its state is left as it was.

    Returns the figures of the first try.
    """
    first = list(compare(engine, images, labels, 0))
    broken = [figure for figure in first if not figure.holds]
    if broken:
        for seed in range(1, TRIES):
            broken += [figure for figure in compare(engine, images, labels, seed) if not figure.holds]
    times = Counter(figure.what for figure in broken)
    for what, value, bound in broken:
        if times[what] >= NEEDED:
            raise TrainingFailure(
                f"the compiled {what} by {value:.2g} (at most {bound:.2g} is allowed); {WAY_OUT}"
            )
    return first


def compare(engine: FastEngine, images: Tensor, labels: Tensor, seed: int) -> Iterator[Figure]:
    """Attack, losses and gradients of the compiled code against eager mode, on one batch; leaves no trace."""
    attack, update = engine.run_parts()
    weights = list(engine.model.parameters())
    several = engine.ranks.size > 1  # only the attack is captured, and only where it exchanges nothing
    generator = torch.Generator(engine.device).manual_seed(seed)
    with preserved([*engine.state(), *engine.by_epoch()]):
        with preserved(engine.state()):  # compiles and captures, at the weights of now
            if engine.row.adversarial:
                attack(images, labels, *engine.starts(images))
            if not several:
                engine.model.zero_grad(set_to_none=True)
                update(images, labels, *engine.clean_copies(images))
                # a replayed graph writes into the gradients of its capture, and sets no `p.grad`
                kept, found = engine.captured_gradients, [p.grad for p in weights]
                captured = kept.get(images.shape, found) if all(g is None for g in found) else found
                kept[images.shape] = captured
        _move(weights, ELSEWHERE, generator)
        if engine.radii is not None:  # in the first epoch of a ramp it is 0
            engine.radii.start_epoch(engine.recipe.optim.epochs)
        _move(engine.by_epoch(), 1.0, generator)
        if engine.row.adversarial:
            _settle(engine, images)
            yield from _compare_attacks(engine, attack, images, labels)
        if several:
            return
        full = _outcome(engine, lambda *batch: engine.update_eagerly(*batch, full=True), images, labels)
        compiled = _outcome(engine, update, images, labels, captured)
        moved = []
        for _ in range(DRAWS):
            with preserved(weights):
                size = MOVE[engine.recipe.run.precision]
                _move(weights, size, generator)
                other = images.clone(memory_format=torch.preserve_format)
                _move([other], size, generator)
                moved.append(_outcome(engine, engine.update_eagerly, other, labels))
    parts = _parts(engine)
    gradients = [full[key] for key in full if key not in parts]
    whole = float(torch.stack([g.double().norm() for g in gradients]).norm())
    for key in full:
        factor, slack = FACTOR[engine.recipe.run.precision], SLACK
        if key in parts:
            factor, slack = LOSS_FACTOR, LOSS_SLACK
        # a part that is nothing but rounding (zero in exact arithmetic) is measured by the whole
        least = 1e-3 * float(full[parts[0]].abs()) if key in parts else 1e-6 * whole
        rounding = max(distance(each[key], full[key], least) for each in moved)
        away = distance(compiled[key], full[key], least)
        yield Figure(f"{key} is away from the full-precision one", away, factor * rounding + slack)


def _parts(engine: FastEngine) -> list[str]:
    """What an update returns first, in words."""
    return [f"{name} loss" for name in engine.objective.names]


def _outcome(
    engine: FastEngine,
    update: Function,
    images: Tensor,
    labels: Tensor,
    captured: Sequence[Tensor | None] | None = None,
) -> dict[str, Tensor]:
    """Losses and gradients of an update by name, its traces removed; `captured` where it leaves no gradients itself."""
    found = {}
    with preserved(engine.state()):
        engine.model.zero_grad(set_to_none=True)
        losses = [part.clone() for part in update(images, labels, *engine.clean_copies(images))[:-1]]
        own = [p.grad for p in engine.model.parameters()]
        if captured is not None and all(gradient is None for gradient in own):
            own = list(captured)
        for (name, p), gradient in zip(engine.model.named_parameters(), own, strict=True):
            found[f"gradient of {name}"] = torch.zeros_like(p) if gradient is None else gradient.clone()
    return dict(zip(_parts(engine), losses, strict=True)) | found


@torch.no_grad()
def _move(tensors: Sequence[Tensor], size: float, generator: torch.Generator) -> None:
    """Multiply every element by 1 + size N(0, 1), cut at half."""
    for tensor in tensors:
        noise = torch.randn(tensor.shape, generator=generator, device=tensor.device, dtype=tensor.dtype)
        tensor.mul_((1 + size * noise).clamp_(0.5, 1.5))


def _settle(engine: FastEngine, images: Tensor) -> None:
    """Bring running statistics near the batch's: with those of a new network an attack in eval mode has no effect."""
    if engine.recipe.attack.bn == "running":
        engine.model.backbone.train()  # also where it rests
        with torch.no_grad():
            for _ in range(20):  # at momentum 0.1 an eighth of the first values remains
                engine.model(images)
        engine.model.train()


def _compare_attacks(
    engine: FastEngine, attack: Function, images: Tensor, labels: Tensor
) -> Iterator[Figure]:
    """Shortfall of the compiled attack in pixels moved and in loss raised, as shares of what the eager one does."""
    start = images
    if getattr(engine.climbed, "clean", False):  # it has no gradient at the images themselves
        start = engine.ball.random_start(images, torch.Generator(engine.device).manual_seed(0))
    examples = {"start": start}
    for name, run in (("eager", engine.attack_eagerly), ("compiled", attack)):
        with preserved(engine.state()):
            examples[name] = run(images, labels, *engine.starts(start))[0].clone()
    moved = {name: float((batch - start).abs().mean()) for name, batch in examples.items()}
    short = 1 - moved["compiled"] / max(moved["eager"], 1e-30)
    yield Figure("attack moves pixels less than the eager one,", short, PIXELS)
    loss = {name: _loss(engine, batch, labels, images) for name, batch in examples.items()}
    eager, compiled = (loss[name] - loss["start"] for name in ("eager", "compiled"))
    # a stronger attack cannot be wrong; one that hardly raises the loss of this batch says little
    short = (eager - compiled) / max(eager, 3e-3 * abs(loss["start"]), 1e-30)
    yield Figure("attack raises the loss less than the eager one,", short, INCREASE)


def _loss(engine: FastEngine, images: Tensor, labels: Tensor, clean: Tensor) -> float:
    """What the attack climbs, in its own BatchNorm mode and in full precision, leaving no trace."""
    model = engine.model
    model.train(engine.recipe.attack.bn != "running")
    with preserved(model.buffers()), torch.no_grad():
        batch = Batch(model, images, labels, clean, objective=engine.objective)
        value = float(engine.climbed(batch))
    model.train()
    return value
