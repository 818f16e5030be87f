"""Bars of the training images of each class (Figs. 13, 14)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from srat_fast.datasets import imbalance_label, imbalance_title
from srat_fast.figures.datasets import ClassCounts, class_bars, count_panels
from srat_fast.report.figures.drawing import Drawing, stem
from srat_fast.report.groups import Group

#: The four imbalances of Figs. 13 and 14, in their order.
SHAPES = (("step", 10.0), ("step", 100.0), ("exp", 10.0), ("exp", 100.0))
_SETS = {"cifar10": ("fig13",), "svhn": ("fig14",)}
#: Other sets repeat both figures' form.
_OTHER = ("fig13", "fig14")


def count_drawings(group: Group) -> list[Drawing]:
    """Training images of each class: one drawing, or none where no run has got as far as its data."""
    if not group.counts:
        return []
    data = group.runs[0].recipe["data"]
    shape = imbalance_title(data["imbalance"], data["ratio"])
    return [
        Drawing(
            stem("counts", group.name),
            "Training images by class",
            () if data["imbalance"] == "none" else _SETS.get(data["name"], _OTHER),
            f"{data['name']}, {shape}: {sum(group.counts)} training images.",
            _words(group.classes, group.counts),
            partial(class_bars, group.classes, group.counts, group.under, f"{data['name']} ({shape})"),
        )
    ]


def shapes_drawings(groups: Sequence[Group]) -> list[Drawing]:
    """Figs. 13 and 14 whole: for each data set of which all four imbalances are there, their counts in four panels."""
    found: dict[tuple[str, str], dict[tuple[str, float], Group]] = {}
    for group in groups:
        data = group.runs[0].recipe["data"]
        key = (data["imbalance"], float(data["ratio"]))
        if group.counts and key in SHAPES and data.get("classes") in (None, "all"):
            found.setdefault((data["name"], data.get("imbalance_base", "smallest")), {}).setdefault(
                key, group
            )
    return [
        counts_drawing(
            name,
            [ClassCounts(shape_title(*key, base), g.classes, g.counts, g.under) for key, g in _ordered(four)],
        )
        for (name, base), four in found.items()
        if len(four) == len(SHAPES)
    ]


def _ordered(four: dict[tuple[str, float], Group]) -> list[tuple[tuple[str, float], Group]]:
    return [(key, four[key]) for key in SHAPES]


def shape_title(imbalance: str, ratio: float, base: str) -> str:
    """An imbalance in a panel's title, such as "exp-100"; `data.imbalance_base` is named where it is "own"."""
    return imbalance_label(imbalance, ratio) + (" of each class's own count" if base == "own" else "")


def counts_drawing(name: str, shapes: Sequence[ClassCounts]) -> Drawing:
    """Class counts of several imbalances of a data set; no run is needed for it."""
    return Drawing(
        stem("counts", name, "all"),
        "Training images by class under each imbalance",
        _SETS.get(name, _OTHER),
        f"{name}: {', '.join(f'{s.title} {sum(s.counts)}' for s in shapes)} training images.",
        " ".join(f"{s.title}: {_words(s.classes, s.counts)}" for s in shapes),
        partial(count_panels, shapes),
    )


def _words(classes: Sequence[str], counts: Sequence[int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in zip(classes, counts, strict=True)) + "."
