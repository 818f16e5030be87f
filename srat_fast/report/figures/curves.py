"""Training curves: losses, accuracy and learning rate by epoch."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from srat_fast.figures.canvas import SERIES, Figure, figure, logarithmic, style
from srat_fast.report.figures.drawing import Drawing, percent, stem
from srat_fast.report.groups import Group

_CURVES = 8


def curve_drawings(group: Group) -> list[Drawing]:
    """Curves of one run (the first seed) of each row; none where nothing has been trained."""
    rows = [row for row in group.rows if row.weights == "last"]
    curves: dict[str, list[dict[str, Any]]] = {}
    terms: dict[str, None] = {}  # further ones of any row, in order
    for row in rows:
        run = (row.finished or row.runs)[0]
        lines = run.metrics()
        terms |= dict.fromkeys(run.record.get("terms", ("classification", "separation"))[1:])
        if lines and len(curves) < _CURVES:
            curves[row.label] = lines
    if not curves:
        return []
    more = f" The first {_CURVES} of {len(rows)} rows." if len(rows) > _CURVES else ""
    staged = " Dotted lines: a further stage begins." if any(map(_edges, curves.values())) else ""
    return [
        Drawing(
            stem("curves", group.name),
            "Training curves",
            (),
            f"{group.title}. One run a method, its first seed. Accuracies are on adversarial training images, and on "
            f"validation images (dashed) where some were held out.{staged}{more}",
            _words(curves),
            partial(_draw, curves, list(terms) or ["separation"]),
        )
    ]


def _series(lines: list[dict[str, Any]], *names: str) -> list[float]:
    values = []
    for line in lines:
        value: Any = line
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        values.append(math.nan if value is None else float(value))
    return values


def _draw(curves: dict[str, list[dict[str, Any]]], terms: list[str]) -> Figure:
    drawn, axes = figure(2, 2, width=7.6, height=5.4, sharex=True)
    loss, further, accuracy, rate = axes.flat
    with style():
        for colour, (label, lines) in zip(SERIES, curves.items(), strict=False):
            epochs = [line["epoch"] + 1 for line in lines]
            marker = "." if len(epochs) < 40 else ""
            loss.plot(epochs, _series(lines, "classification"), marker=marker, color=colour, label=label)
            for term, dashes in zip(terms, ("-", "--", ":", "-."), strict=False):
                further.plot(epochs, _series(lines, term), dashes, marker=marker, color=colour)
            accuracy.plot(
                epochs, [percent(v) for v in _series(lines, "train_accuracy")], marker=marker, color=colour
            )
            validation = [percent(v) for v in _series(lines, "validation", "robust", "overall")]
            if not all(map(math.isnan, validation)):
                accuracy.plot(epochs, validation, "--", color=colour)
            rate.plot(epochs, _series(lines, "lr"), marker=marker, color=colour)
        for place, title in zip(
            axes.flat,
            ("classification loss", f"{', '.join(terms)} loss", "accuracy, %", "learning rate"),
            strict=True,
        ):
            place.set_title(title)
        for place in (loss, rate):
            shown = [y for line in place.get_lines() for y in line.get_ydata() if y > 0]
            if shown and max(shown) > 10 * min(shown):  # within a decade there would be no labels
                logarithmic(place, "y")
        for colour, lines in zip(SERIES, curves.values(), strict=False):
            for edge in _edges(lines):
                for place in axes.flat:
                    place.axvline(edge - 0.5, color=colour, linewidth=0.8, linestyle=(0, (1, 3)))
        for last in axes[-1]:
            last.set_xlabel("epoch")
        drawn.legend(*loss.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return drawn


def _edges(lines: list[dict[str, Any]]) -> list[int]:
    """Epochs, from 1, with which a further stage of the run begins."""
    stages = [line.get("stage", 0) for line in lines]
    return [
        line["epoch"] + 1
        for line, before, now in zip(lines[1:], stages, stages[1:], strict=False)
        if now != before
    ]


def _words(curves: dict[str, list[dict[str, Any]]]) -> str:
    return "Last epoch: " + " ".join(
        f"{label}: epoch {lines[-1]['epoch'] + 1}, classification loss {_series(lines, 'classification')[-1]:.3f}, "
        f"training accuracy {percent(_series(lines, 'train_accuracy')[-1]):.1f} %."
        + "".join(f" A further stage begins with epoch {edge}." for edge in _edges(lines))
        for label, lines in curves.items()
    )
