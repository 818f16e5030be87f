"""report.html: one page that needs no other file."""

from __future__ import annotations

import base64
import json
import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from srat_fast.errors import MissingPackage
from srat_fast.published import COLUMNS, SEEDS_TAKEN
from srat_fast.recipe import FIELDS
from srat_fast.record import audit_verdict as record_verdict
from srat_fast.record import worst_class
from srat_fast.report.collect import CLIP, Run
from srat_fast.report.figures.drawing import Drawing
from srat_fast.report.groups import Group, Row, brought, mean_and_deviation
from srat_fast.report.summary import WORST, audit_verdict, cell, notes, paper_texts, seeds, worst_cell

_SHOWN = {
    "fig1": "accuracy of each class, natural against adversarial training, CIFAR-10 step-100",
    "fig2": "cat and horse: accuracy against the weight of horse",
    "fig3": "t-SNE of the imbalanced training images of cat and horse, natural and adversarial training",
    "fig4": "t-SNE of the features of ce, drcb-ldam and srat-ldam",
    "fig5": "accuracy of the three SRAT methods against the weight of the rare classes, step-100",
    "fig6": "accuracy of the three SRAT methods against lambda, step-100 and exp-100",
    "fig7": "as Fig. 1, step-10",
    "fig8": "as Fig. 1, exp-100",
    "fig9": "as Fig. 1, exp-10",
    "fig10": "as Fig. 2, automobile and truck",
    "fig11": "as Fig. 2, bird and frog",
    "fig12": "as Fig. 2, dog and deer",
    "fig13": "class counts of CIFAR-10, step-10, step-100, exp-10, exp-100",
    "fig14": "class counts of SVHN, step-10, step-100, exp-10, exp-100",
    "fig15": "srat-ldam: accuracy of all, well- and under-represented classes against the weight, step-100",
    "fig16": "drcb-focal and srat-focal: accuracy against the imbalance ratio",
}
#: Figure -> (what it shows, what makes it).
PAPER_FIGURES = {name: (shown, f"srat-fast reproduce {name}") for name, shown in _SHOWN.items()}


def missing_figures(present: Collection[str]) -> list[tuple[str, str, str]]:
    """(figure, what it shows, what makes it) of the paper's figures that are not `present`."""
    return [(name, *facts) for name, facts in PAPER_FIGURES.items() if name not in present]


@dataclass(frozen=True)
class Picture:
    """A drawn figure.

    Attributes:
        drawing: what it is.
        svg: its bytes.
        files: names of its files beside the page.
    """

    drawing: Drawing
    svg: bytes
    files: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One table cell: what is read, and what it is sorted by."""

    text: str
    value: float | str


def page(
    groups: Sequence[Group], runs: Sequence[Run], pictures: Sequence[Picture], out: Path, left_out: int = 0
) -> str:
    """The HTML text; links to runs are relative to `out`, where the page will lie."""
    try:
        import jinja2
    except ImportError:
        raise MissingPackage("jinja2", "the report page", "pip install jinja2") from None
    template = (resources.files("srat_fast.report") / "page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    present = {name for picture in pictures for name in picture.drawing.paper}
    common, different = _recipes(runs)
    return environment.from_string(template).render(
        groups=[
            (group.title, [line for row in group.rows for line in _summary_rows(row)]) for group in groups
        ],
        paper=any(row.paper for group in groups for row in group.rows),
        seeds_taken=SEEDS_TAKEN,
        runs=[_run_row(run, extra, out) for run, extra in zip(runs, different, strict=True)],
        finished=sum(run.finished for run in runs),
        pictures=[(p, base64.b64encode(p.svg).decode()) for p in pictures],
        left_out=left_out,
        missing=missing_figures(present),
        common=[(name, text, FIELDS[name][1].doc) for name, text in common],
        environments=_environments(runs),
    )


def _summary_rows(row: Row) -> list[list[Cell]]:
    """A row, and below it the paper's figures where there are any."""
    cells = [Cell(row.label, row.label), Cell(seeds(row), float(len(row.finished)))]
    for column in COLUMNS:
        values = row.values(*column)
        summary = mean_and_deviation(values)
        cells.append(Cell(cell(values), -1.0 if summary is None else summary[0]))
    for kind in WORST:
        summary = mean_and_deviation(row.values(kind, "worst"))
        cells.append(Cell("".join(worst_cell(row, kind)), -1.0 if summary is None else summary[0]))
    verdict = audit_verdict(row) if row.finished else "-"
    ours = [*cells, Cell(verdict, verdict), Cell(notes(row), notes(row))]
    theirs = paper_texts(row)
    if not theirs:
        return [ours]
    keys: list[float | str] = [
        theirs[0],
        -1.0,
        *(number.mean / 100 for number in row.paper or ()),
        *(-1.0 for _ in WORST),
        *theirs[-2:],
    ]
    return [ours, [Cell(text, value) for text, value in zip(theirs, keys, strict=True)]]


def _run_row(run: Run, different: str, out: Path) -> dict[str, Any]:
    record = run.record
    accuracies = []
    for kind, part in (*COLUMNS, *((kind, "worst") for kind in WORST)):
        value = None
        if run.finished:
            value = worst_class(record[kind]) if part == "worst" else record[kind].get(part)
        accuracies.append(
            Cell("-" if value is None else f"{100 * value:.2f}", -1.0 if value is None else value)
        )
    seconds, speed = (record.get("seconds") or {}).get("total"), record.get("images_per_second")
    verdict = record_verdict(record) if run.finished else "-"
    status = str(record.get("status", "running"))
    return {
        "link": os.path.relpath(run.path.resolve(), out.resolve()).replace(os.sep, "/") + "/",
        "name": run.path.name,
        "path": str(run.path),
        "cells": [
            Cell(run.method, run.method),
            Cell(str(run.seed), float(run.seed)),
            Cell(status + (f": {record['problem']}" if record.get("problem") else ""), status),
            *accuracies,
            Cell("-" if speed is None else f"{speed:,.0f}", speed or -1.0),
            Cell("-" if seconds is None else f"{seconds:,.0f}", seconds or -1.0),
            Cell(verdict, verdict),
        ],
        "different": different,
        "audit": [
            (c.get("name", "?"), c.get("verdict", "?"), c.get("figure"), c.get("threshold"))
            for c in (record.get("audit") or {}).get("checks", [])
        ],
    }


def _recipes(runs: Sequence[Run]) -> tuple[list[tuple[str, str]], list[str]]:
    """The fields that most runs share, and for each run those in which it differs by more than its method and seed."""
    # an empty text is no value, as records have it
    table = {
        name: [json.dumps(None if (v := run.value(name)) == "" else v) for run in runs] for name in FIELDS
    }
    usual = {name: Counter(values).most_common(1)[0][0] for name, values in table.items()}
    different = []
    for k, run in enumerate(runs):
        own = {name: json.dumps(value) for name, value in brought(run).items()}
        own["data.subset_seed"] = str(run.seed)
        if run.clips_itself:
            own[CLIP] = table[CLIP][k]
        different.append(
            ", ".join(
                f"{name} = {values[k]}"
                for name, values in table.items()
                if values[k] != usual[name] and name not in ("method", "seed") and values[k] != own.get(name)
            )
        )
    return list(usual.items()), different


def _environments(runs: Sequence[Run]) -> list[tuple[str, list[tuple[str, str]], int]]:
    """Distinct (device, commit, versions) with the number of runs that had them."""
    found: Counter[str] = Counter()
    for run in runs:
        record = run.record
        facts = {
            "device": record.get("device"),
            "commit": record.get("git_commit"),
            **record.get("versions", {}),
        }
        found[json.dumps({name: value for name, value in facts.items() if value is not None})] += 1
    described = []
    for text, count in found.most_common():
        facts = json.loads(text)
        described.append((facts.pop("device", "not recorded"), list(facts.items()), count))
    return described
