"""The table: the paper's order and layout, unfinished and collapsed runs named."""

from __future__ import annotations

import copy
import json

import pytest
from rich.console import Console

from srat_fast.errors import UserError
from srat_fast.report.table import find_records, summary_tables

RECORD = {
    "recipe": {
        "method": "srat-ldam",
        "seed": 0,
        "data": {"name": "cifar10", "imbalance": "exp", "ratio": 100.0},
        "eval_attack": {"steps": 20, "epsilon": 8 / 255},
        "optim": {"epochs": 200},
    },
    "counts": [50, 5],
    "test_images": 20,
    "classes": ["cat", "dog"],
    "status": "finished",
    "collapsed": None,
    "standard": {"overall": 0.6311, "under": 0.656},
    "robust": {"overall": 0.3422, "under": 0.3255},
}


def changed(**changes: object) -> dict:
    record = copy.deepcopy(RECORD)
    for name, value in changes.items():
        if name in ("method", "seed"):
            record["recipe"][name] = value
        else:
            record[name] = value
    return record


def lines(records: list[dict]) -> list[str]:
    console = Console(width=120, record=True, quiet=True)
    with console.capture() as capture:
        console.quiet = False
        for title, table in summary_tables(records):
            console.print(title)
            console.print(table)
    return [line for line in capture.get().splitlines() if line.strip()]


def test_layout() -> None:
    other = changed(method="ce", standard={"overall": 0.484, "under": 0.2304}, seed=3)
    title, _, _, first, second = lines([RECORD, other])
    assert (
        title
        == "cifar10 (exp, ratio 100; 55 training, 20 test images), 200 epochs, robust = PGD-20 at eps 0.03137"
    )
    assert [cell.strip() for cell in first.split("|")[1:7]] == ["ce", "3", "48.40", "23.04", "34.22", "32.55"]
    assert [cell.strip() for cell in second.split("|")[1:7]] == [
        "srat-ldam",
        "0",
        "63.11",
        "65.60",
        "34.22",
        "32.55",
    ]


def test_the_audit_stands_beside_the_number() -> None:
    audited = [
        changed(audit={"verdict": verdict}, seed=k) for k, verdict in enumerate(("reliable", "suspicious"))
    ]
    header, _, *rows = lines([*audited, changed(seed=2)])[1:]
    assert header.split("|")[7].strip() == "audit"
    assert [row.split("|")[7].strip() for row in rows] == ["reliable", "suspicious", "not audited"]


def test_conditions_are_not_mixed() -> None:
    other = copy.deepcopy(RECORD)
    other["recipe"]["optim"]["epochs"] = 10
    assert len(summary_tables([RECORD, other])) == 2


def test_unfinished_and_collapsed_runs_are_named() -> None:
    text = "\n".join(lines([changed(collapsed=1), changed(status="failed", seed=1)]))
    assert "collapsed to class dog" in text
    assert "failed" in text
    assert text.count("63.11") == 1


def test_records_are_found_below(tmp_path) -> None:
    for name in ("a", "b/c"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "record.json").write_text(json.dumps(RECORD))
    assert len(find_records([tmp_path])) == 2
    (tmp_path / "a" / "record.json").write_text("{")
    with pytest.raises(UserError, match="its record is damaged"):
        find_records([tmp_path])


def test_a_narrow_terminal_keeps_the_methods_names() -> None:
    console = Console(width=80, record=True, quiet=True)
    with console.capture() as capture:
        console.quiet = False
        for _, table in summary_tables([changed(), changed(method="cb-reweight")]):
            console.print(table)
    assert "| srat-ldam " in capture.get()
    assert "| cb-reweight " in capture.get()
