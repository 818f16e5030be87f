"""The figures of Section 3: settings and what was simulated enter, figures leave."""

from __future__ import annotations

import math

import numpy as np

from srat_fast.figures.canvas import SERIES, Axes, Figure, figure, style
from srat_fast.theory.claims import Checked
from srat_fast.theory.mixture import same_eta, weighted_error
from srat_fast.theory.settings import Settings
from srat_fast.theory.theorems import cost, gap


def draw(settings: Settings, checked: Checked) -> dict[str, Figure]:
    """All figures.

    Args:
        settings: as asked.
        checked: what `claims.check` gave for them.

    Returns:
        File stem -> figure.
    """
    return {
        "lemma": _lemma(settings, checked),
        "theorem-3-1": _gaps(settings),
        "theorem-3-2": _costs(settings),
    }


def _lemma(settings: Settings, checked: Checked) -> Figure:
    """Weighted error against b: right and printed formula, and the simulation that tells them apart."""
    mixture, ratio, sampled = settings.mixture, settings.ratio, checked.sampled
    with style():
        drawn, ((axes,),) = figure(width=6.4, height=3.6)
        b = np.linspace(sampled.edges[0], sampled.edges[-1], 600)
        axes.plot(
            b, weighted_error(mixture.errors(b), ratio), color=SERIES[0], label="deviation sqrt(d) sigma"
        )
        if mixture.d > 1:
            printed = weighted_error(mixture.printed_errors(b), ratio)
            axes.plot(b, printed, color=SERIES[3], linestyle="--", label="as printed, d sigma")
        shown = slice(None, None, max(len(sampled.edges) // 50, 1))
        share = sampled.below[:, shown] / sampled.samples
        axes.plot(
            sampled.edges[shown], weighted_error((share[0], 1 - share[1]), ratio), ".", color=SERIES[6],
            markersize=4, label=f"{2 * sampled.samples:.3g} samples",
        )  # fmt: skip
        axes.axvline(mixture.threshold(ratio), color=SERIES[2], linewidth=1, label="b of Lemma 3.1")
        axes.set_xlabel("threshold b")
        axes.set_ylabel("weighted error")
        axes.set_title(
            f"Lemma 3.1: eta {mixture.eta:g}, sigma {mixture.sigma:g}, d {mixture.d}, K {ratio:g}, rho 1"
        )
        axes.legend()
    return drawn


def _ratios(settings: Settings) -> np.ndarray:
    return np.geomspace(1.01, max(1e4, *settings.ratios), 300)


def _curves(axes: Axes, settings: Settings, weight: float | None, gaps: bool) -> None:
    """One curve for each S at the same eta."""
    ratios = _ratios(settings)
    for k, s in enumerate(sorted(set(settings.separabilities), reverse=True)):
        mixture = same_eta(s, settings.mixture.eta, settings.mixture.d)
        if gaps:
            values = [gap(mixture, float(ratio)) for ratio in ratios]
        else:
            values = [cost(mixture, float(r), float(r) if weight is None else weight) for r in ratios]
        axes.plot(ratios, values, color=SERIES[k % len(SERIES)], label=f"S {s:g} (a {mixture.distance:.3g})")
    axes.set_xscale("log")
    # plain labels: matplotlib's own for logarithmic axes are formulas
    powers = range(math.ceil(math.log10(ratios[-1]) - 1e-9) + 1)
    axes.set_xticks([10**k for k in powers], labels=[f"{10**k}" if k < 5 else f"1e{k}" for k in powers])
    axes.minorticks_off()
    axes.set_xlabel("imbalance ratio K")


def _gaps(settings: Settings) -> Figure:
    """Theorem 3.1: the gap of the classes against K."""
    with style():
        drawn, ((axes,),) = figure(width=6.4, height=3.6)
        _curves(axes, settings, None, True)
        axes.set_ylabel("R- - R+ without weights")
        axes.set_title("Theorem 3.1: the rare class's disadvantage, same eta")
        axes.legend()
    return drawn


def _costs(settings: Settings) -> Figure:
    """Theorem 3.2: what weighting costs the frequent class, with rho = K and with a fixed rho."""
    weights = [None] if math.isclose(settings.weight, 1) else [None, settings.weight]
    with style():
        drawn, grid = figure(1, len(weights), width=4.6 * len(weights), height=3.6, sharey=True)
        for axes, weight in zip(grid[0], weights, strict=True):
            _curves(axes, settings, weight, False)
            axes.set_title(f"Theorem 3.2: rho = {'K' if weight is None else f'{weight:g}'}, same eta")
        grid[0][0].set_ylabel("what weighting adds to R+")
        grid[0][-1].legend()
    return drawn
