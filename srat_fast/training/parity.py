"""The start-up check: an engine and its first batch enter; nothing leaves, or an error that stops the run.

Compiled and captured code is used only after it has computed what eager mode computes on a real batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from srat_fast.errors import TrainingFailure
from srat_fast.training.capture import Function, preserved
from srat_fast.training.memory import out_of_memory

if TYPE_CHECKING:
    from srat_fast.training.step import FastEngine

#: The compiled gradient may be this many times as far from the full-precision one as the eager one is, plus the second
#: number (relative L2 distance), which is all that float32 has: there eager and full are the same.
GRADIENT_TOLERANCE = (2.0, 1e-3)
#: Least increase of the loss by the compiled attack, as a share of that by the eager one, on one batch. Equal attacks
#: that round differently were seen to differ by 3 % (bf16 against fp32, eight seeds, 128 images): the test of the 99 %
#: of performance.md needs a trained network and many batches (tests/equivalence), this one finds wrong code.
ATTACK_STRENGTH = 0.9
WAY_OUT = "--no-compile runs eagerly, --engine reference plainly"


@contextmanager
def compile_errors() -> Iterator[None]:
    """Turns what torch.compile, Triton or a capture raise into one line that names the way out.

    torch's advice to compute float32 in TF32 is not passed on: float32 means float32 here (`hardware.numerics`).

    Raises:
        TrainingFailure: in place of the error inside.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
            yield
    except TrainingFailure:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise TrainingFailure("out of memory; lower --batch-size or --set model.width") from None
        # dynamo, inductor, triton and the CUDA runtime raise types of their own; all mean the same here
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TrainingFailure(f"compiling the training step failed: {first}; {WAY_OUT}") from error


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Relative L2 distance.

    Args:
        ours: any shape.
        theirs: same shape, the yardstick.

    Returns:
        |ours - theirs| / |theirs|; inf where either is not finite.
    """
    a, b = ours.double(), theirs.double()
    value = float((a - b).norm() / b.norm().clamp(min=1e-30))
    return value if value == value else float("inf")


def check_parity(engine: FastEngine, images: Tensor, labels: Tensor) -> None:
    """Refuse an engine whose compiled attack or update differs from its eager one; its state is left as it was.

    The update is compared by its gradients, held against those without autocast; the attack by the loss that the
    eager model gives to its examples, as the sign makes examples themselves differ by whole steps.

    Args:
        engine: before its first step.
        images: [B, C, H, W].
        labels: [B].

    Raises:
        TrainingFailure: naming the figure and the bound.
    """
    attack, update = engine.run_parts()
    if engine.row.adversarial:
        with preserved(engine.model.buffers()):
            _settle(engine, images)
            _check_attack(engine, attack, images, labels)
    gradients = {}
    runs = {"full": lambda x, y: engine.update_eagerly(x, y, full=True), "eager": engine.update_eagerly}
    for name, run_update in (runs | {"compiled": update}).items():
        with preserved(engine.state()):
            run_update(images, labels)
            found = [p.grad.flatten() for p in engine.model.parameters() if p.grad is not None]
            gradients[name] = torch.cat(found)
    eager, compiled = (distance(gradients[name], gradients["full"]) for name in ("eager", "compiled"))
    factor, slack = GRADIENT_TOLERANCE
    if not compiled <= factor * eager + slack:
        raise TrainingFailure(
            f"the compiled gradient is {compiled:.2g} away from the full-precision one, the eager one {eager:.2g} "
            f"(at most {factor * eager + slack:.2g} is allowed); {WAY_OUT}"
        )


def _settle(engine: FastEngine, images: Tensor) -> None:
    """Bring running statistics near the batch's: with those of a new network an attack in eval mode has no effect."""
    if engine.recipe.attack.bn == "running":
        with torch.no_grad():
            for _ in range(20):  # at momentum 0.1 an eighth of the first values remains
                engine.model(images)


def _check_attack(engine: FastEngine, attack: Function, images: Tensor, labels: Tensor) -> None:
    """Refuse a compiled attack that raises the loss less than the eager one does."""
    examples = {"clean": images}
    for name, run in (("eager", engine.attack_eagerly), ("compiled", attack)):
        with preserved(engine.state()):
            examples[name] = run(images, labels, images)[0].clone()
    loss = {name: _loss(engine, batch, labels) for name, batch in examples.items()}
    eager, compiled = (loss[name] - loss["clean"] for name in ("eager", "compiled"))
    # a stronger attack cannot be wrong; an attack without effect on this batch (slack) says nothing
    if not compiled >= ATTACK_STRENGTH * eager - 1e-3 * abs(loss["clean"]):
        raise TrainingFailure(
            f"the compiled attack raises the loss of the first batch by {compiled:.4f}, the eager one by "
            f"{eager:.4f} (at least {ATTACK_STRENGTH:.0%} of that is needed); {WAY_OUT}"
        )


def _loss(engine: FastEngine, images: Tensor, labels: Tensor) -> float:
    """Mean cross-entropy in the attack's own BatchNorm mode, in full precision, leaving no trace."""
    model = engine.model
    model.train(engine.recipe.attack.bn == "batch")
    with preserved(model.buffers()), torch.no_grad():
        value = float(torch.nn.functional.cross_entropy(model(images), labels))
    model.train()
    return value
