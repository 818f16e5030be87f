"""t-SNE of penultimate features (Figs. 3 and 4): a panel for each method whose runs were analysed."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from srat_fast.errors import UserError
from srat_fast.figures.analysis import Panel, draw_panels, panel, read_analysis
from srat_fast.report.figures.drawing import TRAINING, Drawing, stem
from srat_fast.report.groups import Group

#: Panels a figure.
_PANELS = 12
#: Figure of the paper -> methods that it sets side by side.
_PAPER = {"fig3": {"natural", "ce"}, "fig4": {"ce", "drcb-ldam", "srat-ldam"}}


def feature_drawings(group: Group) -> list[Drawing]:
    """The t-SNE of the first analysed run of each row, each with its separability: of the imbalanced training images,
    clean, and of the test images, clean and attacked; none where no run was analysed with t-SNE."""
    training = _drawings(group, "train", ("clean",))
    test = _drawings(group, "test", ("clean", "attacked"))
    if training and test:  # Fig. 3 is of training images; analyses of earlier versions have test images only
        test = [replace(d, paper=tuple(p for p in d.paper if p != "fig3")) for d in test]
    return training + test


def _drawings(group: Group, images: str, views: tuple[str, ...]) -> list[Drawing]:
    found: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
    methods = set()
    for row in group.rows:
        if row.weights != "last" or len(found) == _PANELS:
            continue
        for run in row.finished:
            try:
                analysis, arrays = read_analysis(run.path, images=images)
            except UserError:  # not analysed, or torn: the next seed will do as well
                continue
            if "index" in arrays:
                found.append((row.label, analysis, arrays))
                methods.add(row.method)
                break
    if not found:
        return []
    paper = tuple(
        name for name, needed in _PAPER.items() if needed <= methods and (name, images) != ("fig4", "train")
    )
    kind = "imbalanced training images" if images == "train" else "test images"
    differs = (
        " The paper's Fig. 3 is of training images: srat-fast analyse --images train."
        if (images == "test" and "fig3" in paper)
        else ""
    )
    words = TRAINING if methods == set(TRAINING) else {}
    drawings = []
    for view in views:
        panels = [panel(analysis, arrays, view, words.get(label, label)) for label, analysis, arrays in found]
        drawings.append(
            Drawing(
                stem("features", view, "training" if images == "train" else "", group.name),
                f"Penultimate features, t-SNE, {view} {kind}",
                paper if view == "clean" else (),
                f"{group.title}. One run a method; triangles are under-represented classes. Silhouette and scatter "
                f"ratio are of the features themselves: distances in the plane mean little.{differs}",
                _words(panels),
                partial(draw_panels, panels),
            )
        )
    return drawings


def _words(panels: list[Panel]) -> str:
    return "; ".join(f"{item.title}: {item.numbers}" for item in panels) + "."
