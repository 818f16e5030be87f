"""Accuracy against one field, of runs that differ in nothing else; forms.py has the paper's own figures."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any

from srat_fast.figures.canvas import SERIES, Figure, figure, logarithmic, style
from srat_fast.published import COLUMNS
from srat_fast.recipe import FIELDS
from srat_fast.recipe.sections import Attack
from srat_fast.report.collect import CLIP, Run
from srat_fast.report.figures.drawing import Drawing, percent, stem
from srat_fast.report.groups import chosen_classes

#: Fields that follow from others when a recipe is resolved: they may differ along an axis.
_FOLLOWERS = {
    "optim.epochs": {"optim.warmup_epochs", "optim.milestones", "optim.defer_epoch"},
    "attack.epsilon": {"eval_attack.epsilon"},
    "loss.weight_ratio": {"loss.weight_rule", "loss.weighting"},
    "data.name": {
        "data.image_size",
        "data.crop_padding",
        "data.flip",
        "attack.step_size",
        "eval_attack.step_size",
    },
}
_REPETITION = {"seed", "data.subset_seed", "data.root", "data.loader"}
_LOGARITHMIC = {"data.ratio", "loss.weight_ratio", "loss.temperature", "optim.lr", "optim.weight_decay"}


@dataclass(frozen=True)
class Sweep:
    """Finished runs along one field.

    Attributes:
        field: dotted name.
        fixed: the other fields' values.
        points: method -> value -> runs (seeds).
    """

    field: str
    fixed: tuple[tuple[str, Any], ...]
    points: dict[str, dict[Any, list[Run]]]


def axis_drawings(runs: list[Run]) -> list[Drawing]:
    """One drawing for every numeric field in which otherwise equal runs differ, with at least three values."""
    finished = [run for run in runs if run.finished]
    drawings = []
    for field, (annotation, _) in FIELDS.items():
        numeric = any(kind in str(annotation) for kind in ("int", "float")) and "tuple" not in str(annotation)
        if numeric and field not in _REPETITION and len({run.fields.get(field) for run in finished}) > 2:
            drawings += [_drawing(sweep) for sweep in find_sweeps(finished, field)]
    return drawings


def find_sweeps(runs: list[Run], field: str) -> list[Sweep]:
    """Runs that differ in one field (and method and seed) only, with three values or more."""
    moving = {field, "method"} | _REPETITION | _FOLLOWERS.get(field, set())
    gathered: dict[tuple[tuple[str, Any], ...], dict[str, dict[Any, list[Run]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    clips = {run.fields[CLIP] for run in runs if not run.clips_itself}
    for run in runs:
        own = (
            run.fields | dict.fromkeys([CLIP], *clips) if run.clips_itself and len(clips) == 1 else run.fields
        )
        for fields in _readings(own, field) if run.fields.get(field) is not None else ():
            fixed = tuple((name, value) for name, value in fields.items() if name not in moving)
            gathered[fixed][run.method][run.fields[field]].append(run)
    found: dict[Hashable, Sweep] = {}
    for key, points in gathered.items():
        if len({value for values in points.values() for value in values}) > 2:
            members = frozenset(
                run.path for values in points.values() for same in values.values() for run in same
            )
            sweep = Sweep(field, key, {m: dict(values) for m, values in points.items()})
            found.setdefault(members, sweep)
    return list(found.values())


def _readings(fields: dict[str, Any], field: str) -> list[dict[str, Any]]:
    """A run's fields along one; a step that may have followed from the radius is read both ways."""
    found = [fields]
    for section in ("attack", "eval_attack") if field.endswith(".epsilon") else ():
        step, radius = f"{section}.step_size", fields[f"{section}.epsilon"]
        if fields[f"{section}.threat"] != Attack.threat and fields[step] == radius / 4:
            found += [reading | {step: "auto"} for reading in found]
    return found


def conditions(sweep: Sweep) -> str:
    """The images and epochs of a sweep in words."""
    fixed = dict(sweep.fixed)
    shape = fixed.get("data.imbalance")
    ratio = "" if shape == "none" or sweep.field == "data.ratio" else f" {fixed.get('data.ratio'):g}"
    name = fixed.get("data.name", "several sets")
    chosen = chosen_classes(fixed.get("data.classes"))
    classes = f", classes {chosen}" if chosen else ""
    return f"{name} ({shape}{ratio}{classes}), {fixed.get('optim.epochs', 'several numbers of')} epochs"


def _drawing(sweep: Sweep) -> Drawing:
    where = conditions(sweep)
    return Drawing(
        stem(sweep.field, where, *sorted(sweep.points)),
        f"Accuracy against {sweep.field}",
        (),
        f"{where}. Mean over seeds, bars: one standard deviation.",
        _words(sweep),
        partial(_draw, sweep),
    )


def summary(runs: list[Run], kind: str, part: str) -> tuple[float, float]:
    """Mean and sample deviation over seeds of an accuracy in percent; (NaN, 0) without any."""
    values = [percent(run.record[kind][part]) for run in runs if run.record[kind].get(part) is not None]
    if not values:
        return float("nan"), 0.0
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _draw(sweep: Sweep) -> Figure:
    drawn, axes = figure(2, 2, width=7.2, height=5.4, sharex=True)
    with style():
        for place, (kind, part) in zip(axes.flat, COLUMNS, strict=True):
            for colour, (method, values) in zip(SERIES * 2, sorted(sweep.points.items()), strict=False):
                xs = sorted(values)
                summaries = [summary(values[x], kind, part) for x in xs]
                place.errorbar(
                    xs, [m for m, _ in summaries], [d for _, d in summaries], marker="o", markersize=4, capsize=3,
                    color=colour, label=method,
                )  # fmt: skip
            place.set_title(f"{kind}, {part}")
            if sweep.field in _LOGARITHMIC and min(min(v) for v in sweep.points.values()) > 0:
                logarithmic(place, "x")
        ticks = sorted({x for values in sweep.points.values() for x in values})
        for last in axes[-1]:
            if len(ticks) <= 10:
                last.set_xticks(ticks, [f"{x:g}" for x in ticks])
            last.set_xlabel(sweep.field)
        for first in axes[:, 0]:
            first.set_ylabel("accuracy, %")
        drawn.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return drawn


def _words(sweep: Sweep) -> str:
    parts = []
    for method, values in sorted(sweep.points.items()):
        points = "; ".join(
            f"{x:g}: " + ", ".join(f"{summary(values[x], *column)[0]:.1f}" for column in COLUMNS)
            for x in sorted(values)
        )
        parts.append(f"{method}: {points}.")
    return "Standard overall, standard under, robust overall, robust under in percent. " + " ".join(parts)
