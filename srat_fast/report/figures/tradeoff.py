"""Clean against robust accuracy of a group's methods, with intervals over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from srat_fast.figures.canvas import SERIES, Figure, figure, style
from srat_fast.methods import METHODS
from srat_fast.report.figures.drawing import Drawing, percent, stem
from srat_fast.report.groups import Group, mean_and_deviation

#: Parts of the test images, a panel each.
_PANELS = (("overall", "all classes"), ("under", "under-represented classes"))
_MARKERS = "os^Dv<>p"


@dataclass(frozen=True)
class Point:
    """A method in a panel: mean and deviation over seeds, in percent."""

    label: str
    family: str
    clean: tuple[float, float]
    robust: tuple[float, float]


def tradeoff_drawings(group: Group) -> list[Drawing]:
    """One drawing where at least three methods have finished runs."""
    rows = [row for row in group.rows if row.finished and row.weights == "last"]
    if len({row.method for row in rows}) < 3:
        return []
    panels = []
    for part, title in _PANELS:
        points = []
        for row in rows:
            found = [mean_and_deviation(row.values(kind, part)) for kind in ("standard", "robust")]
            if found[0] is None or found[1] is None:
                continue
            clean, robust = ((percent(mean), percent(std or 0.0)) for mean, std in (found[0], found[1]))
            family = METHODS[row.method].family if row.method in METHODS else ""
            points.append(Point(row.label, family or "own", clean, robust))
        panels.append((title, points))
    return [
        Drawing(
            stem("tradeoff", group.name),
            "Clean against robust accuracy",
            (),
            f"{group.title}. Mean over seeds, bars: one deviation; weights of the last epoch. Up and to the right "
            "is better.",
            " ".join(
                f"{title}: "
                + "; ".join(f"{p.label} clean {p.clean[0]:.1f}, robust {p.robust[0]:.1f}" for p in points)
                + "."
                for title, points in panels
            ),
            partial(_draw, panels),
        )
    ]


def _draw(panels: Sequence[tuple[str, list[Point]]]) -> Figure:
    """Points are numbered and named beside the panels: thirty names between the points would cover one another."""
    longest = max(len(points) for _, points in panels)
    drawn, axes = figure(1, len(panels), width=9.6, height=max(3.6, 0.6 + 0.17 * longest))
    families = list(dict.fromkeys(point.family for _, points in panels for point in points))
    numbers = {p.label: k + 1 for k, p in enumerate(panels[0][1])}
    with style():
        for place, (title, points) in zip(axes[0], panels, strict=True):
            for point in points:
                kind = families.index(point.family)
                place.errorbar(
                    point.clean[0], point.robust[0], xerr=point.clean[1], yerr=point.robust[1], linestyle="none",
                    color=SERIES[kind % len(SERIES)], marker=_MARKERS[kind % len(_MARKERS)], markersize=5,
                    elinewidth=0.7,
                )  # fmt: skip
                place.annotate(
                    str(numbers[point.label]), (point.clean[0], point.robust[0]), xytext=(3, 3),
                    textcoords="offset points", fontsize=7,
                )  # fmt: skip
            place.set_title(title)
            place.set_xlabel("clean accuracy, %")
        axes[0, 0].set_ylabel("robust accuracy, %")
        shown = []
        for kind, family in enumerate(families):
            colour, marker = SERIES[kind % len(SERIES)], _MARKERS[kind % len(_MARKERS)]
            for point in panels[0][1]:
                if point.family == family:
                    name = f"{numbers[point.label]}  {point.label}"
                    shown += axes[0, 0].plot(
                        [], [], linestyle="none", color=colour, marker=marker, label=name
                    )
        drawn.legend(handles=shown, loc="outside right upper", fontsize=7, labelspacing=0.25)
    return drawn
