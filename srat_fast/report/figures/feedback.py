"""Class feedback by epoch: what was measured of each class, and the weights, factors and radii that followed."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from srat_fast.figures.canvas import Figure, figure, named, spectrum, style
from srat_fast.report.figures.drawing import Drawing, percent, stem
from srat_fast.report.groups import Group

#: Methods a group, and classes that a legend has room for.
_ROWS, _NAMED = 8, 20
_MEASURED = {"clean": "accuracy, clean, %", "robust": "accuracy, attacked, %"}
_SET = {"weights": "class weight", "pair": "factor on the term kl", "radii": "factor on the radius"}

History = list[tuple[int, dict[str, list[float | None]]]]


def feedback_drawings(group: Group) -> list[Drawing]:
    """Of the first seed of each row that measures its classes."""
    found: list[Drawing] = []
    for row in group.rows:
        if row.weights != "last" or len(found) == _ROWS:
            continue
        run = (row.finished or row.runs)[0]
        lines = run.metrics() if (run.recipe.get("feedback") or {}).get("rule", "off") != "off" else []
        history: History = [(line["epoch"] + 1, line["feedback"]) for line in lines if "feedback" in line]
        if not history:
            continue
        split = f"{history[0][1].get('split', 'training')} images"
        found.append(
            Drawing(
                stem("feedback", row.method, group.name),
                f"Class feedback of {row.label}",
                (),
                f"{group.title}. Seed {run.seed}: each class's accuracy on {split}, measured after an epoch, and what "
                "the rule made of it, in force from the next one on. Classes from most to fewest training images.",
                _words(history, group),
                partial(_draw, history, group),
            )
        )
    return found


def _draw(history: History, group: Group) -> Figure:
    parts = {name: title for name, title in (_MEASURED | _SET).items() if name in history[0][1]}
    columns = 2 if len(parts) <= 4 else 3
    drawn, axes = figure(
        math.ceil(len(parts) / columns), columns, width=3.6 * columns + 0.4, height=5.2, sharex=True
    )
    epochs, marker = [epoch for epoch, _ in history], "." if len(history) < 40 else ""
    by_count = sorted(range(len(group.counts)), key=lambda c: -group.counts[c])
    colours = spectrum(len(by_count))
    with style():
        for place, (name, title) in zip(axes.flat, parts.items(), strict=False):
            values = np.array([[_number(v) for v in seen[name]] for _, seen in history])
            for colour, c in zip(colours, by_count, strict=True):
                shown = 100 * values[:, c] if name in _MEASURED else values[:, c]
                place.plot(epochs, shown, marker=marker, color=colour, label=named(group.classes[c]))
            place.set_title(title)
            if name in _MEASURED:
                place.set_ylim(bottom=0)
        for spare in list(axes.flat)[len(parts) :]:
            spare.set_axis_off()
        for place in list(axes.flat)[max(0, len(parts) - columns) : len(parts)]:
            place.set_xlabel("epoch")
            place.tick_params(labelbottom=True)
            place.xaxis.get_major_locator().set_params(integer=True)
        handles, labels = axes.flat[0].get_legend_handles_labels()
        if len(labels) > _NAMED:  # the ends of the scale stand for it
            handles, labels = (
                [handles[0], handles[-1]],
                [f"{labels[0]} (most images)", f"{labels[-1]} (fewest)"],
            )
        drawn.legend(handles, labels, loc="outside upper center", ncols=min(5, len(labels)))
    return drawn


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _words(history: History, group: Group) -> str:
    """The last measurement's least and largest of each."""
    epoch, seen = history[-1]
    told = []
    for name, title in (_MEASURED | _SET).items():
        values = [(_number(v), c) for c, v in enumerate(seen.get(name, ())) if not math.isnan(_number(v))]
        if values:
            ends = [
                (percent(v) if name in _MEASURED else v, group.classes[c])
                for v, c in (min(values), max(values))
            ]
            told.append(f"{title} from {ends[0][0]:.3g} ({ends[0][1]}) to {ends[1][0]:.3g} ({ends[1][1]})")
    return f"After epoch {epoch}: {'; '.join(told)}."
