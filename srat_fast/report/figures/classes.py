"""Class-wise bars of a group of runs: one panel a method, and the three panels of Figs. 1, 7, 8 and 9."""

from __future__ import annotations

from functools import partial

import numpy as np

from srat_fast.figures.canvas import SERIES, UNDER, WELL, Axes, Figure, class_ticks, figure, style
from srat_fast.report.figures.drawing import TRAINING, Drawing, percent, stem
from srat_fast.report.groups import Group, Row

#: Panels a figure; what does not fit is in the tables.
_PANELS = 12
_NAMED_CLASSES = 20


def class_drawings(group: Group) -> list[Drawing]:
    """Per-class accuracies of every method, and natural against adversarial training where both are there."""
    rows = [row for row in group.rows if row.finished and row.weights == "last"]
    if not rows:
        return []
    drawings = contrast_drawings(group)
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


def contrast_drawings(group: Group) -> list[Drawing]:
    """Fig. 1: natural and plain adversarial training, both without reweighting; none where one of them is missing."""
    pair = [
        next(
            (r for r in group.rows if r.finished and (r.method, r.variant, r.weights) == (name, "", "last")),
            None,
        )
        for name in ("natural", "ce")
    ]
    rows = [row for row in pair if row is not None]
    if len(rows) < 2:
        return []
    return [
        Drawing(
            stem("natural-against-adversarial", group.name),
            "Class-wise accuracy, natural against adversarial training",
            _paper_figures(group),
            f"{group.title}. Mean over seeds of each class's accuracy, in label order.",
            _words(rows),
            partial(_contrast, rows, group),
        )
    ]


def _contrast(rows: list[Row], group: Group) -> Figure:
    """The three panels of Fig. 1, of natural and adversarial training."""
    natural, adversarial = rows
    width = 3.4 if len(group.classes) <= _NAMED_CLASSES else 4.4
    drawn, axes = figure(1, 3, width=3 * width, height=3.2, sharey=True)
    panels = (
        (natural, "standard", f"{TRAINING['natural']}, standard"),
        (adversarial, "standard", f"{TRAINING['ce']}, standard"),
        (adversarial, "robust", f"{TRAINING['ce']}, robust"),
    )
    low = set(group.under)
    with style():
        for place, (row, kind, title) in zip(axes[0], panels, strict=True):
            heights = [percent(v) for v in row.per_class(kind)]
            for name, colour, labels in (
                ("well-represented", WELL, [c for c in range(len(heights)) if c not in low]),
                ("under-represented", UNDER, sorted(low)),
            ):
                bars = place.bar(labels, [heights[c] for c in labels], 0.8, color=colour, label=name)
                if len(heights) <= _NAMED_CLASSES:  # a class at 0 % has no bar to be seen
                    place.bar_label(bars, fmt="%.0f", fontsize=7, padding=1)
            place.set_title(title)
            _class_axis(place, group)
        axes[0, 0].set_ylabel("accuracy, %")
        drawn.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return drawn


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
        drawn.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return drawn


def _bars(axes: Axes, row: Row, group: Group) -> None:
    classes = np.arange(len(group.classes))
    for label in group.under:
        axes.axvspan(label - 0.5, label + 0.5, color=UNDER, alpha=0.12, linewidth=0)
    for offset, kind, colour in ((-0.2, "standard", SERIES[0]), (0.2, "robust", SERIES[3])):
        axes.bar(classes + offset, [percent(v) for v in row.per_class(kind)], 0.4, label=kind, color=colour)
    axes.set_title(row.label)
    _class_axis(axes, group)


def _class_axis(axes: Axes, group: Group) -> None:
    """Classes below, 0 to 100 % beside."""
    axes.set_ylim(0, 108)  # room for the number above a bar of 100 %
    axes.set_yticks(range(0, 101, 20))
    axes.grid(axis="x", visible=False)
    if len(group.classes) <= _NAMED_CLASSES:
        class_ticks(axes, group.classes)
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
