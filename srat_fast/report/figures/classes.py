"""Class-wise bars (Figs. 1, 7-9): a group of runs enters, one panel a method leaves."""

from __future__ import annotations

from functools import partial

import numpy as np

from srat_fast.figures.canvas import SERIES, UNDER, Axes, Figure, figure, named, style
from srat_fast.report.figures.drawing import Drawing, percent, stem
from srat_fast.report.groups import Group, Row

#: Panels a figure; what does not fit is in the tables.
_PANELS = 12
_NAMED_CLASSES = 20


def class_drawings(group: Group) -> list[Drawing]:
    """Per-class accuracies of every method, and natural against adversarial training where both are there.

    Args:
        group: runs under equal conditions.

    Returns:
        Up to two drawings.
    """
    rows = [row for row in group.rows if row.finished and row.weights == "last"]
    if not rows:
        return []
    drawings = []
    contrast = _contrast(rows)
    if contrast:
        drawings.append(
            Drawing(
                stem("natural-against-adversarial", group.name),
                "Class-wise accuracy, natural against adversarial training",
                _paper_figures(group),
                f"{group.title}. Standard (and robust) accuracy of each class; the under-represented half is shaded.",
                _words(contrast),
                partial(_panels, contrast, group),
            )
        )
    shown = rows[:_PANELS]
    left_out = f" {len(rows) - _PANELS} more rows are in the table only." if len(rows) > _PANELS else ""
    drawings.append(
        Drawing(
            stem("classes", group.name),
            "Class-wise accuracy by method",
            (),
            f"{group.title}. Mean over seeds; the under-represented half is shaded.{left_out}",
            _words(shown),
            partial(_panels, shown, group),
        )
    )
    return drawings


def _contrast(rows: list[Row]) -> list[Row]:
    """Natural training and plain adversarial training without reweighting, as in Fig. 1."""
    pair = [
        next((row for row in rows if row.method == name and not row.variant), None)
        for name in ("natural", "ce")
    ]
    return [row for row in pair if row is not None] if all(pair) else []


def _paper_figures(group: Group) -> tuple[str, ...]:
    """Which of Figs. 1, 7-9 these conditions are, if they are the paper's: CIFAR-10 step-100 is Fig. 1."""
    data = group.runs[0].recipe["data"]
    if data["name"] != "cifar10":
        return ()
    return {
        ("step", 100.0): ("fig1",),
        ("step", 10.0): ("fig7",),
        ("exp", 100.0): ("fig8",),
        ("exp", 10.0): ("fig9",),
    }.get((data["imbalance"], data["ratio"]), ())


def _panels(rows: list[Row], group: Group) -> Figure:
    columns = min(len(rows), 3)
    lines = -(-len(rows) // columns)
    drawn, axes = figure(lines, columns, width=3.4 * columns + 0.4, height=2.5 * lines + 0.3, sharey=True)
    with style():
        for place, row in zip(axes.flat, rows, strict=False):
            _bars(place, row, group)
        for unused in axes.flat[len(rows) :]:
            unused.set_axis_off()
        for first in axes[:, 0]:
            first.set_ylabel("accuracy, %")
        drawn.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return drawn


def _bars(axes: Axes, row: Row, group: Group) -> None:
    classes = np.arange(len(group.classes))
    for label in group.under:
        axes.axvspan(label - 0.5, label + 0.5, color=UNDER, alpha=0.12, linewidth=0)
    for offset, kind, colour in ((-0.2, "standard", SERIES[0]), (0.2, "robust", SERIES[3])):
        axes.bar(classes + offset, [percent(v) for v in row.per_class(kind)], 0.4, label=kind, color=colour)
    axes.set_title(row.label)
    axes.set_ylim(0, 100)
    axes.grid(axis="x", visible=False)
    if len(classes) <= _NAMED_CLASSES:
        axes.set_xticks(
            classes, [named(name) for name in group.classes], rotation=60, ha="right", rotation_mode="anchor"
        )
    else:
        axes.set_xlabel("class label")


def _words(rows: list[Row]) -> str:
    parts = []
    for row in rows:
        standard, robust = (
            ", ".join(f"{percent(v):.0f}" for v in row.per_class(kind)) for kind in ("standard", "robust")
        )
        parts.append(f"{row.label}: standard {standard}; robust {robust}.")
    return "Accuracies in percent in label order. " + " ".join(parts)
