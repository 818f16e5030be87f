"""t-SNE of penultimate features (Figs. 3 and 4): runs that were analysed enter, one panel a method leaves."""

from __future__ import annotations

from functools import partial
from typing import Any

from srat_fast.errors import UserError
from srat_fast.figures.analysis import Panel, draw_panels, panel, read_analysis
from srat_fast.report.figures.drawing import Drawing, stem
from srat_fast.report.groups import Group

#: Panels a figure.
_PANELS = 12
#: Figure of the paper -> methods that it sets side by side.
_PAPER = {"fig3": {"natural", "ce"}, "fig4": {"ce", "drcb-ldam", "srat-ldam"}}


def feature_drawings(group: Group) -> list[Drawing]:
    """The t-SNE of the first analysed run of each row, clean and attacked, each with its separability.

    Args:
        group: runs under equal conditions.

    Returns:
        Two drawings, or none where no run was analysed with t-SNE.
    """
    found: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
    methods = set()
    for row in group.rows:
        if row.weights != "last" or len(found) == _PANELS:
            continue
        for run in row.finished:
            try:
                analysis, arrays = read_analysis(run.path)
            except UserError:  # not analysed, or torn: the next seed will do as well
                continue
            if "index" in arrays:
                found.append((row.label, analysis, arrays))
                methods.add(row.method)
                break
    if not found:
        return []
    paper = tuple(name for name, needed in _PAPER.items() if needed <= methods)
    drawings = []
    for view, words in (("clean", "clean"), ("attacked", "attacked")):
        panels = [panel(analysis, arrays, view, label) for label, analysis, arrays in found]
        drawings.append(
            Drawing(
                stem("features", words, group.name),
                f"Penultimate features, t-SNE, {words} test images",
                paper if view == "clean" else (),
                f"{group.title}. One run a method; triangles are under-represented classes. Silhouette and scatter "
                "ratio are of the features themselves: distances in the plane mean little.",
                _words(panels),
                partial(draw_panels, panels),
            )
        )
    return drawings


def _words(panels: list[Panel]) -> str:
    return "; ".join(f"{item.title}: {item.numbers}" for item in panels) + "."
