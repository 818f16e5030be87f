"""Loader and evaluation: sizes enter, a case each leaves, past its gate.

Both have a plain counterpart here: a torch DataLoader that crops and flips one image at a time in its workers, and a
PGD evaluation that computes and throws away the parameters' gradients.
"""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from benchmarks.engine.cases import Case
from benchmarks.engine.work import COUNTS, DEVICE, ON_GPU, Work, image_set, memory_loader
from srat_fast.attacks.threat import LInfBall
from srat_fast.data.arrays import ImageSet
from srat_fast.data.memory import MemoryLoader
from srat_fast.evaluation.accuracy import PgdSettings, predict
from srat_fast.evaluation.judge import eval_settings
from srat_fast.models.build import build_model, forward_flops
from srat_fast.seeds import seed_for

LOADER_IMAGES = 50_000 if ON_GPU else 2048
EVALUATION_STEPS = 20 if ON_GPU else 3
#: Share of predictions on attacked images that two evaluations in fp32 must have in common.
AGREEMENT = 0.95


class Plain(Dataset[tuple[Tensor, int]]):
    """One image after another: zero padding, random crop, random flip, float in [0, 1]."""

    def __init__(self, data: ImageSet, augmented: bool) -> None:
        self.images = torch.from_numpy(data.images).permute(0, 3, 1, 2).contiguous()
        self.labels, self.augmented = data.labels.tolist(), augmented

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index]
        if self.augmented:
            image = functional.pad(image, (4, 4, 4, 4))
            top, left, mirrored = (int(torch.randint(high, ())) for high in (9, 9, 2))
            image = image[:, top : top + 32, left : left + 32]
            image = image.flip(2) if mirrored else image
        return image.float() / 255, self.labels[index]


def plain_loader(data: ImageSet, batch: int, augmented: bool = True) -> DataLoader[tuple[Tensor, int]]:
    """Workers as the machine has cores, at most eight, on a GPU machine; none on a CPU, where they would compete."""
    workers = min(8, os.cpu_count() or 1) if ON_GPU else 0
    return DataLoader(
        Plain(data, augmented),
        batch_size=batch,
        shuffle=augmented,
        num_workers=workers,
        pin_memory=ON_GPU,
        persistent_workers=workers > 0,
        multiprocessing_context="spawn"
        if workers
        else None,  # a fork of a process that holds a GPU is not safe
    )


def loader_case(batch: int) -> Case:
    """Images per second of an epoch of the memory loader, batches on the device, against the plain one.

    Raises:
        AssertionError: without augmentation the two give different images or labels.
    """
    few = image_set(3 * batch)
    for ours, theirs in zip(
        memory_loader(few, batch, False).epoch(0), _plain(few, batch, False), strict=True
    ):
        torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=1e-7)
        assert torch.equal(ours[1], theirs[1]), "loader: labels differ"
    data = image_set(LOADER_IMAGES)
    memory, plain = memory_loader(data, batch), plain_loader(data, batch)
    functions: dict[str, Callable[[], object]] = {
        "memory": lambda: _consume(memory.epoch(0)),
        "dataloader": lambda: _consume(_to_device(plain)),
    }
    own = {"memory": {"workers": 0}, "dataloader": {"workers": plain.num_workers}}
    return Case("loader", {"batch": batch}, functions, ("dataloader",), len(data), None, own)


def _to_device(loader: DataLoader[tuple[Tensor, int]]) -> Iterator[tuple[Tensor, Tensor]]:
    return ((images.to(DEVICE, non_blocking=True), labels.to(DEVICE)) for images, labels in loader)


def _plain(data: ImageSet, batch: int, augmented: bool) -> list[tuple[Tensor, Tensor]]:
    return list(_to_device(plain_loader(data, batch, augmented)))


def _consume(batches: Iterable[object]) -> None:
    for _ in batches:
        pass


class Contiguous(nn.Module):
    """A model that takes its images in the usual layout, whatever it is given.

    Args:
        model: in the usual layout.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, classes]."""
        return self.model(images.contiguous())


def evaluation_case(work: Work, steps: int | None = EVALUATION_STEPS) -> Case:
    """Evaluation of one model, fp32 and eager in all: the product, the same on contiguous images, and a plain loop.

    Args:
        work: the size.
        steps: of PGD; None for clean images.

    Raises:
        AssertionError: the predictions differ on more than 5 % of the attacked images.
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
    own: dict[str, dict[str, object]] = {name: {} for name in functions}
    flops = (2 * (steps or 0) + 1) * forward_flops(model, 32)
    return Case("evaluation", about, functions, ("eager",), work.batch, flops, own)


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
