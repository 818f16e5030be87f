"""`srat-fast report`: the summary tables, the figures and report.html of some runs, in one directory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from srat_fast.errors import UserError
from srat_fast.record import write_atomically
from srat_fast.report.collect import Run, find_runs
from srat_fast.report.figures.drawing import Drawing
from srat_fast.report.groups import Group, group_runs
from srat_fast.report.page import Picture, missing_figures, page
from srat_fast.report.summary import comma_separated, latex, markdown

PAGE = "report.html"
#: A report of more runs than this draws only the first figures unless all are asked for: drawing takes half a second
#: a figure, and a report of a thousand runs should take less than five.
_MANY_RUNS, _FEW_FIGURES = 200, 6


@dataclass(frozen=True)
class Report:
    """What was made.

    Attributes:
        directory: holds everything.
        runs: that it is about.
        groups: as in its tables.
        figures: names of the figures drawn.
        left_out: figures that its runs allow, but that were not drawn, there being many.
        damaged: a line for each run that could not be read.
        missing: (figure, what it shows, what makes it) of the paper's figures that its runs do not allow.
    """

    directory: Path
    runs: tuple[Run, ...]
    groups: tuple[Group, ...]
    figures: tuple[str, ...]
    left_out: int
    damaged: tuple[str, ...]
    missing: tuple[tuple[str, str, str], ...]


def build_report(
    directories: Iterable[Path], out: Path | None = None, *, all_figures: bool = False
) -> Report:
    """Write summary.md, .csv and .tex, figures/*.svg and *.png, and report.html; by default into DIR/report."""
    places = [Path(directory) for directory in directories]
    damaged: list[str] = []
    runs = find_runs(places, damaged)
    groups = group_runs(runs)
    target = places[0] / "report" if out is None else out
    from srat_fast.figures.canvas import render  # matplotlib: only where figures are drawn

    drawings = _unique(_drawings(groups, runs))
    few = len(drawings) if all_figures or len(runs) <= _MANY_RUNS else _FEW_FIGURES
    left_out = len(drawings[few:])
    try:
        (target / "figures").mkdir(parents=True, exist_ok=True)
        pictures = []
        for drawing in drawings[:few]:
            drawn = drawing.draw()
            files = []
            for suffix in (".svg", ".png"):
                content = render(drawn, suffix)
                files.append(f"figures/{drawing.name}{suffix}")
                write_atomically(target / files[-1], content)
                if suffix == ".svg":
                    svg = content
            pictures.append(Picture(drawing, svg, tuple(files)))
        for name, text in (
            ("summary.md", markdown(groups)),
            ("summary.csv", comma_separated(groups)),
            ("summary.tex", latex(groups)),
            (PAGE, page(groups, runs, pictures, target, left_out)),
        ):
            write_atomically(target / name, text.encode())
    except OSError as error:
        raise UserError("--out", f"cannot be written: {error.strerror}", str(target)) from None
    present = {name for drawing in drawings for name in drawing.paper}
    return Report(
        target,
        tuple(runs),
        tuple(groups),
        tuple(picture.drawing.name for picture in pictures),
        left_out,
        tuple(damaged),
        tuple(missing_figures(present)),
    )


def _drawings(groups: list[Group], runs: list[Run]) -> list[Drawing]:
    from srat_fast.report.figures.axes import axis_drawings
    from srat_fast.report.figures.classes import class_drawings
    from srat_fast.report.figures.counts import count_drawings, shapes_drawings
    from srat_fast.report.figures.curves import curve_drawings
    from srat_fast.report.figures.epsilon import epsilon_drawings
    from srat_fast.report.figures.features import feature_drawings
    from srat_fast.report.figures.feedback import feedback_drawings
    from srat_fast.report.figures.forms import form_drawings
    from srat_fast.report.figures.images import image_drawings
    from srat_fast.report.figures.tradeoff import tradeoff_drawings

    drawings = form_drawings(runs) + axis_drawings(runs) + shapes_drawings(groups)
    for group in groups:
        for drawn in (
            count_drawings,
            class_drawings,
            epsilon_drawings,
            tradeoff_drawings,
            curve_drawings,
            feedback_drawings,
            feature_drawings,
            image_drawings,
        ):
            drawings += drawn(group)
    return drawings


def _unique(drawings: list[Drawing]) -> list[Drawing]:
    """Names made distinct by a number where two groups share one."""
    seen: dict[str, int] = {}
    result = []
    for drawing in drawings:
        seen[drawing.name] = seen.get(drawing.name, 0) + 1
        count = seen[drawing.name]
        result.append(drawing if count == 1 else replace(drawing, name=f"{drawing.name}-{count}"))
    return result
