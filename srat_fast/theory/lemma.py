"""Lemma 3.1 and the errors, claim by claim: settings enter; verdicts with their tables leave."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from srat_fast.theory.claim import SIGMAS, Claim, deviations
from srat_fast.theory.minimise import best_linear
from srat_fast.theory.mixture import weighted_error
from srat_fast.theory.sampling import Sampled, simulate
from srat_fast.theory.settings import Settings


def _weights(settings: Settings) -> list[float]:
    return sorted({1.0, settings.weight, settings.ratio})


def lemma_claim(settings: Settings) -> tuple[Claim, list[dict[str, Any]]]:
    """Lemma 3.1 against a numerical minimiser over all (w, b).

    Args:
        settings: as asked.

    Returns:
        (claim, a row for each weight).
    """
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
    """The errors' closed form, and the printed one, against simulations of the sum and of whole vectors.

    Args:
        settings: as asked.

    Returns:
        (claims, a row for each weight and class, the simulation of whole vectors).
    """
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
