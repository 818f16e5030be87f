"""One figure of the paper by its number, in its own form, from runs that may be of any data set and scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from srat_fast.report.collect import Run
from srat_fast.report.figures import forms
from srat_fast.report.figures.classes import contrast_drawings
from srat_fast.report.figures.drawing import Drawing
from srat_fast.report.figures.features import feature_drawings
from srat_fast.report.groups import Group, group_runs


def _of_groups(draw: Callable[[Group], list[Drawing]]) -> Callable[[Sequence[Run]], list[Drawing]]:
    return lambda runs: [drawing for group in group_runs(runs) for drawing in draw(group)]


_CLASSES, _FEATURES = _of_groups(contrast_drawings), _of_groups(feature_drawings)
_FORMS: dict[str, Callable[[Sequence[Run]], list[Drawing]]] = (
    dict.fromkeys(("fig1", "fig7", "fig8", "fig9"), _CLASSES)
    | dict.fromkeys(("fig2", "fig10", "fig11", "fig12"), forms.pairs)
    | {"fig5": forms.methods, "fig6": forms.lambdas, "fig15": forms.halves, "fig16": forms.ratios}
    | dict.fromkeys(("fig3", "fig4"), _FEATURES)
)


def paper_drawing(name: str, runs: Sequence[Run]) -> Drawing | None:
    """A figure of the paper, such as "fig2"; None where the runs do not allow it. Figs. 13 and 14 need none."""
    drawings = _FORMS[name](runs) if name in _FORMS else []
    return next((d for d in drawings if name in d.paper), drawings[0] if drawings else None)
