"""The paper's table layout: records of runs enter, standard / robust x overall / under leaves."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from srat_fast.errors import UserError
from srat_fast.methods import METHODS
from srat_fast.record import RECORD, audit_verdict


def find_records(directories: Iterable[Path]) -> list[dict[str, Any]]:
    """Records of the given runs, and of the runs below the given folders.

    Args:
        directories: run directories, or folders that hold some.

    Returns:
        The content of each record.json, in path order.

    Raises:
        UserError: a directory holds no run, or a record is damaged.
    """
    records = []
    for directory in directories:
        paths = sorted(directory.rglob(RECORD))
        if not paths:
            raise UserError("DIR", "holds no run (no record.json at or below it)", str(directory))
        for path in paths:
            try:
                records.append(json.loads(path.read_text(encoding="utf-8")))
            except ValueError:
                raise UserError("DIR", "its record is damaged", str(path)) from None
    return records


def _conditions(record: dict[str, Any]) -> str:
    """What must be equal for two runs to stand in one table."""
    recipe = record["recipe"]
    data, attack = recipe["data"], recipe["eval_attack"]
    shape = (
        data["imbalance"] if data["imbalance"] == "none" else f"{data['imbalance']}, ratio {data['ratio']:g}"
    )
    return (
        f"{data['name']} ({shape}; {sum(record['counts'])} training, {record['test_images']} test images), "
        f"{recipe['optim']['epochs']} epochs, robust = PGD-{attack['steps']} at eps {attack['epsilon']:.4g}"
    )


def _note(record: dict[str, Any]) -> str:
    if record["status"] != "finished":
        return str(record["status"])
    if record["collapsed"] is not None:
        return f"collapsed to class {record['classes'][record['collapsed']]}"
    return ""


def summary_tables(records: Iterable[dict[str, Any]]) -> list[tuple[str, Table]]:
    """One table for each set of conditions, methods in the paper's order; accuracies in percent.

    Args:
        records: as `find_records` gives them.

    Returns:
        (title, table) pairs. A run that did not finish has a note in place of numbers; `audit` is the verdict of
        `srat-fast audit`, or that there was none.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(_conditions(record), []).append(record)
    order = list(METHODS)
    tables = []
    for title, runs in groups.items():
        table = Table(box=box.MARKDOWN)
        table.add_column("method", no_wrap=True)  # of a narrow terminal's cells, this one must stay readable
        table.add_column("seed")
        for name in ("standard", "standard under", "robust", "robust under"):
            table.add_column(name, justify="right")
        table.add_column("audit")
        table.add_column("note")
        for run in sorted(runs, key=lambda r: (order.index(r["recipe"]["method"]), r["recipe"]["seed"])):
            cells = ["-"] * 4
            if run["status"] == "finished":
                cells = [
                    f"{100 * run[kind][part]:.2f}"
                    for kind in ("standard", "robust")
                    for part in ("overall", "under")
                ]
            table.add_row(
                run["recipe"]["method"], str(run["recipe"]["seed"]), *cells, audit_verdict(run), _note(run)
            )
        tables.append((title, table))
    return tables
