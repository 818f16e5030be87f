"""What `srat-fast theory --out DIR` writes: theory.json, a CSV file for each table, the figures as SVG and PNG."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from srat_fast.errors import UserError
from srat_fast.figures.canvas import SERIES, Axes, Figure, figure, save, style
from srat_fast.record import plain_json, versions, write_atomically
from srat_fast.tables import csv_text
from srat_fast.theory.claims import Checked, Settings
from srat_fast.theory.mixture import cost, gap, same_eta, weighted_error


def as_json(settings: Settings, checked: Checked) -> dict[str, Any]:
    """Everything but the simulated histograms, as plain values."""
    return plain_json(
        {
            "settings": asdict(settings),
            "claims": [asdict(claim) for claim in checked.claims],
            "lemma": checked.lemma,
            "errors": checked.errors,
            "ranges": checked.ranges,
            "grid": [asdict(row) for row in checked.grid],
            "as_expected": checked.as_expected,
            "versions": versions(),
        }
    )


def make_folder(folder: Path) -> None:
    """Create the directory before the work whose result it will hold."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError("--out", f"cannot be written: {error.strerror}", str(folder)) from None


def write(settings: Settings, checked: Checked, folder: Path) -> list[Path]:
    """Write theory.json, a CSV file for each table, and each figure as SVG and PNG."""
    content = as_json(settings, checked)
    files = {"theory.json": (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()}
    for name in ("claims", "lemma", "errors", "ranges", "grid"):
        files[f"{name}.csv"] = csv_text(content[name]).encode()
    try:
        for name, data in files.items():
            write_atomically(folder / name, data)
    except OSError as error:
        raise UserError("--out", f"cannot be written: {error.strerror}", str(folder)) from None
    pictures = [
        save(drawn, folder / f"{stem}{suffix}", "--out")
        for stem, drawn in draw(settings, checked).items()
        for suffix in (".svg", ".png")
    ]
    return [*(folder / name for name in files), *pictures]


def draw(settings: Settings, checked: Checked) -> dict[str, Figure]:
    """The figures by file stem."""
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
