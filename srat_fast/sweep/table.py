"""The paper's table from a sweep: statistics over seeds; Markdown, LaTeX, CSV and Parquet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from srat_fast.datasets import imbalance_title
from srat_fast.errors import MissingPackage, UserError, require_one_of
from srat_fast.methods import METHODS, order
from srat_fast.published import COLUMNS, SEEDS_TAKEN, Published, departures, differs, p_text, published
from srat_fast.recipe import Recipe, flatten
from srat_fast.record import (
    RECORD,
    WEIGHTS,
    audit_verdict,
    has_accuracies,
    weights_title,
    worst_class,
    write_atomically,
)
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.tables import Cell, Table, csv_text, latex, length, spread, tabular, visible

_RESAMPLES = 9999
#: Columns of the table: the paper's, then those of the worst class.
FIGURES = (*COLUMNS, ("standard", "worst"), ("robust", "worst"))


@dataclass(frozen=True)
class Summary:
    """Several runs' values of one figure."""

    n: int  # runs
    mean: float  # of them; NaN without any
    std: float | None = None  # sample standard deviation (n - 1); None for fewer than two
    low: float | None = None  # lower end of the mean's interval; None for fewer than two
    high: float | None = None  # upper end; None likewise


@dataclass(frozen=True)
class Comparison:
    """Two methods over the seeds that both have."""

    n: int  # seeds in common
    difference: float  # mean of the differences; NaN without a common seed
    #: two-sided paired t-test; None for fewer than two seeds, or where all differences are the same
    p: float | None
    p_holm: float | None = None  # the same after Holm's correction over the tests of its table


def summarize(values: Sequence[float], confidence: float = 0.95) -> Summary:
    """Mean, sample deviation and the percentile bootstrap's interval of the mean.

    With the few seeds that training affords, the interval is short of its nominal coverage: it lies between the
    smallest and the largest value. It is given with n beside it, always from the same resamples.
    """
    from scipy.stats import bootstrap

    data = np.asarray(values, dtype=np.float64)
    if len(data) == 0:
        return Summary(0, math.nan)
    if len(data) == 1:
        return Summary(1, float(data[0]))
    interval = bootstrap(
        (data,), np.mean, n_resamples=_RESAMPLES, confidence_level=confidence, method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return Summary(
        len(data), float(data.mean()), float(data.std(ddof=1)), float(interval.low), float(interval.high)
    )


def compare(values: Mapping[int, float], baseline: Mapping[int, float]) -> Comparison:
    """A method against a baseline, seed by seed: equal seeds share the subset of images and the order."""
    from scipy.stats import ttest_rel

    common = sorted(values.keys() & baseline.keys())
    if not common:
        return Comparison(0, math.nan, None)
    first = np.array([values[seed] for seed in common])
    second = np.array([baseline[seed] for seed in common])
    differences = first - second
    p = None
    if len(common) > 1 and float(np.ptp(differences)) > 1e-12:
        p = float(ttest_rel(first, second).pvalue)
    return Comparison(len(common), float(differences.mean()), p)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p of several tests after Holm's step-down correction (1979); None is no test and stays."""
    order = sorted((p, k) for k, p in enumerate(values) if p is not None)
    found: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (p, k) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        found[k] = largest
    return found


_SETTING = ("data.name", "data.root", "data.imbalance", "data.ratio", "data.classes", "data.imbalance_base")


@dataclass
class Entry:
    """One figure of one row."""

    kind: str  # standard or robust
    part: str  # overall, under, worst (class), or class:NAME
    summary: Summary  # over seeds, in percent
    against: Comparison | None  # the baseline's comparison; None for the baseline itself, or without one
    paper: Published | None  # the paper's mean and deviation; None where there are none

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
    """One method (and whatever else varies) on one data set."""

    setting: str  # the data set and its imbalance, in words
    label: str  # the method and the other axes
    values: dict[str, Any]  # axis -> value, for files
    entries: list[Entry]  # in the order of `FIGURES`, then classes
    seeds: list[int]  # of the finished runs
    seconds: Summary  # wall time of a whole run, evaluation included
    speed: Summary  # training images/s of a run, of its share of the processor where several trials shared it
    #: what a reader must know: missing runs, audits, collapses, figures far from the paper's
    marks: list[str] = field(default_factory=list)
    #: what `srat-fast evaluate` found since: attack, radius and images -> overall, under and worst class, in percent
    attacks: dict[str, tuple[Summary, ...]] = field(default_factory=dict)
    family: str = ""  # of the method


@dataclass
class TableData:
    """A sweep's results."""

    title: str  # of the sweep
    baseline: str | None  # label that the others are compared with; None for none
    confidence: float  # of the intervals
    lines: list[Line]  # grouped by setting, methods in the paper's order
    notes: list[str]  # on the whole

    def settings(self) -> dict[str, list[Line]]:
        """The lines of each data set."""
        groups: dict[str, list[Line]] = {}
        for line in self.lines:
            groups.setdefault(line.setting, []).append(line)
        return groups


def _setting(recipe: Recipe, axes: Sequence[str] = ()) -> str:
    data = recipe.data
    shape = imbalance_title(data.imbalance, data.ratio, data.imbalance_base)
    chosen = getattr(data, "classes", None)
    own = ", protocol own" if recipe.protocol == "own" and "protocol" not in axes else ""
    return f"{data.name} ({shape}{f', classes {chosen}' if chosen not in (None, 'all') else ''}){own}"


def _label(recipe: Recipe, axes: list[str]) -> str:
    values = flatten(recipe)
    rest = [
        f"{'model' if name == 'model.name' else name.rpartition('.')[2]} = {values[name]}"
        for name in axes
        if name not in _SETTING and name != "method"
    ]
    return ", ".join([recipe.method, *rest])


def _part_of(record: dict[str, Any], weights: str) -> dict[str, Any]:
    """The part of a record with the accuracies of one kind of weights."""
    return record if weights == "last" else record[weights]


def _marks(records: dict[int, dict[str, Any]], wanted: int, weights: str) -> list[str]:
    marks = []
    if len(records) < wanted:
        marks.append(f"{len(records)} of {wanted} runs finished")
    verdicts = {seed: audit_verdict(record, weights) for seed, record in records.items()}
    collapsed = [s for s, r in records.items() if _part_of(r, weights).get("collapsed") is not None]
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
    """The figures that want an explanation: set apart from the paper's by both deviations, or by `FAR` points."""
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
        accuracy = _part_of(record, weights)[kind]
        if part.startswith("class:"):
            value = accuracy["per_class"][list(record["classes"]).index(part.removeprefix("class:"))]
        elif part == "worst":
            value = worst_class(accuracy)
        else:
            value = accuracy[part]
        if value is not None and not math.isnan(value):
            found[seed] = 100.0 * value
    return found


def build_table(
    sweep: SweepDirectory,
    baseline: str | None = None,
    *,
    confidence: float = 0.95,
    per_class: bool = False,
    sort: str | None = None,
) -> TableData:
    """The results of a sweep's finished runs; by method, or from the best of one of `SORTS` down."""
    if sort is not None:
        require_one_of("--sort", sort, SORTS)
    plan = sweep.plan
    baseline = baseline or plan.baseline
    records: dict[int, dict[int, dict[str, Any]]] = {}
    wanted: dict[int, int] = {}
    recipes = plan.cell_recipes()
    damaged: list[str] = []
    for trial in plan.trials:
        wanted[trial.cell] = wanted.get(trial.cell, 0) + 1
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
        for weights in WEIGHTS:
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
            titles = dict.fromkeys(weights_title(r, weights) for r in mine.values())
            label = ", ".join([_label(recipe, axes), *(f"{title} weights" for title in titles if title)])
            seconds, speed = (
                summarize([float(v) for r in mine.values() if (v := of(r)) is not None], confidence)
                for of in (_seconds, _speed)
            )
            attacks = _attacks(mine.values(), weights)
            family = METHODS[recipe.method].family
            lines.append(
                Line(
                    _setting(recipe, axes),
                    label,
                    said,
                    entries,
                    sorted(mine),
                    seconds,
                    speed,
                    marks,
                    attacks,
                    family,
                )
            )
    _correct(lines)
    settings = {line.setting: k for k, line in reversed(list(enumerate(lines)))}
    lines.sort(key=lambda line: (settings[line.setting], order(line.values["method"])))
    if sort is not None:
        column = SORTS.index(sort)
        means = {id(line): np.nan_to_num(line.entries[column].summary.mean, nan=-1.0) for line in lines}
        lines.sort(key=lambda line: (settings[line.setting], -means[id(line)]))
    notes = [f"left out, its {RECORD} is damaged: {name}" for name in damaged]
    if len(commits) > 1:
        notes.append(f"the runs are of {len(commits)} commits: {', '.join(sorted(str(c) for c in commits))}")
    if other:
        notes.append(f"not the paper's recipe, so its numbers are no target: {', '.join(sorted(other))}")
    return TableData(plan.title, baseline, confidence, lines, notes)


def _correct(lines: list[Line]) -> None:
    """Holm's correction over the comparisons of each data set's table; classes are not part of it."""
    tests: dict[str, list[Entry]] = {}
    for line in lines:
        tests.setdefault(line.setting, []).extend(e for e in line.entries[: len(FIGURES)] if e.against)
    for entries in tests.values():
        compared = [(entry, entry.against) for entry in entries if entry.against is not None]
        for (entry, old), p in zip(compared, holm([old.p for _, old in compared]), strict=True):
            entry.against = replace(old, p_holm=p)


def _entries(
    mine: dict[int, dict[str, Any]],
    rivals: dict[int, dict[str, Any]] | None,
    numbers: list[Published] | None,
    weights: str,
    confidence: float,
    per_class: bool,
) -> list[Entry]:
    """The figures of a row; `rivals` are the baseline's records, None for the baseline itself."""
    figures = list(FIGURES)
    if per_class and mine:
        classes = next(iter(mine.values()))["classes"]
        figures += [(kind, f"class:{name}") for kind in ("standard", "robust") for name in classes]
    entries = []
    for k, (kind, part) in enumerate(figures):
        values = _values(mine, kind, part, weights)
        comparison = None if rivals is None else compare(values, _values(rivals, kind, part, weights))
        paper = numbers[k] if numbers is not None and k < len(COLUMNS) else None
        entries.append(Entry(kind, part, summarize(list(values.values()), confidence), comparison, paper))
    return entries


def _attacks(records: Iterable[dict[str, Any]], weights: str) -> dict[str, tuple[Summary, ...]]:
    """Later evaluations of some runs' weights on their own test images; of equal ones of a run the last counts."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for record in records:
        mine = {}
        for entry in record.get("evaluations", []):
            if entry.get("weights", "last") != weights or entry.get("same_data", False) is False:
                continue
            for name, row in entry["attacks"].items():
                if row.get("epsilon") is not None:  # clean images are in the table above
                    attack = f"{name.split(' eps ')[0]} eps {length(row['epsilon'])}"
                    mine[f"{attack}, {row['images']} images"] = (
                        row["overall"],
                        row["under"],
                        math.nan if (worst := worst_class(row)) is None else worst,
                    )
        for name, values in mine.items():
            found.setdefault(name, []).append(values)
    return {
        name: tuple(summarize([100 * value for value in part]) for part in zip(*values, strict=True))
        for name, values in found.items()
    }


def _seconds(record: dict[str, Any]) -> float | None:
    return (record.get("seconds") or {}).get("total")


def _speed(record: dict[str, Any]) -> float | None:
    return record.get("images_per_second")


def _group(recipe: Recipe, axes: list[str]) -> tuple[str, ...]:
    """What two rows must share to be compared: everything that varies but the method."""
    values = flatten(recipe)
    return (_setting(recipe), *(str(values[name]) for name in axes if name != "method"))


FORMATS = ("md", "csv", "parquet", "tex")
SORTS = _HEADS = [f"{kind} {part}" for kind, part in FIGURES]
_BY_KIND = sorted(
    range(len(FIGURES)), key=lambda k: FIGURES[k][0] == "robust"
)  # stable: overall, under, worst
_SPARE = ["group", *_HEADS[len(COLUMNS) :]]  # what a narrow terminal does without first


def _spread(summary: Summary) -> str:
    return spread(summary.mean, summary.std) if summary.n else "-"


def _cell(entry: Entry) -> Cell:
    """75.89 ± 0.41 (paper 76.25 ± 0.09: -0.36, p = 0.12)."""
    text = _spread(entry.summary)
    if entry.paper is None:
        return text
    off = "" if entry.off is None else f": {entry.off:+.2f}, {p_text(entry.p_paper)}"
    return text, f" (paper {entry.paper.text}{off})"


def _whole(summary: Summary) -> str:
    return f"{summary.mean:,.0f}" if summary.n else "-"


def _difference(line: Line) -> list[str]:
    """Interval and comparison of each figure."""
    cells = []
    for entry in line.entries[: len(FIGURES)]:
        text = "-" if entry.summary.low is None else f"[{entry.summary.low:.2f}, {entry.summary.high:.2f}]"
        if entry.against is not None and entry.against.n:
            p = (
                ""
                if entry.against.p is None
                else f", p = {entry.against.p:.2g} (Holm {entry.against.p_holm:.2g})"
            )
            text += f"; {entry.against.difference:+.2f}{p}"
        cells.append(text)
    return cells


def _grouped(lines: Sequence[Line]) -> bool:
    """Whether a table holds methods of several families."""
    return len({line.family for line in lines}) > 1


def to_markdown(table: TableData) -> str:
    """The table as Markdown: for each data set the accuracies, then their intervals and the comparison."""
    lines: list[str] = []
    for part in to_parts(table):
        lines += ["", visible(part) if isinstance(part, str) else part.markdown()]
    return "\n".join(lines[1:]) + "\n"


def to_parts(table: TableData) -> list[str | Table]:
    """The same as lines and tables, in order."""
    parts: list[str | Table] = [f"## {table.title}"]
    for setting, lines in table.settings().items():
        with_paper = any(entry.paper is not None for line in lines for entry in line.entries)
        beside = f"; beside the paper's, Welch's t-test ({SEEDS_TAKEN})" if with_paper else ""
        parts.append(f"{setting}, accuracy in percent: mean ± sample deviation over n seeds{beside}")
        grouped = _grouped(lines)
        cells = [
            [
                line.label,
                *([line.family] if grouped else []),
                str(len(line.seeds)),
                *map(_cell, line.entries[: len(FIGURES)]),
                "; ".join(line.marks),
            ]
            for line in lines
        ]
        numbers = range(1, 2 + len(FIGURES))
        heads = ["method", *(["group"] if grouped else []), "n", *_HEADS, "marks"]
        shift, detail = range(1 + grouped, 2 + grouped + len(FIGURES)), "the paper's figures"
        parts.append(Table(*heads, rows=cells, right=shift, detail=detail, spare=_SPARE))
        against = (
            f"; difference from {table.baseline} over common seeds, paired t-test (Holm's correction: over this table)"
            if table.baseline
            else ""
        )
        parts.append(f"{table.confidence:.0%} bootstrap interval of the mean{against}")
        rows = [[line.label, *_difference(line)] for line in lines]
        parts.append(Table("method", *_HEADS, rows=rows, right=numbers[:-1], spare=_SPARE))
        attacks = list(dict.fromkeys(name for line in lines for name in line.attacks))
        if attacks:
            rows = [
                [
                    line.label,
                    *(
                        "; ".join(_spread(s) for s in line.attacks[a]) if a in line.attacks else "-"
                        for a in attacks
                    ),
                ]
                for line in lines
                if line.attacks
            ]
            parts.append(
                "robust accuracy under further attacks (srat-fast evaluate): overall; under; worst class"
            )
            parts.append(Table("method", *attacks, rows=rows, right=range(1, 1 + len(attacks))))
        rows = [
            [line.label, str(line.speed.n), _whole(line.speed), _whole(line.seconds)]
            for line in lines
            if line.values["weights"] == "last"
        ]
        parts.append("speed of training and wall time of a run, evaluation included: mean over seeds")
        parts.append(Table("method", "n", "images/s", "seconds", rows=rows, right=range(1, 4)))
        classes = [
            e.part.removeprefix("class:") for e in lines[0].entries[len(FIGURES) :] if e.kind == "standard"
        ]
        for kind in ("standard", "robust") if classes else ():
            rows = [
                [
                    line.label,
                    *(_spread(e.summary) for e in line.entries[len(FIGURES) :] if e.kind == kind),
                ]
                for line in lines
            ]
            parts.append(f"{kind} accuracy of each class")
            parts.append(Table("method", *classes, rows=rows, right=range(1, len(classes) + 1)))
    return parts + [f"Note: {note}." for note in table.notes]


def to_latex(table: TableData) -> str:
    """The table for a paper: booktabs, both accuracies above overall, under and worst class; marks as footnotes."""
    parts = [f"% {visible(table.title)}"]
    for setting, lines in table.settings().items():
        with_paper = any(entry.paper is not None for line in lines for entry in line.entries)
        group = 5 if with_paper else 3  # columns of a kind of accuracy
        notes: dict[str, str] = {}
        body: list[str | list[str]] = []
        for before, line in zip([None, *lines], lines, strict=False):
            if _grouped(lines) and (before is None or before.family != line.family):
                body += ["\\midrule"] * bool(body)
                width = 1 + 2 * group
                body.append(f"\\multicolumn{{{width}}}{{l}}{{\\emph{{{latex(line.family)}}}}} \\\\")
            method = str(line.values["method"])
            label = latex(line.label.replace(method, METHODS[method].title, 1))
            marks = [notes.setdefault(mark, chr(ord("a") + len(notes) % 26)) for mark in line.marks]
            cells = [label + (f"\\tnote{{{','.join(marks)}}}" if marks else "")]
            for entry in (line.entries[k] for k in _BY_KIND):
                cells.append(latex(_spread(entry.summary)))
                if with_paper and entry.part != "worst":
                    cells.append("" if entry.paper is None else latex(entry.paper.text))
            body.append(cells)
        heads = " & ".join(
            2 * [*(part + " & paper" * with_paper for part in ("Overall", "Under")), "Worst class"]
        )
        above = (
            rf"& \multicolumn{{{group}}}{{c}}{{Standard}} & \multicolumn{{{group}}}{{c}}{{Robust}} \\",
            rf"\cmidrule(lr){{2-{group + 1}}} \cmidrule(lr){{{group + 2}-{2 * group + 1}}}",
            rf"Method & {heads} \\",
        )
        parts += [
            "\\begin{table}",
            "  \\centering",
            "  \\begin{threeparttable}",
            f"  \\caption{{{latex(table.title)}: {latex(setting)}, accuracy in percent.}}",
            *tabular(f"l{'r' * (2 * group)}", above, body),
            *(["  \\begin{tablenotes}"] if notes else []),
            *(f"  \\item[{letter}] {latex(text)}" for text, letter in notes.items()),
            *(["  \\end{tablenotes}"] if notes else []),
            "  \\end{threeparttable}",
            "\\end{table}",
        ]
    if any(entry.paper is not None for line in table.lines for entry in line.entries):
        parts.append(f"% p: Welch's t-test against the paper's deviation; {SEEDS_TAKEN}")
    parts += [f"% {visible(note)}" for note in table.notes]
    return "\n".join(parts) + "\n"


def to_rows(table: TableData) -> list[dict[str, Any]]:
    """One row a figure, for CSV and Parquet."""
    rows: list[dict[str, Any]] = []
    for line in table.lines:
        for entry in line.entries:
            against = entry.against
            rows.append(
                _said(line)
                | {
                    "accuracy": entry.kind,
                    "part": entry.part,
                    "n": entry.summary.n,
                    "mean": entry.summary.mean if entry.summary.n else None,
                    "std": entry.summary.std,
                    "low": entry.summary.low,
                    "high": entry.summary.high,
                    "confidence": table.confidence,
                    "baseline": table.baseline if against is not None else None,
                    "difference": against.difference if against is not None and against.n else None,
                    "common_seeds": against.n if against is not None else None,
                    "p": against.p if against is not None else None,
                    "p_holm": against.p_holm if against is not None else None,
                    "paper": entry.paper.mean if entry.paper is not None else None,
                    "paper_std": entry.paper.std if entry.paper is not None else None,
                    "off_paper": entry.off,
                    "p_paper": entry.p_paper,
                    "images_per_second": line.speed.mean if line.speed.n else None,
                    "seconds": line.seconds.mean if line.seconds.n else None,
                    "seeds": ",".join(map(str, line.seeds)),
                    "marks": "; ".join(line.marks),
                }
            )
        for name, parts in line.attacks.items():
            for part, summary in zip(("overall", "under", "worst"), parts, strict=True):
                rows.append(
                    dict.fromkeys(rows[-1])
                    | _said(line)
                    | {
                        "accuracy": name,
                        "part": part,
                        "n": summary.n,
                        "mean": summary.mean,
                        "std": summary.std,
                        "low": summary.low,
                        "high": summary.high,
                        "confidence": table.confidence,
                        "seeds": ",".join(map(str, line.seeds)),
                    }
                )
    return rows


def _said(line: Line) -> dict[str, Any]:
    """What tells a row's line apart, as plain values."""
    values = {
        name: value if value is None or isinstance(value, (int, float, str)) else str(value)
        for name, value in line.values.items()
    }
    return values | {"family": line.family}


def _to_parquet(table: TableData) -> bytes:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingPackage("pyarrow", "a Parquet table", "pip install 'srat-fast[parquet]'") from None
    sink = pyarrow.BufferOutputStream()
    content = pyarrow.Table.from_pylist(to_rows(table))
    pyarrow.parquet.write_table(content.replace_schema_metadata({"title": table.title}), sink)
    return sink.getvalue().to_pybytes()


def write_table(table: TableData, path: Path) -> None:
    """Write the table in the format that a file's ending names."""
    kind = path.suffix[1:]
    if kind not in FORMATS:
        raise UserError(
            "--out", f"a file ending in {', '.join('.' + f for f in FORMATS)} is needed", str(path)
        )
    if kind == "parquet":
        data = _to_parquet(table)
    elif kind == "csv":
        data = csv_text(to_rows(table)).encode()
    else:
        data = (to_markdown(table) if kind == "md" else to_latex(table)).encode()
    try:
        write_atomically(path, data)
    except OSError as error:
        raise UserError("--out", f"cannot be written: {error.strerror}", str(path)) from None
