"""Float64 trajectories of the fast engine on a tiny network, in one process or in several (together.py)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from srat_fast.data.arrays import ImageSet
from srat_fast.data.memory import MemoryLoader
from srat_fast.models.build import build_model
from srat_fast.ranks import joined
from srat_fast.recipe import ResolvedRecipe, build_recipe
from srat_fast.registry import model as models
from srat_fast.training.feedback import measure
from srat_fast.training.fit import MovingAverage
from srat_fast.training.step import FastEngine
from tests.training import tape

COUNTS, UNDER = [60, 24, 9, 3], [2, 3]
#: 33 images in batches of 16: 2 processes have 8 + 8 of them, 3 have 6 + 5 + 5, and of the last batch one has the image
IMAGES, BATCH, EPOCHS = 33, 16, 7

#: what depends on the number of processes
LOCAL = "local"
_TRADES = {"method": "trades", "attack.steps": 1}
CASES: dict[str, dict[str, Any]] = {
    "srat-ldam": {"method": "srat-ldam"},
    "drcb-ce": {"method": "drcb-ce", "optim.clip_norm": 0.5, "attack.steps": 1},
    "trades": _TRADES,
}
#: one epoch each of what else sees more than its own images
MORE: dict[str, dict[str, Any]] = {
    "running": {"method": "srat-ldam", "attack.bn": "running"},
    "l2": {"method": "srat-focal", "attack.threat": "l2", "attack.epsilon": 0.8, "attack.step_size": 0.3},
    "harl": {"method": "harl", "attack.loss": "objective", "attack.bn": "running"},
    "tail": {"method": "srat:reat", "attack.bn": "frozen"},
    "etf": {"method": "mcat"},
    "awp": {"method": "trades-awp", "attack.radius": "count", "attack.radius_strength": 0.5},
    "bat": {"method": "bat"},
    "faal": _TRADES | {"feedback.rule": "faal"},
    "captured": {"method": "srat-ce", "attack.bn": "running", "run.capture": "on", "attack.radius_ramp": 0.5},
    "stages": {"method": "srat-ce", "stages.lengths": "1, 6", "stages.train": "all, new-head"},
    LOCAL: {"method": "srat-ldam", "run.batch_norm": "local"},
}


class Tiny(nn.Module):
    """Two convolutions with BatchNorm."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.feature_dim = 2 * width
        self.first, self.second = nn.Conv2d(channels, width, 3, 2), nn.Conv2d(width, 2 * width, 3, 2)
        self.norms = nn.ModuleList([nn.BatchNorm2d(width), nn.BatchNorm2d(2 * width)])

    def features(self, images: torch.Tensor) -> torch.Tensor:
        for convolution, norm in zip((self.first, self.second), self.norms, strict=True):
            images = functional.relu(norm(convolution(images)))
        return images

    def folds(self) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        return list(zip((self.first, self.second), self.norms, strict=True))


@contextmanager
def tiny_network() -> Iterator[None]:
    """The network "tiny"."""
    models("tiny")(Tiny)
    try:
        yield
    finally:
        models.remove("tiny")


def trajectories(
    cases: dict[str, dict[str, Any]], fewer: dict[str, int] | None = None
) -> dict[str, dict[str, Any]]:
    """Losses of each step, weights and counters at the end, of this process; `fewer` epochs of some."""
    with tiny_network(), joined("cpu", 60.0) as ranks:
        epochs = dict.fromkeys(cases, EPOCHS) | (fewer or {})
        return {name: _trajectory(ranks, case, epochs[name]) for name, case in cases.items()}


def _trajectory(ranks: Any, case: dict[str, Any], epochs: int) -> dict[str, Any]:
    fields = {
        "data.name": "folder", "data.image_size": 12, "model.name": "tiny", "model.width": 4, "model.feature_dim": 8,
        "attack.steps": 2, "attack.epsilon": 0.05, "attack.step_size": 0.03, "optim.epochs": EPOCHS,
        "optim.defer_epoch": 1, "optim.milestones": "1", "optim.warmup_epochs": 1, "optim.decay": 0.5,
        "optim.lr": 0.02, "run.precision": "fp32", "run.eval_batch_size": 12, "run.compile": "off",
    }  # fmt: skip
    if ranks.size == 1:
        case = case | {"run.capture": "off"}
    recipe = build_recipe("paper", fields | case).resolve()
    with pytest.MonkeyPatch.context() as patch:
        if recipe.run.capture == "on":  # the attack, which exchanges nothing
            tape.install(patch)
        return _trained(ranks, recipe, epochs)


def _trained(ranks: Any, recipe: ResolvedRecipe, epochs: int) -> dict[str, Any]:
    model = build_model(recipe, classes=4, channels=3, moments=None).double()
    engine = FastEngine(recipe, model, COUNTS, UNDER, ranks)
    average = MovingAverage(engine.model, 0.5)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (IMAGES, 12, 12, 3), generator=generator, dtype=torch.uint8)
    labels = torch.multinomial(torch.tensor(COUNTS, dtype=torch.float), IMAGES, True, generator=generator)
    loader_data = ImageSet(pixels.numpy(), labels.numpy())
    loader = MemoryLoader(
        loader_data, batch_size=BATCH, device=torch.device("cpu"), shuffle=True,
        crop_padding=1, flip=True, ranks=ranks,
    )  # fmt: skip
    losses, correct = [], []
    for epoch in range(epochs):
        engine.start_epoch(epoch)
        for images, targets in loader.epoch(epoch):
            result = engine.step(images.double(), targets)
            average.update(engine.guard.found)
            losses += [float(value) for value in result.losses.values()]
            correct.append(int(result.correct))
    kept = (*engine.model.parameters(), *engine.model.buffers(), *average.module.parameters())
    weights = torch.cat([tensor.detach().double().flatten() for tensor in kept]).numpy()
    figures = measure(model, loader_data, recipe, seed=1, device=torch.device("cpu"), ranks=ranks)
    found = {
        "losses": losses, "correct": correct, "zero": int(engine.zero), "weights": weights,
        "captured": tape.Graph.made, "figures": torch.stack([figures.robust, figures.loss, figures.margin]).numpy(),
    }  # fmt: skip
    images, targets = next(loader.epoch(0))
    if ranks.rank == ranks.size - 1:
        images[0, 0, 0, 0] = float("nan")
    engine.guard.steps.zero_()
    engine.step(images.double(), targets)
    after = torch.cat([tensor.detach().flatten() for tensor in engine.model.parameters()]).numpy()
    return found | {"stopped_at": int(engine.guard.bad), "kept": bool((after == weights[: len(after)]).all())}
