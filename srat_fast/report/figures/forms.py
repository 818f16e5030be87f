"""Accuracy against a field in the form of the paper's Figs. 2, 5, 6, 10 to 12, 15 and 16: its panels, curves, order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from srat_fast.datasets import imbalance_label
from srat_fast.figures.canvas import SERIES, UNDER, WELL, Figure, figure, named, style
from srat_fast.methods import order
from srat_fast.report.collect import Run
from srat_fast.report.figures.axes import Sweep, conditions, find_sweeps, summary
from srat_fast.report.figures.drawing import TRAINING, Drawing, stem
from srat_fast.report.groups import chosen_classes

_WEIGHT, _LAMBDA, _RATIO = "loss.weight_ratio", "loss.separation_weight", "data.ratio"
#: (well-represented, under-represented) of CIFAR-10 -> figure.
_PAIRS = {
    ("cat", "horse"): "fig2",
    ("automobile", "truck"): "fig10",
    ("bird", "frog"): "fig11",
    ("dog", "deer"): "fig12",
}
#: Drawings like Fig. 15 of one sweep, one a method.
_HALVES = 4
_BLACK = SERIES[6]


@dataclass(frozen=True)
class Curve:
    """One curve of a panel: mean and sample deviation over seeds, percent, at each x."""

    label: str
    points: dict[float, tuple[float, float]]
    colour: str
    marker: str = "o"
    line: str = "-"


@dataclass(frozen=True)
class Panel:
    """One panel: its title and curves."""

    title: str
    curves: tuple[Curve, ...]


def form_drawings(runs: Sequence[Run]) -> list[Drawing]:
    """Every figure that runs allow in the paper's form, of whatever data set and scale."""
    return [drawing for form in (pairs, methods, halves, lambdas, ratios) for drawing in form(runs)]


def _sweeps(runs: Sequence[Run], field: str) -> list[Sweep]:
    finished = [run for run in runs if run.finished]
    # the search takes time with thousands of runs; most reports have one value
    if len({run.fields.get(field) for run in finished}) < 3:
        return []
    return find_sweeps(finished, field)


def _two_classes(sweep: Sweep) -> bool:
    return (
        chosen_classes(dict(sweep.fixed).get("data.classes")) != "" and len(_any(sweep).record["well"]) == 1
    )


def _any(sweep: Sweep) -> Run:
    return next(iter(next(iter(sweep.points.values())).values()))[0]


def _ordered(sweep: Sweep) -> list[str]:
    """Methods in the order of the paper's tables."""
    return sorted(sweep.points, key=order)


def _curve(values: dict[Any, list[Run]], kind: str, part: str, **look: str) -> Curve:
    return Curve(points={float(x): summary(values[x], kind, part) for x in sorted(values)}, **look)


def _parts(values: dict[Any, list[Run]], kind: str, labels: dict[str, str]) -> tuple[Curve, ...]:
    """The curves overall, well and under of one method."""
    looks = {"overall": (_BLACK, "o"), "well": (WELL, "s"), "under": (UNDER, "^")}
    return tuple(
        _curve(values, kind, part, label=labels[part], colour=colour, marker=marker)
        for part, (colour, marker) in looks.items()
    )


def _compared(sweep: Sweep, *seen: tuple[str, str, str]) -> tuple[Curve, ...]:
    """For each method a curve of each (kind, part, words behind its name): the first is solid, the second dashed."""
    return tuple(
        _curve(
            sweep.points[method], kind, part, label=method + words, colour=colour, marker=marker, line=line
        )
        for method, colour, marker in zip(_ordered(sweep), SERIES * 2, "os^Dv<>p" * 2, strict=False)
        for (kind, part, words), line in zip(seen, ("-", "--"), strict=False)
    )


def _both(sweep: Sweep, **words: str) -> list[Panel]:
    """A standard and a robust panel with a curve of each method and part; `words` stand behind a method's name."""
    return [
        Panel(f"{kind} accuracy", _compared(sweep, *((kind, part, text) for part, text in words.items())))
        for kind in ("standard", "robust")
    ]


def pairs(runs: Sequence[Run]) -> list[Drawing]:
    """Figs. 2, 10, 11, 12: two classes, accuracy overall, well and under against the weight of the rare one."""
    drawings = []
    for sweep in filter(_two_classes, _sweeps(runs, _WEIGHT)):
        record, fixed = _any(sweep).record, dict(sweep.fixed)
        well, under = (record["classes"][record[half][0]] for half in ("well", "under"))
        labels = {"overall": "overall", "well": f"{named(well)} (well)", "under": f"{named(under)} (under)"}
        exact = _PAIRS.get((well, under)) if fixed.get("data.name") == "cifar10" else None
        panels = [
            Panel(f"{TRAINING.get(method, method)}, {kind}", _parts(sweep.points[method], kind, labels))
            for method in _ordered(sweep)
            for kind in (("standard",) if method == "natural" else ("standard", "robust"))
        ]
        drawings.append(
            _drawing(
                "two-classes",
                "Two classes: accuracy against the weight of the under-represented one",
                (exact,) if exact else tuple(_PAIRS.values()),
                [sweep],
                panels,
                f"weight of {named(under)}",
                level=True,
                top=102,
            )
        )
    return drawings


def methods(runs: Sequence[Run]) -> list[Drawing]:
    """Fig. 5: standard and robust accuracy of several methods against the weight of the rare classes."""
    return [
        _drawing(
            "weight",
            "Accuracy against the weight of the under-represented classes",
            ("fig5",),
            [sweep],
            _both(sweep, overall=""),
            "weight of the under-represented classes",
        )
        for sweep in _sweeps(runs, _WEIGHT)
        if not _two_classes(sweep) and len(sweep.points) > 1
    ]


def halves(runs: Sequence[Run]) -> list[Drawing]:
    """Fig. 15: one method, all, well- and under-represented classes against the weight; SRAT-LDAM where it is there."""
    drawings = []
    for sweep in _sweeps(runs, _WEIGHT):
        if _two_classes(sweep):
            continue
        record = _any(sweep).record
        labels = {"overall": f"all {len(record['classes'])} classes"} | {
            half: f"{len(record[half])} {half}-represented" for half in ("well", "under")
        }
        shown = ["srat-ldam"] if "srat-ldam" in sweep.points else _ordered(sweep)[:_HALVES]
        for method in shown:
            drawings.append(
                _drawing(
                    f"weight-halves-{method}",
                    f"Accuracy of both halves of the classes against the weight, {method}",
                    ("fig15",),
                    [sweep],
                    [
                        Panel(f"{kind} accuracy", _parts(sweep.points[method], kind, labels))
                        for kind in ("standard", "robust")
                    ],
                    "weight of the under-represented classes",
                )
            )
    return drawings


def lambdas(runs: Sequence[Run]) -> list[Drawing]:
    """Fig. 6: a panel for each imbalance, step first; accuracy of each method against lambda."""
    gathered: dict[tuple[tuple[str, Any], ...], list[Sweep]] = {}
    for sweep in _sweeps(runs, _LAMBDA):
        same = tuple(pair for pair in sweep.fixed if pair[0] not in ("data.imbalance", _RATIO))
        gathered.setdefault(same, []).append(sweep)
    drawings = []
    for sweeps in gathered.values():
        sweeps.sort(key=lambda s: (dict(s.fixed)["data.imbalance"] != "step", dict(s.fixed).get(_RATIO) or 0))
        panels = [
            Panel(
                _shape(sweep),
                _compared(sweep, ("standard", "overall", ", standard"), ("robust", "overall", ", robust")),
            )
            for sweep in sweeps
        ]
        drawings.append(
            _drawing("lambda", "Accuracy against lambda, the weight of the separation loss", ("fig6",), sweeps,
                     panels, "lambda", level=True)
        )  # fmt: skip
    return drawings


def ratios(runs: Sequence[Run]) -> list[Drawing]:
    """Fig. 16: standard and robust accuracy of each method against the imbalance ratio; dashed: the rare half."""
    return [
        _drawing(
            "ratio",
            "Accuracy against the imbalance ratio",
            ("fig16",),
            [sweep],
            _both(sweep, overall="", under=", under"),
            "imbalance ratio K",
        )
        for sweep in _sweeps(runs, _RATIO)
    ]


def _shape(sweep: Sweep) -> str:
    fixed = dict(sweep.fixed)
    imbalance = fixed["data.imbalance"]
    return "balanced" if imbalance == "none" else imbalance_label(imbalance, fixed[_RATIO])


def _drawing(
    name: str,
    title: str,
    paper: tuple[str, ...],
    sweeps: Sequence[Sweep],
    panels: Sequence[Panel],
    xlabel: str,
    *,
    level: bool = False,
    top: float | None = None,
) -> Drawing:
    where = "; ".join(map(conditions, sweeps))
    present = sorted({method for sweep in sweeps for method in sweep.points})
    draw: Callable[[], Figure] = partial(_draw, panels, xlabel, level, top)
    caption = f"{where}. Mean over seeds, bars: one standard deviation."
    return Drawing(stem(name, where, *present)[:150], title, paper, caption, _words(panels), draw)


def _draw(panels: Sequence[Panel], xlabel: str, level: bool, top: float | None) -> Figure:
    """Panels side by side, at most three in a row; `level`: on one vertical axis, that ends at `top`."""
    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    drawn, axes = figure(rows, columns, width=3.6 * columns + 0.6, height=3.0 * rows + 0.5, sharey=level)
    with style():
        for place, panel in zip(axes.flat, panels, strict=False):
            for curve in panel.curves:
                means, deviations = zip(*curve.points.values(), strict=True)
                place.errorbar(
                    list(curve.points), means, deviations, marker=curve.marker, linestyle=curve.line, markersize=4,
                    capsize=2, color=curve.colour, label=curve.label,
                )  # fmt: skip
            ticks = sorted({x for curve in panel.curves for x in curve.points})
            if len(ticks) <= 12:  # the values themselves, as in the paper
                place.set_xticks(ticks, [f"{x:g}" for x in ticks], fontsize=7)
            place.set_xlabel(xlabel)
            place.set_title(panel.title)
            if top is not None:
                place.set_ylim(-2, top)
        for unused in axes.flat[len(panels) :]:
            unused.set_axis_off()
        for first in axes[:, 0]:
            first.set_ylabel("accuracy, %")
        entries = {
            label: handle
            for place in axes.flat[: len(panels)]
            for handle, label in zip(*place.get_legend_handles_labels(), strict=True)
        }
        across = len(entries) if len(entries) <= 3 else min(math.ceil(len(entries) / 2), 2 * columns)
        drawn.legend(list(entries.values()), list(entries), loc="outside upper center", ncols=across)
    return drawn


def _words(panels: Sequence[Panel]) -> str:
    """The means of every curve, for readers who do not see it."""
    parts = []
    for panel in panels:
        curves = "; ".join(
            f"{curve.label.strip()} "
            + ", ".join(f"{x:g}: {mean:.1f}" for x, (mean, _) in curve.points.items())
            for curve in panel.curves
        )
        parts.append(f"{panel.title}: {curves}.")
    return " ".join(parts)
