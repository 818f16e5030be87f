"""Every claim of Section 3 with its verdict: settings enter; claims, tables and the numbers behind them leave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from srat_fast.theory.claim import Claim
from srat_fast.theory.comparisons import attack_claim, simulated_claim, theorem_claims, unit_claim
from srat_fast.theory.lemma import error_claims, lemma_claim
from srat_fast.theory.sampling import Sampled
from srat_fast.theory.settings import Settings
from srat_fast.theory.theorems import Row, grid


@dataclass(frozen=True)
class Checked:
    """All that was computed.

    Attributes:
        claims: with verdicts.
        lemma: rows of Lemma 3.1, one for each weight.
        errors: rows of closed form, simulation and printed formula, one for each weight and class.
        ranges: rows of the theorems, one for each pair (S1, S2).
        grid: every (S1, S2, K, rho).
        sampled: the simulation of whole vectors in the lemma's mixture.
    """

    claims: list[Claim]
    lemma: list[dict[str, Any]]
    errors: list[dict[str, Any]]
    ranges: list[dict[str, Any]]
    grid: list[Row]
    sampled: Sampled

    @property
    def as_expected(self) -> bool:
        """Whether every verdict is the derived one."""
        return all(claim.expected for claim in self.claims)


def check(settings: Settings) -> Checked:
    """Check every claim.

    Args:
        settings: as asked.

    Returns:
        Verdicts and numbers.
    """
    lemma, lemma_rows = lemma_claim(settings)
    errors, error_rows, sampled = error_claims(settings)
    theorems, range_rows = theorem_claims(settings)
    mixture = settings.mixture
    cells = grid(
        settings.separabilities, settings.ratios, (None, settings.weight),
        eta=mixture.eta, sigma=mixture.sigma, d=mixture.d,
    )  # fmt: skip
    claims = [
        lemma,
        *errors,
        *theorems,
        simulated_claim(settings),
        unit_claim(settings),
        attack_claim(settings),
    ]
    return Checked(claims, lemma_rows, error_rows, range_rows, cells, sampled)
