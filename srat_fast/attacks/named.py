"""The attacks by name, such as "pgd-100x5": each a few rounds, one after another on what the ones before left right."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from srat_fast.attacks import NAMES
from srat_fast.attacks.autoattack import FEWEST_CLASSES, STANDARD_PARTS, PackageRound, require_pyautoattack
from srat_fast.attacks.pgd import fgsm, pgd
from srat_fast.attacks.threat import Threat
from srat_fast.errors import UserError, did_you_mean
from srat_fast.registry import inner, threat

_GRADIENT = re.compile(
    r"(pgd|cw)-([1-9][0-9]{0,4})(?:x([1-9][0-9]{0,2}))?(?:@([0-9]{1,6}(?:\.[0-9]{1,6})?))?"
)
_NOISE = re.compile(r"noise-([1-9][0-9]{0,3})")
#: kind of a gradient attack -> its inner loss.
_LOSSES = {"pgd": "ce", "cw": "margin"}


class Round(Protocol):
    """One pass of an attack over a batch."""

    @property
    def stream(self) -> str:
        """Name of the RNG stream; rounds with equal names draw equal starts."""

    def start(self, images: Tensor, generator: torch.Generator) -> Tensor | None:
        """Where it starts, drawn for a whole batch; None where it draws for itself or not at all."""

    def examples(
        self, model: nn.Module, images: Tensor, labels: Tensor, start: Tensor | None, seed: int
    ) -> Tensor:
        """Adversarial images for [B, C, H, W] images and [B] labels."""


@dataclass(frozen=True)
class GradientRound:
    """PGD-k from a random point of the ball.

    Attributes:
        ball: the threat model.
        steps: k.
        step_size: alpha.
        loss: an inner loss, by name.
        stream: of the start.
        scale: what the logits are multiplied with before the loss; the prediction is that of the logits as they are.
    """

    ball: Threat
    steps: int
    step_size: float
    loss: str
    stream: str
    scale: float = 1.0

    def start(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """A random point of the ball."""
        return self.ball.random_start(images, generator)

    def examples(
        self, model: nn.Module, images: Tensor, labels: Tensor, start: Tensor | None, seed: int
    ) -> Tensor:
        """PGD from `start`."""
        return pgd(
            lambda given: self.scale * model(given),
            images,
            labels,
            ball=self.ball,
            steps=self.steps,
            step_size=self.step_size,
            start=start,
            loss=inner[self.loss],
        )


@dataclass(frozen=True)
class FgsmRound:
    """FGSM: one step of length epsilon from the image."""

    ball: Threat
    stream: str = "fgsm"

    def start(self, images: Tensor, generator: torch.Generator) -> None:
        """The image itself."""

    def examples(
        self, model: nn.Module, images: Tensor, labels: Tensor, start: Tensor | None, seed: int
    ) -> Tensor:
        """One step."""
        return fgsm(model, images, labels, ball=self.ball)


@dataclass(frozen=True)
class NoiseRound:
    """As far as the ball allows in a random direction: what chance alone can do."""

    ball: Threat
    stream: str

    def start(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The noisy images."""
        return self.ball.noise(images, generator)

    def examples(
        self, model: nn.Module, images: Tensor, labels: Tensor, start: Tensor | None, seed: int
    ) -> Tensor:
        """The start: nothing is searched."""
        assert start is not None, "noise is its start"
        return start


@dataclass(frozen=True)
class NamedAttack:
    """An attack in one ball: an image counts as right where it survives every round.

    Attributes:
        name: such as "pgd-20"; "clean" has no round.
        ball: the threat model; None for clean images.
        rounds: in order; each attacks what is still right, the first one everything.
        parameters: what goes into the record beside name and radius.
    """

    name: str
    ball: Threat | None
    rounds: tuple[Round, ...]
    parameters: dict[str, Any]

    @property
    def epsilon(self) -> float | None:
        """The radius; None for clean images."""
        return None if self.ball is None else self.ball.epsilon  # type: ignore[return-value]  # here one for all


def named_attack(
    name: str, *, threat_model: str, epsilon: float, step_size: float, classes: int
) -> NamedAttack:
    """One attack, by one of `NAMES`.

    Raises:
        UserError: no such attack, its loss needs more classes, or AutoAttack does not know the threat model.
        MissingPackage: it comes from pyautoattack, which is not installed.
    """
    ball = threat[threat_model](epsilon)
    if name == "clean":
        return NamedAttack(name, None, (), {})
    of = {"threat": threat_model}
    if name == "fgsm":
        return NamedAttack(
            name, ball, (FgsmRound(ball),), {"steps": 1, "step_size": epsilon, "loss": "ce"} | of
        )
    if match := _NOISE.fullmatch(name):
        draws = int(match[1])
        rounds = tuple(NoiseRound(ball, f"noise/{r}") for r in range(draws))
        return NamedAttack(name, ball, rounds, {"restarts": draws} | of)
    match = _GRADIENT.fullmatch(name)
    if match and float(match[4] or 1) > 0:
        kind, steps, restarts, scale = match[1], int(match[2]), int(match[3] or 1), float(match[4] or 1)
        loss = _LOSSES[kind]
        gradient = tuple(
            GradientRound(ball, steps, step_size, loss, f"{kind}/{r}", scale) for r in range(restarts)
        )
        parameters = {
            "steps": steps,
            "step_size": step_size,
            "restarts": restarts,
            "loss": loss,
            "scale": scale,
        }
        return NamedAttack(name, ball, gradient, parameters | of)
    if name == "autoattack" or name in FEWEST_CLASSES:
        parts = STANDARD_PARTS if name == "autoattack" else (name,)
        if ball.autoattack is None:
            raise UserError(
                "--attack", f"AutoAttack has no {ball.title}; take fgsm, pgd-K, cw-K or noise-R", name
            )
        _require_classes(name, parts, classes)
        require_pyautoattack(f"the attack {name}")
        package = tuple(PackageRound(ball, part, classes) for part in parts)
        return NamedAttack(name, ball, package, {"parts": list(parts), "version": "standard"} | of)
    joined = re.fullmatch(r"(pgd|cw|noise)[ _]?(\d+.*)", name)
    hint = f"; did you mean {joined[1]}-{joined[2]}?" if joined else did_you_mean(name, STANDARD_PARTS)
    raise UserError("--attack", f"a comma-separated list of {NAMES}{hint}", name)


def _require_classes(name: str, parts: tuple[str, ...], classes: int) -> None:
    """Refuse what a loss over three or four logits cannot do with fewer; what remains is named, not swapped in."""
    refused = [part for part in parts if classes < FEWEST_CLASSES[part]]
    if not refused:
        return
    left = [part for part, fewest in FEWEST_CLASSES.items() if classes >= fewest]
    raise UserError(
        "--attack",
        f"{refused[0]} needs {FEWEST_CLASSES[refused[0]]} classes and there are {classes}; "
        f"take {','.join(left)} and read the row worst-case",
        name,
    )


def parse_attacks(
    names: str,
    *,
    threat_model: str,
    epsilon: float,
    step_size: float,
    classes: int,
    own_epsilon: float | None = None,
) -> dict[str, NamedAttack]:
    """Name -> attack of what `--attack` stands for at one radius, in the given order.

    The step size of PGD and CW belongs to the radius `own_epsilon` (None: `epsilon`) and scales along.

    Raises:
        UserError: an unknown name, one given twice, or one that needs more classes.
        MissingPackage: a part of AutoAttack without pyautoattack.
    """
    if not isinstance(names, str):
        raise UserError("--attack", f"a comma-separated list of {NAMES}", names)
    scaled = step_size if own_epsilon in (None, epsilon) else step_size * epsilon / own_epsilon
    attacks: dict[str, NamedAttack] = {}
    for name in (part.strip().lower() for part in names.split(",")):
        if name in attacks:
            raise UserError("--attack", f"{name} stands there twice", names)
        attacks[name] = named_attack(
            name, threat_model=threat_model, epsilon=epsilon, step_size=scaled, classes=classes
        )
    return attacks
