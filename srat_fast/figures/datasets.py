"""Pictures of a data set: bars of its class counts (Figs. 13, 14), or a page of samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from srat_fast.figures.canvas import UNDER, WELL, Axes, Figure, class_ticks, figure, named, style

#: Classes that get a name below their bar; of more, every tenth gets its label's number.
_NAMED = 30
#: Classes in one column of a page of samples.
_ROWS = 25


def class_bars(classes: Sequence[str], counts: Sequence[int], under: Sequence[int], title: str) -> Figure:
    """Training images per class in label order, the under-represented half in its own colour (Figs. 13, 14)."""
    drawn, ((axes,),) = figure(width=min(12.0, max(5.0, 0.42 * len(classes))), height=3.4)
    with style():
        _bars(axes, ClassCounts(title, classes, counts, under))
        axes.set_ylabel("training images")
        axes.legend()
    return drawn


@dataclass(frozen=True)
class ClassCounts:
    """Training images per class under one imbalance, as `class_bars` takes them."""

    title: str
    classes: Sequence[str]
    counts: Sequence[int]
    under: Sequence[int]


def count_panels(shapes: Sequence[ClassCounts]) -> Figure:
    """Class counts of several imbalances of one data set, two panels a row (Figs. 13, 14)."""
    rows = math.ceil(len(shapes) / 2)
    drawn, grid = figure(rows, 2, width=9.0, height=2.9 * rows + 0.3)
    with style():
        for axes, shape in zip(grid.flat, shapes, strict=False):
            _bars(axes, shape)
        for unused in grid.flat[len(shapes) :]:
            unused.set_axis_off()
        for first in grid[:, 0]:
            first.set_ylabel("training images")
        drawn.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return drawn


def _bars(axes: Axes, shape: ClassCounts) -> None:
    """One panel of class counts."""
    classes, low = shape.classes, set(shape.under)
    for name, colour, labels in (
        ("well-represented half", WELL, [c for c in range(len(shape.counts)) if c not in low]),
        ("under-represented half", UNDER, sorted(low)),
    ):
        bars = axes.bar(labels, [shape.counts[c] for c in labels], width=0.8, color=colour, label=name)
        if len(classes) <= _NAMED:
            axes.bar_label(bars, fontsize=7, padding=1)
    if len(classes) <= _NAMED:
        class_ticks(axes, classes)
        axes.margins(y=0.1)  # the numbers above the bars stay clear of the title
    else:
        axes.set_xticks(range(0, len(classes), 10))
        axes.set_xlabel("class, in label order")
    axes.grid(axis="x", visible=False)
    axes.set_xlim(-0.7, len(classes) - 0.3)
    axes.set_title(shape.title)


def _chosen(labels: np.ndarray, label: int, most: int) -> np.ndarray:
    """Positions of at most `most` images of a class, evenly over all of them."""
    found = np.flatnonzero(labels == label)
    return found[np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int))]


def _strip(images: np.ndarray, columns: int) -> np.ndarray:
    """Images [n, H, W, C] side by side with gaps, as one row of `columns` places: [H + 2, columns * (W + 2), 3]."""
    count, height, width, _ = images.shape
    strip = np.full((height + 2, columns * (width + 2), 3), 255, np.uint8)
    for k in range(count):
        left = k * (width + 2) + 1
        strip[1 : height + 1, left : left + width] = images[k]  # one channel fills three
    return strip


def sample_page(
    images: np.ndarray, labels: np.ndarray, classes: Sequence[str], per_class: int, title: str
) -> Figure:
    """Some training images ([N, H, W, C] uint8) of each class, a row a class; one with too few leaves places white."""
    blocks = math.ceil(len(classes) / _ROWS)
    rows = math.ceil(len(classes) / blocks)
    totals = np.bincount(labels, minlength=len(classes))
    names = [f"{named(name)} ({total})" for name, total in zip(classes, totals, strict=True)]
    width = blocks * (0.38 * per_class + 0.085 * max(len(name) for name in names) + 0.3)
    drawn, (line,) = figure(columns=blocks, width=width, height=0.38 * rows + 0.6)
    with style():
        for block, axes in enumerate(line):
            shown = range(block * rows, min((block + 1) * rows, len(classes)))
            strips = [_strip(images[_chosen(labels, c, per_class)], per_class) for c in shown]
            height = strips[0].shape[0]
            axes.imshow(np.concatenate(strips), interpolation="nearest")
            places = [(k + 0.5) * height - 0.5 for k in range(len(strips))]
            axes.set_yticks(places, [names[c] for c in shown], fontsize=8)
            axes.set_xticks([])
            axes.grid(visible=False)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        drawn.suptitle(title, fontsize=10)
    return drawn
