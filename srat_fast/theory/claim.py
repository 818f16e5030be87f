"""A claim and what became of it; how far a simulation is off a hypothesis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from srat_fast.theory.sampling import Sampled

#: A simulation contradicts a formula beyond this many standard errors: by chance once in two million.
SIGMAS = 5.0


@dataclass(frozen=True)
class Claim:
    """One statement and what became of it.

    Attributes:
        name: such as "Lemma 3.1".
        statement: the reading that was checked.
        verdict: "holds", "fails", "refuted", ... with the range of K where it has one.
        evidence: the numbers, in a line.
        expected: whether the verdict is the one that the derivation in docs/theory.md gives.
    """

    name: str
    statement: str
    verdict: str
    evidence: str
    expected: bool


def deviations(sampled: Sampled, expected: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """How many standard errors the simulation is off a hypothesis.

    Args:
        sampled: the simulation.
        expected: (R+, R-) of the hypothesis, [T] each.

    Returns:
        [2, T], for class +1 and class -1.
    """
    errors, deviations = sampled.errors(), sampled.standard_errors(expected)
    return np.stack([(e - x) / s for e, x, s in zip(errors, expected, deviations, strict=True)])
