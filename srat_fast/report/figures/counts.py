"""Class counts (Figs. 13, 14): a group of runs enters, bars of its training images leave."""

from __future__ import annotations

from functools import partial

from srat_fast.figures.datasets import class_bars
from srat_fast.report.figures.drawing import Drawing, stem
from srat_fast.report.groups import Group


def count_drawings(group: Group) -> list[Drawing]:
    """Training images of each class.

    Args:
        group: runs under equal conditions.

    Returns:
        One drawing, or none where no run has got as far as its data.
    """
    if not group.counts:
        return []
    data = group.runs[0].recipe["data"]
    paper = {"exp": ("fig13",), "step": ("fig14",)}.get(data["imbalance"], ())
    shape = (
        data["imbalance"] if data["imbalance"] == "none" else f"{data['imbalance']}, ratio {data['ratio']:g}"
    )
    return [
        Drawing(
            stem("counts", group.name),
            "Training images by class",
            paper,
            f"{data['name']}, {shape}: {sum(group.counts)} training images.",
            ", ".join(f"{name} {count}" for name, count in zip(group.classes, group.counts, strict=True))
            + ".",
            partial(class_bars, group.classes, group.counts, group.under, f"{data['name']} ({shape})"),
        )
    ]
