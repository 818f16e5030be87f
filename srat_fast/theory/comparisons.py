"""Theorems 3.1 and 3.2, claim by claim and reading by reading: settings enter; verdicts with their table leave."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from srat_fast.theory.claim import SIGMAS, Claim, deviations
from srat_fast.theory.mixture import Mixture, same_eta
from srat_fast.theory.sampling import simulate
from srat_fast.theory.settings import Settings
from srat_fast.theory.theorems import (
    LARGEST_RATIO,
    cost,
    cost_margin,
    cost_ranges,
    gap,
    gap_margin,
    gap_ranges,
    pairs,
)

_EVERY = [(1.0, math.inf)]


def describe_ranges(found: list[tuple[float, float]]) -> str:
    """Ranges of K in words.

    Args:
        found: as `theorems.ranges` gives them.

    Returns:
        Such as "every K > 1", "K < 633.7" or "no K".
    """
    if not found:
        return "no K"
    words = []
    for low, high in found:
        if (low, high) == _EVERY[0]:
            words.append("every K > 1")
        elif low == 1.0:
            words.append(f"K < {high:.4g}")
        elif high == math.inf:
            words.append(f"K > {low:.4g}")
        else:
            words.append(f"{low:.4g} < K < {high:.4g}")
    return " and ".join(words)


def theorem_claims(settings: Settings) -> tuple[list[Claim], list[dict[str, Any]]]:
    """Theorems 3.1 and 3.2 for every pair, with the ranges of K.

    Args:
        settings: as asked.

    Returns:
        (claims, a row for each pair).
    """
    mixture = settings.mixture
    fixed_weight = settings.weight
    rows: list[dict[str, Any]] = []
    found: dict[str, list[list[tuple[float, float]]]] = {"gap": [], "cost": [], "fixed": []}
    for common, s1, s2, one, two in pairs(settings.separabilities, mixture.eta, mixture.sigma, mixture.d):
        kinds = {
            "gap": gap_ranges(one, two),
            "cost": cost_ranges(one, two, None),
            "fixed": cost_ranges(one, two, fixed_weight),
        }
        for kind, ranges_ in kinds.items():
            found[kind].append(ranges_)
        rows.append(
            {
                "common": common,
                "S1": s1,
                "S2": s2,
                "a1": one.distance,
                "a2": two.distance,
                "Theorem 3.1": describe_ranges(kinds["gap"]),
                "Theorem 3.2, rho = K": describe_ranges(kinds["cost"]),
                f"Theorem 3.2, rho = {fixed_weight:g}": describe_ranges(kinds["fixed"]),
            }
        )

    def over_pairs(kind: str) -> tuple[str, bool]:
        always = sum(r == _EVERY for r in found[kind])
        if always == len(rows):
            return "holds for every K > 1", True
        return f"holds for every K > 1 in {always} of {len(rows)} pairs", False

    up_to = f"{len(rows)} pairs (S1, S2), K up to {LARGEST_RATIO:g}"
    claims = []
    for name, kind, statement in (
        (
            "Theorem 3.1",
            "gap",
            "R- - R+ without weights is larger for the smaller S (same d, and same eta or sigma)",
        ),
        ("Theorem 3.2", "cost", "rho = K raises R+ more for the smaller S (same d, and same eta or sigma)"),
    ):
        verdict, expected = over_pairs(kind)
        claims.append(Claim(name, statement, verdict, up_to, expected))
    ends = [high for r in found["fixed"] for _, high in r if high != math.inf]
    fixed = f"the same with rho = {fixed_weight:g} whatever K"
    if fixed_weight == 1:
        claims.append(Claim("Theorem 3.2, fixed rho", fixed, "empty", "rho = 1 changes nothing", True))
    elif ends:
        evidence = (
            f"{len(ends)} of {len(rows)} pairs: up to K = {min(ends):.4g} to {max(ends):.4g}, and not above"
        )
        claims.append(Claim("Theorem 3.2, fixed rho", fixed, "holds below some K", evidence, True))
    else:
        claims.append(Claim("Theorem 3.2, fixed rho", fixed, over_pairs("fixed")[0], up_to, True))
    return claims, rows


def unit_claim(settings: Settings) -> Claim:
    """S1 > S2 alone decides nothing: the same data in another unit have another S.

    Args:
        settings: as asked.

    Returns:
        The claim.
    """
    mixture, ratio = settings.mixture, settings.ratio
    # a harder problem (eta halved) in a unit ten times as large, so that its S is the higher one
    harder = Mixture(mixture.eta / 20, mixture.sigma / 10, mixture.d)
    one, two = gap(harder, ratio), gap(mixture, ratio)
    no_k = gap_ranges(harder, mixture) == [] and cost_ranges(harder, mixture, None) == []
    return Claim(
        "S alone",
        "the theorems with S1 > S2 as the only condition",
        "fails" if no_k else "holds",
        f"S1 = {harder.separability:.3g} > S2 = {mixture.separability:.3g}, but a1 = {harder.distance:.3g} < a2 = "
        f"{mixture.distance:.3g}: R- - R+ is {one:.4f} > {two:.4f} at K = {ratio:g}; both claims hold for "
        f"{'no K' if no_k else 'some K'}",
        no_k,
    )


def attack_claim(settings: Settings) -> Claim:
    """An attack lowers S at the same sigma, so the theorems say that it sharpens both effects.

    Args:
        settings: as asked.

    Returns:
        The claim.
    """
    clean, ratio = settings.mixture, settings.ratio
    attacked = clean.attacked(settings.epsilon)
    worse = (
        gap_margin(clean, attacked, math.log(ratio)) > 0
        and cost_margin(clean, attacked, math.log(ratio), math.log(ratio)) > 0
    )  # fmt: skip
    same = settings.epsilon == 0
    return Claim(
        "Adversarial training",
        f"an L-infinity attack of {settings.epsilon:g} lowers S, so both effects grow",
        "no attack" if same else "holds" if worse else "fails",
        f"S {clean.separability:.3g} -> {attacked.separability:.3g}; at K = {ratio:g} R- - R+ "
        f"{gap(clean, ratio):.4f} -> {gap(attacked, ratio):.4f}, cost of rho = K "
        f"{cost(clean, ratio, ratio):.4f} -> {cost(attacked, ratio, ratio):.4f}",
        worse or same,
    )


def simulated_claim(settings: Settings) -> Claim:
    """Both theorems by simulated vectors, at K, along the separabilities with a common eta.

    Args:
        settings: as asked.

    Returns:
        The claim.
    """
    ratio, worst, values = settings.ratio, 0.0, []
    for k, s in enumerate(sorted(set(settings.separabilities))):
        mixture = same_eta(s, settings.mixture.eta, settings.mixture.d)
        thresholds = np.array([mixture.threshold(ratio, rho) for rho in (1.0, ratio)])
        run = simulate(mixture, thresholds, settings.samples, seed=settings.seed + 100 + k, vectors=True)
        worst = max(worst, float(np.abs(deviations(run, mixture.errors(thresholds))).max()))
        frequent, rare = run.errors()
        values.append(
            (
                _Estimate.of(rare[0] - frequent[0], rare[0] + frequent[0], run.samples),
                _Estimate.of(frequent[1] - frequent[0], frequent[1] - frequent[0], run.samples),
            )
        )
    # how far each step down is from none, in standard errors
    steps = [
        (a[k].value - b[k].value) / math.hypot(a[k].error, b[k].error)
        for a, b in pairwise(values)
        for k in (0, 1)
    ]
    if worst > SIGMAS or min(steps) < -SIGMAS:
        verdict = "fails"
    else:
        verdict = "holds" if min(steps) > SIGMAS else "not told apart"
    gaps, costs = (", ".join(f"{pair[k].value:.4f}" for pair in values) for k in (0, 1))
    return Claim(
        "Theorems, simulated",
        f"both at K = {ratio:g}, rho = K, from samples alone, S rising at the same eta",
        verdict,
        f"R- - R+ {gaps}; cost {costs}; each below the one before by at least {min(steps):.3g} standard errors; "
        f"at most {worst:.1f} off the closed form",
        verdict != "fails",
    )


@dataclass(frozen=True)
class _Estimate:
    """A difference of simulated errors, with its standard error."""

    value: float
    error: float

    @classmethod
    def of(cls, value: float, variance: float, samples: int) -> _Estimate:
        """`variance`: a bound on that of one sample, such as the sum of the two shares."""
        return cls(float(value), math.sqrt(max(float(variance), 1 / samples) / samples))
