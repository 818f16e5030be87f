"""Everything a run needs before its first epoch: images, network, loader, engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from srat_fast.data.arrays import ImageArrays
from srat_fast.data.loaders import Loader, require_loader, training_loader
from srat_fast.data.plan import base_counts, planned_counts
from srat_fast.data.split import DataSplit, load_split
from srat_fast.errors import UserError
from srat_fast.hardware import resolve_device, resolve_execution, resolve_precision, use_device
from srat_fast.models.build import build_model, check_batch_norm
from srat_fast.models.classifier import Classifier
from srat_fast.models.files import start_from
from srat_fast.ranks import ALONE, Ranks
from srat_fast.recipe import ResolvedRecipe, Stage, require_together, stages_of
from srat_fast.registry import inner
from srat_fast.training.feedback import Effects, Facts, Rule
from srat_fast.training.step import FastEngine


class Result(Protocol):
    """What a step of either engine leaves."""

    @property
    def losses(self) -> dict[str, Tensor]:
        """Scalars: "total", then those of `Engine.terms`."""

    @property
    def correct(self) -> Tensor:
        """Images classified right."""


class Timer(Protocol):
    """Where an engine's time goes."""

    def seconds(self) -> dict[str, float]:
        """Seconds per region since the start."""


class Guard(Protocol):
    """What keeps an engine at its last finite state; all tensors are [1] and stay where they are."""

    steps: Tensor
    bad: Tensor
    loss: Tensor
    found: Tensor

    def settle(self) -> None:
        """Put the running statistics back to those before the step that was not finite."""


class Engine(Protocol):
    """What the trainer asks of an engine: the fast one and the reference both have it."""

    model: Classifier
    optimizer: torch.optim.SGD
    noise: torch.Generator
    nonfinite: Tensor
    zero: Tensor
    compile_seconds: float
    stages: list[Stage]
    stage: Stage

    @property
    def terms(self) -> tuple[str, ...]:
        """What the objective is the sum of: "classification" and the row's further terms."""

    @property
    def guard(self) -> Guard:
        """What keeps it at its last finite state."""

    @property
    def stopwatch(self) -> Timer:
        """Its time per region."""

    def start_epoch(self, epoch: int) -> None:
        """Set the epoch's rate and weights; begin its stage where that is another one."""

    def enter(self, number: int) -> None:
        """Be what a stage needs, weights as they are."""

    def rule(self, facts: Facts) -> Rule:
        """Its feedback rule."""

    def steer(self, effects: Effects) -> None:
        """Take over what the feedback rule has found."""

    def step(self, images: Tensor, labels: Tensor) -> Result:
        """Train on one batch."""

    def close(self) -> None:
        """Give back what must not be left to the garbage collector."""


@dataclass(frozen=True)
class Setup:
    """A run that is ready to start.

    Attributes:
        recipe: resolved, hardware choices included.
        device: where it runs.
        split: its images.
        loader: its training batches.
        engine: its training step.
        ranks: the processes that train it.
    """

    recipe: ResolvedRecipe
    device: torch.device
    split: DataSplit
    loader: Loader
    engine: Engine
    ranks: Ranks = ALONE


def resolve_hardware(
    recipe: ResolvedRecipe, arrays: ImageArrays | None = None, processes: int = 1
) -> tuple[ResolvedRecipe, torch.device]:
    """The recipe with the "auto" replaced that the hardware decides."""
    device = resolve_device(recipe.run.device)
    images = sum(planned_counts(recipe, base_counts(recipe, arrays)[0]))
    compiled, captured = resolve_execution(recipe, device, images, processes)
    choices = {
        "run.precision": resolve_precision(recipe, device),
        "run.compile": compiled,
        "run.capture": captured,
    }
    return recipe.replace({"run.device": str(device)} | choices), device


def prepare(
    recipe: ResolvedRecipe,
    device: torch.device,
    arrays: ImageArrays | None = None,
    begins: bool = True,
    ranks: Ranks = ALONE,
) -> Setup:
    """Load the images, build the network and its engine; a run that `begins` takes the weights of `model.start`."""
    require_loader(recipe)
    require_together(recipe, ranks.size)
    for attack in (stage.recipe.attack for stage in stages_of(recipe)):
        if (
            getattr(inner[attack.loss], "clean", False) and not attack.random_start
        ):  # only rounding would move it
            problem = f"attack.loss = {attack.loss} has no gradient at the clean image: true is needed"
            raise UserError("attack.random_start", problem, False)
    use_device(device)
    with ranks.one_a_node():
        split = load_split(recipe, arrays)
    moments = _moments(split.train.images) if recipe.model.normalize == "dataset" else None
    channels = split.train.images.shape[3]
    model = build_model(recipe, classes=len(split.classes), channels=channels, moments=moments)
    check_batch_norm(recipe, len(split.train), model, ranks.size)
    if begins and recipe.model.start is not None:
        start_from(model, recipe, split.classes)
    model = model.to(device)
    with ranks.one_a_node():
        loader = training_loader(recipe, split, device, ranks)
    engine = _engine(recipe, model, split, ranks)
    return Setup(recipe, device, split, loader, engine, ranks)


def _engine(recipe: ResolvedRecipe, model: Classifier, split: DataSplit, ranks: Ranks) -> Engine:
    if recipe.run.engine == "reference":
        from srat_fast.training.plain import ReferenceEngine  # only when asked for

        return ReferenceEngine(recipe, model, split.counts, split.under)
    return FastEngine(recipe, model, split.counts, split.under, ranks)


def _moments(images: np.ndarray) -> tuple[Tensor, Tensor]:
    """Per-channel mean and deviation of [N, H, W, C] uint8 images in [0, 1]; by parts, as they may lie in files."""
    total, squares, pixels = np.zeros(1), np.zeros(1), 0
    step = max(1, 2**22 // int(np.prod(images.shape[1:])))  # large images fewer at a time
    for first in range(0, len(images), step):
        part = np.asarray(images[first : first + step]).astype(np.int64)
        total, squares = total + part.sum(axis=(0, 1, 2)), squares + (part**2).sum(axis=(0, 1, 2))
        pixels += part.size // part.shape[3]
    mean = total / pixels
    std = np.sqrt(np.maximum(squares / pixels - mean**2, 0.0)) / 255
    mean = mean / 255
    return torch.from_numpy(mean), torch.from_numpy(np.maximum(std, 1e-6))
