"""Whether the start-up check refuses what it should: `python benchmarks/startup.py [--seeds 8] [--only srat-ldam]`.

Sound compiled code is never to be refused, code with a planted fault always. Every case is compiled once and checked
with new weights and a new batch for each seed; a row a case has the share of the nearest bound that each check used.
Faults are planted, for the first seed, in eager code, where only the fault (and bf16) shows.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.measure import Unmeasured, parsed, parser, record
from benchmarks.rows import Row
from benchmarks.work import COUNTS, UNDER, Work, image_set, memory_loader
from srat_fast.attacks.engine import compile_settings
from srat_fast.errors import TrainingFailure
from srat_fast.models.batch import Batch
from srat_fast.models.build import build_model
from srat_fast.training import parity
from srat_fast.training.capture import Function, preserved
from srat_fast.training.step import FastEngine

#: Methods, batches, BatchNorm modes, precisions and widths that runs have; a case costs a compilation.
CASES = [
    Work("srat-ldam", 64, "batch", "fp32", 8),
    Work("srat-ce", 64, "batch", "fp32", 16),
    Work("ce", 128, "batch", "fp32", 16),
    Work("srat-focal", 16, "batch", "fp32", 32),
    Work("drcb-ldam", 32, "running", "fp32", 16),
    Work("natural", 64, "batch", "fp32", 16),
    Work("cb-focal", 16, "batch", "fp32", 64),
    Work("srat-ldam", 64, "batch", "bf16", 16),
    Work("srat-focal", 32, "running", "bf16", 8),
    Work("ce", 32, "batch", "bf16", 32),
    Work("srat-ldam", 16, "batch", "bf16", 64),
]


def wrong_sign(engine: FastEngine) -> None:
    """One layer's gradient is turned round."""
    eager = engine.update_eagerly

    def update(images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        result = eager(images, labels)
        gradient = engine.model.backbone.layer3[0].conv1.weight.grad
        assert gradient is not None
        gradient.neg_()
        return result

    engine._update = update


def dropped_term(engine: FastEngine) -> None:
    """The separation loss has a value and no gradient."""

    class Cut(Batch):
        @property
        def separable(self) -> Tensor:
            return super().separable.detach()

    def losses(images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        batch = Cut(engine.model, images, labels, half=engine.recipe.run.precision == "bf16")
        return (*engine.objective(batch).values(), batch.logits)

    engine._update = lambda images, labels: engine._update_batch(images, labels, losses=losses)


def with_first_weights(engine: FastEngine, function: Function) -> Function:
    """A function that goes on with the weights that it met first, as code with folded constants does."""
    weights = list(engine.model.parameters())
    first = [weight.detach().clone() for weight in weights]

    def stale(*inputs: Tensor) -> tuple[Tensor, ...]:
        with preserved(weights):
            with torch.no_grad():
                for weight, old in zip(weights, first, strict=True):
                    weight.copy_(old)
            return function(*inputs)

    return stale


def stale_weights(engine: FastEngine) -> None:
    """The update computes with the weights of its compilation."""
    engine._update = with_first_weights(engine, engine.update_eagerly)


def stale_class_weights(engine: FastEngine) -> None:
    """The update computes with the class weights of its compilation."""
    kept = engine.objective.class_weights.clone()

    def update(images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        with preserved([engine.objective.class_weights]):
            engine.objective.class_weights.copy_(kept)
            return engine.update_eagerly(images, labels)

    engine._update = update


def stale_attack(engine: FastEngine) -> None:
    """The attack climbs the loss of the network as it was compiled."""
    engine._attack = with_first_weights(engine, engine.attack_eagerly)


def half_attack(engine: FastEngine) -> None:
    """The attack takes half steps in half the ball."""

    def attack(images: Tensor, labels: Tensor, start: Tensor) -> tuple[Tensor, ...]:
        return (images + (engine.attack_eagerly(images, labels, start)[0] - images) / 2,)

    engine._attack = attack


def nan(engine: FastEngine) -> None:
    """One gradient is not a number."""
    eager = engine.update_eagerly

    def update(images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        result = eager(images, labels)
        gradient = engine.model.linear.weight.grad
        assert gradient is not None
        gradient[0, 0] = float("nan")
        return result

    engine._update = update


FAULTS: dict[str, Callable[[FastEngine], None]] = {
    fault.__name__: fault
    for fault in (
        wrong_sign,
        dropped_term,
        stale_weights,
        stale_class_weights,
        stale_attack,
        half_attack,
        nan,
    )
}


def applies(fault: str, engine: FastEngine) -> bool:
    """Whether a method has what the fault spoils."""
    if fault == "dropped_term":
        return engine.row.separation
    return engine.row.adversarial or "attack" not in fault


class Check(NamedTuple):
    """One start-up check."""

    fault: str  # what was planted, or "none"
    refused: str  # why, or ""
    used: float  # largest share of a bound; 0 where it was refused


def checks(work: Work, seeds: int) -> Iterator[Check]:
    """Every seed's weights and batch under sound code, compiled once, and under each fault."""
    recipe = work.recipe(**{"run.compile": "on"})
    batches = memory_loader(image_set(work.batch * seeds), work.batch).epoch(0)
    engine = None
    for seed, (images, labels) in enumerate(batches):
        model = build_model(work.recipe(seed=seed), classes=len(COUNTS), channels=3, moments=None)
        if engine is None:
            engine = FastEngine(recipe, model.to(images.device), COUNTS, UNDER)
            engine._compiled_size = work.batch
            parts = engine.run_parts()
        else:
            with torch.no_grad():
                for ours, new in zip(
                    engine.model.state_dict().values(), model.state_dict().values(), strict=True
                ):
                    ours.copy_(new)
        engine.start_epoch(0 if seed % 2 == 0 else recipe.optim.epochs - 1)
        planted = [name for name in FAULTS if seed == 0 and applies(name, engine)]
        for fault in ("none", *planted):
            engine._attack, engine._update = parts
            if fault != "none":
                engine._attack, engine._update = engine.attack_eagerly, engine.update_eagerly
                FAULTS[fault](engine)
            refused, figures = "", []
            with compile_settings(images.device):
                try:
                    figures = parity.check_parity(engine, images, labels)
                except TrainingFailure as failure:
                    refused = str(failure)
            yield Check(fault, refused, max((f.value / f.bound for f in figures), default=0.0))


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    made = parser(__doc__)
    made.add_argument("--seeds", type=int, default=8)
    made.add_argument("--only", default="", help="cases whose text has this")
    found = parsed(made, arguments)
    if found.small:
        found.seeds = 1
    return found


def measured(found: argparse.Namespace) -> Iterator[Row]:
    """A row a case."""
    wrong = 0
    for work in CASES[:1] if found.small else CASES:
        name = f"{work.method} {work.bn} {work.precision} width {work.width} batch {work.batch}"
        if found.only not in name:
            continue
        each = list(checks(work, found.seeds))
        sound = [check for check in each if check.fault == "none"]
        planted = [check for check in each if check.fault != "none"]
        shares = [check.used for check in sound if not check.refused]
        row = {
            "checks": len(sound),
            "refused": sum(bool(check.refused) for check in sound),
            "used": [round(f(shares), 2) for f in (statistics.median, max)] if shares else [],
            "faults": len(planted),
            "faults_passed": [check.fault for check in planted if not check.refused],
        }
        wrong += row["refused"] + len(row["faults_passed"])
        yield {"op": "startup", **work._asdict(), **row}
    if wrong:
        raise Unmeasured(f"{wrong} checks ended otherwise than they should")


if __name__ == "__main__":
    chosen = options()
    record(measured(chosen), chosen.out)
