"""How fast evaluation is, against a loop that has the parameters' gradients, too: `python benchmarks/evaluation.py`."""

from __future__ import annotations

import argparse
import copy
import dataclasses
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.measure import DEVICE, ON_GPU, Case, parsed, parser, record, rows
from benchmarks.rows import Row
from benchmarks.work import (
    COUNTS,
    Work,
    image_set,
    memory_loader,
    searched,
    with_search,
    with_size,
    work_of,
)
from srat_fast.attacks.threat import LInfBall
from srat_fast.data.memory import MemoryLoader
from srat_fast.evaluation.accuracy import PgdSettings, predict
from srat_fast.evaluation.judge import eval_settings
from srat_fast.models.build import build_model, forward_flops
from srat_fast.seeds import seed_for

STEPS = 20 if ON_GPU else 3
#: Share of predictions on attacked images that two evaluations in fp32 must have in common.
AGREEMENT = 0.95


class Contiguous(nn.Module):
    """A model that takes its images in the usual layout, whatever it is given."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, classes]."""
        return self.model(images.contiguous())


def evaluation_case(work: Work, steps: int | None = STEPS) -> Case:
    """Evaluation of one model by PGD (`steps` None: on clean images), after a comparison of the predictions.

    fp32 and eager in all: the product, the same on contiguous images, and a plain loop.
    """
    recipe = work.recipe()
    attack = None if steps is None else dataclasses.replace(eval_settings(recipe), steps=steps)
    model = build_model(recipe, classes=len(COUNTS), channels=3, moments=None).to(DEVICE)
    plain, contiguous = copy.deepcopy(model), Contiguous(copy.deepcopy(model))
    model.to(memory_format=torch.channels_last)  # as training leaves it
    loader = memory_loader(image_set(work.batch), work.batch, augmented=False)
    functions: dict[str, Callable[[], object]] = {
        "product": lambda: predict(model, loader, attack)[0],
        "contiguous": lambda: predict(contiguous, loader, attack)[0],
        "eager": lambda: plain_predictions(plain, loader, attack),
    }
    plainly = functions["eager"]()
    for name in ("product", "contiguous"):
        share = float((functions[name]() == plainly).double().mean())
        assert share >= AGREEMENT, f"evaluation {work} {name}: only {share:.1%} of the predictions agree"
    name = "clean" if steps is None else f"pgd-{steps}"
    about = {"batch": work.batch, "width": work.width, "precision": "fp32", "attack": name}
    about |= searched()
    flops = (2 * (steps or 0) + 1) * forward_flops(model, 32)
    pairs = [(name, "eager") for name in ("product", "contiguous")]
    return Case("evaluation", about, functions, pairs, images=work.batch, flops=flops)


def plain_predictions(model: nn.Module, loader: MemoryLoader, attack: PgdSettings | None) -> Tensor:
    """Predictions on PGD examples, parameters' gradients computed and discarded; same starts as `predict`."""
    noise = torch.Generator(DEVICE).manual_seed(seed_for(0, "evaluation"))
    found = []
    model.eval()
    for images, labels in loader.epoch(0):
        images = images.contiguous()
        x = images if attack is None else _plain_examples(model, images, labels, attack, noise)
        with torch.no_grad():
            found.append(model(x).argmax(dim=1))
    return torch.cat(found).cpu()


def _plain_examples(
    model: nn.Module, images: Tensor, labels: Tensor, attack: PgdSettings, noise: torch.Generator
) -> Tensor:
    x = LInfBall(attack.epsilon).random_start(images, noise)
    for _ in range(attack.steps):
        x = x.detach().requires_grad_(True)
        functional.cross_entropy(model(x), labels).backward()
        assert x.grad is not None
        x = x.detach() + attack.step_size * x.grad.sign()
        x = torch.max(torch.min(x, images + attack.epsilon), images - attack.epsilon).clamp(0, 1)
    model.zero_grad()
    return x


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    return parsed(with_search(with_size(parser(__doc__))), arguments)


def measured(found: argparse.Namespace) -> Iterator[Row]:
    """Clean images, then attacked ones."""
    torch.backends.cudnn.benchmark = found.search
    for steps in (None, STEPS):
        yield from rows(evaluation_case(work_of(found), steps), found.rounds, found.block)


if __name__ == "__main__":
    chosen = options()
    record(measured(chosen), chosen.out)
