"""AutoAttack's four parts (Croce and Hein 2020) through pyautoattack, quietly."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from srat_fast.attacks.threat import Threat
from srat_fast.errors import EvaluationFailure, MissingPackage

#: The standard version (Croce and Hein 2020), in its order; apgd-dlr is the untargeted attack of its first release.
STANDARD_PARTS = ("apgd-ce", "apgd-t", "fab-t", "square")
#: part -> the smallest number of classes for which its loss is defined: DLR divides by the third-largest logit, its
#: targeted form by the mean of the third and the fourth.
FEWEST_CLASSES = {"apgd-ce": 2, "apgd-dlr": 3, "apgd-t": 4, "fab-t": 2, "square": 2}

#: part, norm -> the smallest height and width: Square begins an L2 attack on a grid of 5 x 5 fields.
_FEWEST_PIXELS = {("square", "L2"): 5}


def too_small(part: str, ball: Threat, images: Tensor) -> str | None:
    """Why a part cannot attack images of this size."""
    fewest = _FEWEST_PIXELS.get((part, str(ball.autoattack)), 1)
    if min(images.shape[2:]) >= fewest:
        return None
    return f"{part} in {ball.title} needs images of {fewest} x {fewest} pixels"


def require_pyautoattack(purpose: str) -> Any:
    """The module pyautoattack; `purpose` is what needs it, for the message where it is not installed."""
    try:
        import pyautoattack
    except ImportError:
        raise MissingPackage("pyautoattack", purpose, "pip install 'srat-fast[audit]'") from None
    return pyautoattack


@dataclass(frozen=True)
class PackageRound:
    """One part of AutoAttack with the standard version's parameters.

    Attributes:
        ball: the threat model, one that the package has.
        part: a key of `FEWEST_CLASSES`.
        classes: C; at most C - 1 target classes are tried.
        queries: of the Square attack.
    """

    ball: Threat
    part: str
    classes: int
    queries: int = 5000

    @property
    def stream(self) -> str:
        """Name of the RNG stream."""
        return self.part

    def start(self, images: Tensor, generator: torch.Generator) -> None:
        """The package draws its own start, from the seed of `examples`."""

    def examples(
        self, model: nn.Module, images: Tensor, labels: Tensor, start: Tensor | None, seed: int
    ) -> Tensor:
        """What the part finds; images that are misclassified as they are come back unchanged.

        The package seeds torch's global generators and, in FAB, lets gradients flow into the parameters: both are
        kept from the caller. Its images must be contiguous in the usual order.
        """
        package = require_pyautoattack(f"the attack {self.part}")
        if (reason := too_small(self.part, self.ball, images)) is not None:
            raise EvaluationFailure(reason)
        devices = [images.device] if images.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), _frozen(model), _quiet():
            # float32 logits whatever the model gives: the package mixes them with float32 of its own
            whole = package.AutoAttack(
                lambda x: model(x).float(),
                norm=self.ball.autoattack,
                eps=self.ball.epsilon,
                seed=seed,
                device=images.device,
                version="standard",
            )
            targets = min(9, self.classes - 1)
            whole.apgd_targeted.n_target_classes = whole.fab.n_target_classes = targets
            whole.square.n_queries = self.queries
            attack = {
                "apgd-ce": whole.apgd,
                "apgd-dlr": whole.apgd,
                "apgd-t": whole.apgd_targeted,
                "fab-t": whole.fab,
                "square": whole.square,
            }[self.part]
            if self.part in ("apgd-ce", "apgd-dlr"):
                attack.loss = self.part.removeprefix("apgd-")
            if self.part == "fab-t":
                attack.targeted = True
            attack.seed = seed
            plain = images.contiguous()  # the package flattens by view
            with torch.no_grad():  # its gradient passes switch gradients on for themselves
                return attack.perturb(plain, labels).detach()


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No parameter collects a gradient."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextmanager
def _quiet() -> Iterator[None]:
    """The package's remarks stay out of the terminal: what they are about, the audit measures itself."""
    logger = logging.getLogger("auto-attack")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before
