"""What `srat-fast theory` is asked: options as text enter, checked numbers leave."""

from __future__ import annotations

import math
from dataclasses import dataclass

from srat_fast.errors import UserError
from srat_fast.theory.mixture import Mixture, check_positive


@dataclass(frozen=True)
class Settings:
    """The parameters of all checks.

    Attributes:
        mixture: in which Lemma 3.1 is checked; eta, sigma and d of the theorems' mixtures are its own.
        ratio: K.
        weight: a fixed rho, checked beside rho = 1 and rho = K.
        epsilon: radius of the attack.
        separabilities: S1 > S2 of the theorems are taken from these.
        ratios: K of the theorems' grid.
        samples: of each simulation.
        seed: of the simulations.
    """

    mixture: Mixture
    ratio: float
    weight: float
    epsilon: float
    separabilities: tuple[float, ...]
    ratios: tuple[float, ...]
    samples: int
    seed: int

    def __post_init__(self) -> None:
        check_positive("--K", self.ratio)
        check_positive("--rho", self.weight)
        if self.ratio <= 1:
            raise UserError("--K", "a number > 1: class +1 is the frequent one", self.ratio)
        if self.weight < 1:
            raise UserError("--rho", "a number >= 1: class -1 is not weighted down", self.weight)
        for value in self.ratios:
            if not (1 < value < math.inf):
                raise UserError("--K-grid", "numbers > 1, separated by commas", value)
        for value in self.separabilities:
            check_positive("--S-grid", value)
        if len(set(self.separabilities)) < 2:
            raise UserError("--S-grid", "at least two different numbers", self.separabilities)
        if self.seed < 0:
            raise UserError("--seed", "a whole number >= 0", self.seed)
        self.mixture.attacked(self.epsilon)


def parse_numbers(option: str, text: str) -> tuple[float, ...]:
    """A list of numbers.

    Args:
        option: named in the error.
        text: separated by commas.

    Returns:
        The numbers.

    Raises:
        UserError: not numbers.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(option, "numbers separated by commas", text) from None
