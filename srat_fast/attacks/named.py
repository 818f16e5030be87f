"""The attacks by name: "pgd-100x5" and the run's own settings enter, an attack as a few rounds leaves."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from srat_fast.attacks import NAMES
from srat_fast.attacks.autoattack import FEWEST_CLASSES, STANDARD_PARTS, PackageRound, require_pyautoattack
from srat_fast.attacks.rounds import FgsmRound, GradientRound, NoiseRound, Round
from srat_fast.attacks.threat import LInfBall
from srat_fast.errors import UserError

_GRADIENT = re.compile(
    r"(pgd|cw)-([1-9][0-9]{0,4})(?:x([1-9][0-9]{0,2}))?(?:@([0-9]{1,6}(?:\.[0-9]{1,6})?))?"
)
_NOISE = re.compile(r"noise-([1-9][0-9]{0,3})")


@dataclass(frozen=True)
class NamedAttack:
    """An attack at one radius: an image counts as right where it survives every round.

    Attributes:
        name: such as "pgd-20"; "clean" has no round.
        epsilon: radius; None for clean images.
        rounds: in order; each attacks what is still right, the first one everything.
        parameters: what goes into the record beside name and radius.
    """

    name: str
    epsilon: float | None
    rounds: tuple[Round, ...]
    parameters: dict[str, Any]

    @property
    def ball(self) -> LInfBall | None:
        """The threat model; None for clean images."""
        return None if self.epsilon is None else LInfBall(self.epsilon)


def named_attack(name: str, *, epsilon: float, step_size: float, classes: int) -> NamedAttack:
    """One attack.

    Args:
        name: as in `NAMES`.
        epsilon: radius.
        step_size: of PGD and CW.
        classes: C.

    Returns:
        The attack.

    Raises:
        UserError: no such attack, or its loss needs more classes.
        MissingPackage: it comes from pyautoattack, which is not installed.
    """
    ball = LInfBall(epsilon)
    if name == "clean":
        return NamedAttack(name, None, (), {})
    if name == "fgsm":
        return NamedAttack(
            name, epsilon, (FgsmRound(ball),), {"steps": 1, "step_size": epsilon, "loss": "ce"}
        )
    if match := _NOISE.fullmatch(name):
        draws = int(match[1])
        rounds = tuple(NoiseRound(ball, f"noise/{r}") for r in range(draws))
        return NamedAttack(name, epsilon, rounds, {"restarts": draws})
    match = _GRADIENT.fullmatch(name)
    if match and float(match[4] or 1) > 0:
        kind, steps, restarts, scale = match[1], int(match[2]), int(match[3] or 1), float(match[4] or 1)
        loss = {"pgd": "ce", "cw": "cw"}[kind]
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
        return NamedAttack(name, epsilon, gradient, parameters)
    if name == "autoattack" or name in FEWEST_CLASSES:
        parts = STANDARD_PARTS if name == "autoattack" else (name,)
        _require_classes(name, parts, classes)
        require_pyautoattack(f"the attack {name}")
        package = tuple(PackageRound(ball, part, classes) for part in parts)
        return NamedAttack(name, epsilon, package, {"parts": list(parts), "version": "standard"})
    raise UserError("--attack", f"a comma-separated list of {NAMES}", name)


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
    names: str, *, epsilon: float, step_size: float, classes: int, own_epsilon: float | None = None
) -> dict[str, NamedAttack]:
    """What `--attack` stands for at one radius.

    Args:
        names: comma-separated, each as in `NAMES`.
        epsilon: radius.
        step_size: of PGD and CW at `own_epsilon`; at another radius it is scaled along.
        classes: C.
        own_epsilon: radius that the step size belongs to; None for `epsilon`.

    Returns:
        Name -> attack, in the given order.

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
        attacks[name] = named_attack(name, epsilon=epsilon, step_size=scaled, classes=classes)
    return attacks
