"""The paper's table from a sweep: records enter; rows with statistics, the paper's numbers and marks leave."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from srat_fast.methods import METHODS
from srat_fast.published import METRICS, Published, departures, differs, p_text, published
from srat_fast.recipe import Recipe, flatten
from srat_fast.record import RECORD, audit_verdict, has_accuracies
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.sweep.statistics import Comparison, Summary, compare, summarize

#: Weights that a record may judge: of the last epoch, the best by validation, their moving average.
_WEIGHTS = ("last", "best", "ema")
_SETTING = ("data.name", "data.root", "data.imbalance", "data.ratio", "data.classes", "data.imbalance_base")


@dataclass
class Entry:
    """One figure of one row.

    Attributes:
        kind: standard or robust.
        part: overall, under, or class:NAME.
        summary: over seeds, in percent.
        against: the baseline's comparison; None for the baseline itself, or without one.
        paper: the paper's mean and deviation; None where there are none.
    """

    kind: str
    part: str
    summary: Summary
    against: Comparison | None
    paper: Published | None

    @property
    def off(self) -> float | None:
        """Ours minus the paper's, in percent points."""
        return None if self.paper is None or not self.summary.n else self.summary.mean - self.paper.mean

    @property
    def p_paper(self) -> float | None:
        """Welch's test against the paper's deviation; None where one of the two is missing."""
        ours = self.summary
        return None if self.paper is None or not ours.n else self.paper.p(ours.mean, ours.std, ours.n)


@dataclass
class Line:
    """One method (and whatever else varies) on one data set.

    Attributes:
        setting: the data set and its imbalance, in words.
        label: the method and the other axes.
        values: axis -> value, for files.
        entries: in the order of `METRICS`, then classes.
        seeds: of the finished runs.
        seconds: wall time of a whole run, evaluation included.
        speed: training images/s of a run, of its share of the processor where several trials shared it.
        marks: what a reader must know: missing runs, audits, collapses, figures far from the paper's.
    """

    setting: str
    label: str
    values: dict[str, Any]
    entries: list[Entry]
    seeds: list[int]
    seconds: Summary
    speed: Summary
    marks: list[str] = field(default_factory=list)


@dataclass
class TableData:
    """A sweep's results.

    Attributes:
        title: of the sweep.
        baseline: label that the others are compared with; None for none.
        confidence: of the intervals.
        lines: grouped by setting, methods in the paper's order.
        notes: on the whole.
    """

    title: str
    baseline: str | None
    confidence: float
    lines: list[Line]
    notes: list[str]

    def settings(self) -> dict[str, list[Line]]:
        """The lines of each data set.

        Returns:
            Setting -> lines.
        """
        groups: dict[str, list[Line]] = {}
        for line in self.lines:
            groups.setdefault(line.setting, []).append(line)
        return groups


def _setting(recipe: Recipe) -> str:
    data = recipe.data
    own = " of each class's own count" if data.imbalance_base == "own" else ""
    shape = data.imbalance if data.imbalance == "none" else f"{data.imbalance}, ratio {data.ratio:g}{own}"
    chosen = getattr(data, "classes", None)
    return f"{data.name} ({shape}{f', classes {chosen}' if chosen not in (None, 'all') else ''})"


def _label(recipe: Recipe, axes: list[str]) -> str:
    values = flatten(recipe)
    rest = [
        f"{name.rpartition('.')[2]} = {values[name]}"
        for name in axes
        if name not in _SETTING and name != "method"
    ]
    return ", ".join([recipe.method, *rest])


def _judged(record: dict[str, Any], weights: str) -> dict[str, Any]:
    """The part of a record that judges one kind of weights."""
    return record if weights == "last" else record[weights]


def _marks(records: dict[int, dict[str, Any]], wanted: int, weights: str) -> list[str]:
    marks = []
    if len(records) < wanted:
        marks.append(f"{len(records)} of {wanted} runs finished")
    verdicts = {seed: audit_verdict(record, weights) for seed, record in records.items()}
    collapsed = [s for s, r in records.items() if _judged(r, weights).get("collapsed") is not None]
    for name, seeds in (
        ("not audited", [s for s, v in verdicts.items() if v.startswith("not audited")]),
        ("audit suspicious", [s for s, v in verdicts.items() if v == "suspicious"]),
        ("collapsed to one class", collapsed),
    ):
        if seeds:
            which = "all" if len(seeds) == len(records) else f"seed {', '.join(map(str, sorted(seeds)))}"
            marks.append(f"{name}: {which}")
    return marks


def far_from_paper(entries: list[Entry]) -> list[str]:
    """The figures that want an explanation: set apart from the paper's by both deviations, or by `FAR` points.

    Args:
        entries: of a row whose recipe is the paper's.

    Returns:
        Such as ["beyond both deviations from the paper: robust under -3.42 (p = 0.01)"].
    """
    found: dict[str, list[str]] = {}
    for entry in entries:
        if entry.off is not None and (why := differs(entry.off, entry.p_paper)) is not None:
            text = f"{entry.kind} {entry.part} {entry.off:+.2f} ({p_text(entry.p_paper)})"
            found.setdefault(why, []).append(text)
    return [f"{why} from the paper: {', '.join(figures)}" for why, figures in sorted(found.items())]


def _values(records: dict[int, dict[str, Any]], kind: str, part: str, weights: str) -> dict[int, float]:
    """Seed -> percent; a run that has nothing to measure there is left out."""
    found = {}
    for seed, record in records.items():
        accuracy = _judged(record, weights)[kind]
        if part.startswith("class:"):
            value = accuracy["per_class"][list(record["classes"]).index(part.removeprefix("class:"))]
        else:
            value = accuracy[part]
        if value is not None and not math.isnan(value):
            found[seed] = 100.0 * value
    return found


def build_table(
    sweep: SweepDirectory, baseline: str | None = None, *, confidence: float = 0.95, per_class: bool = False
) -> TableData:
    """The results of a sweep's finished runs.

    Args:
        sweep: finished or not.
        baseline: method to compare with; None for the spec's.
        confidence: of the intervals.
        per_class: whether each class has its entries too.

    Returns:
        The table.
    """
    plan = sweep.plan
    baseline = baseline or plan.baseline
    records: dict[int, dict[int, dict[str, Any]]] = {}
    wanted: dict[int, int] = {}
    recipes: dict[int, Recipe] = {}
    damaged: list[str] = []
    for trial in plan.trials:
        wanted[trial.cell] = wanted.get(trial.cell, 0) + 1
        recipes.setdefault(trial.cell, plan.recipe(trial))
        record = sweep.record(trial)
        if record is None:
            if (sweep.run(trial) / RECORD).exists():
                damaged.append(trial.name)
        elif record.get("status") == "finished":
            if has_accuracies(record):
                records.setdefault(trial.cell, {})[trial.seed] = record
            else:
                damaged.append(trial.name)
    axes = [a for a in plan.axes if a != "seed"]
    base_cells = {_group(recipes[c], axes): c for c in recipes if recipes[c].method == baseline}
    lines, commits, other = [], set(), set()
    for cell, recipe in recipes.items():
        commits |= {record.get("git_commit") for record in records.get(cell, {}).values()}
        numbers = published(recipe, plan.published)
        departed = departures(recipe, plan.published) if numbers is not None else []
        other |= set(departed)
        against = base_cells.get(_group(recipe, axes))
        for weights in _WEIGHTS:
            mine = {
                seed: r for seed, r in records.get(cell, {}).items() if weights == "last" or r.get(weights)
            }
            if weights != "last" and not mine:
                continue
            rivals = {} if against is None else records.get(against, {})
            rivals = {seed: r for seed, r in rivals.items() if weights == "last" or r.get(weights)}
            compared = None if against in (None, cell) else rivals
            target = numbers if weights == "last" else None  # the paper reports the last epoch
            entries = _entries(mine, compared, target, weights, confidence, per_class)
            marks = _marks(mine, wanted[cell], weights)
            marks += [] if departed else far_from_paper(entries)
            flat = flatten(recipe)
            names = dict.fromkeys([*_SETTING[:1], *_SETTING[2:4], "method", *axes])
            said = {name: flat[name] for name in names} | {"weights": weights}
            label = _label(recipe, axes) + ("" if weights == "last" else f", {weights} weights")
            seconds, speed = (
                summarize([float(v) for r in mine.values() if (v := of(r)) is not None], confidence)
                for of in (_seconds, _speed)
            )
            lines.append(Line(_setting(recipe), label, said, entries, sorted(mine), seconds, speed, marks))
    order = {line.setting: k for k, line in reversed(list(enumerate(lines)))}
    methods = list(METHODS)
    lines.sort(key=lambda line: (order[line.setting], methods.index(line.values["method"])))
    notes = [f"left out, its {RECORD} is damaged: {name}" for name in damaged]
    if len(commits) > 1:
        notes.append(f"the runs are of {len(commits)} commits: {', '.join(sorted(str(c) for c in commits))}")
    if other:
        notes.append(f"not the paper's recipe, so its numbers are no target: {', '.join(sorted(other))}")
    return TableData(plan.title, baseline, confidence, lines, notes)


def _entries(
    mine: dict[int, dict[str, Any]],
    rivals: dict[int, dict[str, Any]] | None,
    numbers: list[Published] | None,
    weights: str,
    confidence: float,
    per_class: bool,
) -> list[Entry]:
    """The figures of a row; `rivals` are the baseline's records, None for the baseline itself."""
    figures = list(METRICS)
    if per_class and mine:
        classes = next(iter(mine.values()))["classes"]
        figures += [(kind, f"class:{name}") for kind in ("standard", "robust") for name in classes]
    entries = []
    for k, (kind, part) in enumerate(figures):
        values = _values(mine, kind, part, weights)
        comparison = None if rivals is None else compare(values, _values(rivals, kind, part, weights))
        paper = numbers[k] if numbers is not None and k < len(METRICS) else None
        entries.append(Entry(kind, part, summarize(list(values.values()), confidence), comparison, paper))
    return entries


def _seconds(record: dict[str, Any]) -> float | None:
    return (record.get("seconds") or {}).get("total")


def _speed(record: dict[str, Any]) -> float | None:
    return record.get("images_per_second")


def _group(recipe: Recipe, axes: list[str]) -> tuple[str, ...]:
    """What two rows must share to be compared: everything that varies but the method."""
    values = flatten(recipe)
    return (_setting(recipe), *(str(values[name]) for name in axes if name != "method"))
