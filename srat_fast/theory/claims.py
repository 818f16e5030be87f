"""The claims of Section 3, each with its verdict and the numbers behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from srat_fast.errors import UserError
from srat_fast.theory.mixture import (
    LARGEST_RATIO,
    Mixture,
    Row,
    check_positive,
    cost,
    cost_margin,
    cost_ranges,
    gap,
    gap_margin,
    gap_ranges,
    grid,
    pairs,
    same_eta,
    weighted_error,
)
from srat_fast.theory.numerics import Sampled, best_linear, simulate

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
    """How many standard errors the simulation is off a hypothesis (R+, R-): [2, T], for class +1 and class -1."""
    errors, deviations = sampled.errors(), sampled.standard_errors(expected)
    return np.stack([(e - x) / s for e, x, s in zip(errors, expected, deviations, strict=True)])


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
    """The numbers of a comma-separated option."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(option, "numbers separated by commas", text) from None


def _weights(settings: Settings) -> list[float]:
    return sorted({1.0, settings.weight, settings.ratio})


def lemma_claim(settings: Settings) -> tuple[Claim, list[dict[str, Any]]]:
    """Lemma 3.1 against a numerical minimiser over all (w, b): the claim, and a row for each weight."""
    mixture, ratio, rows = settings.mixture, settings.ratio, []
    for weight in _weights(settings):
        found = best_linear(mixture, ratio, weight, seed=settings.seed)
        rows.append(
            {
                "rho": weight,
                "b of the lemma": mixture.threshold(ratio, weight),
                "b found": found.threshold,
                "largest |w_i - 1|": found.spread,
                "weighted error": found.error,
                "lemma minus found": found.excess,
            }
        )
    # an error that is 0 in floating point cannot be undercut
    worst = max(row["lemma minus found"] / max(row["weighted error"], 1e-300) for row in rows)
    away = max(row["largest |w_i - 1|"] for row in rows)
    holds = worst <= 1e-9
    claim = Claim(
        "Lemma 3.1",
        "w = 1, b = ln(rho/K)/(2S) has the least weighted error of all linear classifiers",
        "holds" if holds else "fails",
        f"no classifier found is better (relative difference {worst:.1g}); found w within {away:.1g} of 1",
        holds,
    )
    return claim, rows


def error_claims(settings: Settings) -> tuple[list[Claim], list[dict[str, Any]], Sampled]:
    """The errors' closed form, and the printed one, against simulations of the sum and of whole vectors."""
    mixture, ratio, weights = settings.mixture, settings.ratio, _weights(settings)
    thresholds = np.array([mixture.threshold(ratio, weight) for weight in weights])
    right, printed = mixture.errors(thresholds), mixture.printed_errors(thresholds)
    runs = {
        name: simulate(mixture, thresholds, settings.samples, seed=settings.seed + k, vectors=vectors)
        for k, (name, vectors) in enumerate((("sum", False), ("vectors", True)))
    }
    rows = []
    for t, weight in enumerate(weights):
        for c, label in enumerate(("+1", "-1")):
            row: dict[str, Any] = {"rho": weight, "class": label, "closed form": float(right[c][t])}
            for name, run in runs.items():
                row[f"simulated, {name}"] = float(run.errors()[c][t])
                row[f"standard errors off, {name}"] = float(deviations(run, right)[c, t])
            rows.append(row | {"printed": float(printed[c][t])})
    off = max(float(np.abs(deviations(run, right)).max()) for run in runs.values())
    confirmed = Claim(
        "Errors",
        "R+ and R- with the deviation sqrt(d) sigma of the sum",
        "holds" if off <= SIGMAS else "fails",
        f"2 x {settings.samples:.3g} samples, at most {off:.1f} standard errors off",
        off <= SIGMAS,
    )
    beyond = float(np.abs(deviations(runs["vectors"], printed)).max())
    if mixture.d == 1:
        verdict, told = "the same", "for d = 1 it is the right one"
    else:
        verdict = "refuted" if beyond > SIGMAS else "not told apart"
        told = f"{beyond:.3g} standard errors off the simulated vectors"
    slip = Claim(
        "Errors as printed", "the same with d sigma", verdict, told + _printed_minimum(settings), True
    )
    vectors = runs["vectors"]
    best = vectors.best_threshold(ratio, 1.0)
    frequent, rare = vectors.errors()
    at = float(weighted_error((frequent[:1], rare[:1]), ratio)[0])  # weights[0] is 1
    noise = SIGMAS * math.sqrt(max(at, 1 / vectors.samples) / vectors.samples)
    empirical = Claim(
        "Lemma 3.1, simulated",
        "the empirical weighted error (rho = 1) is least at the lemma's b, within the noise",
        "holds" if at - best[1] <= noise else "fails",
        f"least at b = {best[0]:.4g}, lemma {thresholds[0]:.4g}; {at - best[1]:.1g} above the least",
        at - best[1] <= noise,
    )
    return [empirical, confirmed, slip], rows, vectors


def _printed_minimum(settings: Settings) -> str:
    """The printed errors would be least at d times the lemma's b, so that the two printed formulas disagree."""
    mixture, ratio = settings.mixture, settings.ratio
    lemma = mixture.threshold(ratio)
    at, beyond = (float(weighted_error(mixture.printed_errors(k * lemma), ratio)) for k in (1, mixture.d))
    return f"; its weighted error is {at:.4g} at the lemma's b, {beyond:.4g} at d times that"


_EVERY = [(1.0, math.inf)]


def describe_ranges(found: list[tuple[float, float]]) -> str:
    """Ranges of K in words."""
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
    """Theorems 3.1 and 3.2 for every pair, with the ranges of K."""
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
    """S1 > S2 alone decides nothing: the same data in another unit have another S."""
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
    """An attack lowers S at the same sigma, so the theorems say that it sharpens both effects."""
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
    """Both theorems by simulated vectors, at K, along the separabilities with a common eta."""
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
    """Check every claim."""
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
