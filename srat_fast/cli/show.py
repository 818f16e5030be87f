"""Accuracies as tables that are valid Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from srat_fast.record import worst_class
from srat_fast.tables import Cell, Table, percent

#: Intervals stand in a table of classes with at most this many columns of accuracies; the record has them all.
_INTERVAL_COLUMNS = 3


def accuracy_table(rows: dict[str, dict[str, Any]]) -> Table:
    """Overall, well, under and worst class of each row (name -> accuracies), with 95 % intervals where it has them."""
    known = {"overall": "overall", "well": "well", "under": "under", "worst": "worst class"}
    parts = {
        part: head for part, head in known.items() if any(part in v or part == "worst" for v in rows.values())
    }
    table = Table("accuracy, %", *parts.values(), right=range(1, 1 + len(parts)))
    for name, values in rows.items():
        cells: list[Cell] = []
        for part in parts:
            low_high = (values.get("intervals") or {}).get(part)
            value = values.get(part, worst_class(values))  # records of earlier versions lack the worst
            cells.append((percent(value), interval(low_high) if low_high else ""))
        table.add(name, *cells)
    return table


def interval(low_high: Sequence[float]) -> str:
    """A confidence interval in percent, such as " [59.5, 66.6]"."""
    return f" [{100 * low_high[0]:.1f}, {100 * low_high[1]:.1f}]"


def per_class_table(rows: dict[str, dict[str, Any]], classes: Sequence[str], counts: Sequence[int]) -> Table:
    """One line a class, a column each of `rows` (name -> accuracies), with 95 % intervals where there is room."""
    table = Table(
        "class", "training images", *rows, right=range(1, 2 + len(rows)), spare=("training images",)
    )
    roomy = len(rows) <= _INTERVAL_COLUMNS
    for c, (name, count) in enumerate(zip(classes, counts, strict=True)):
        cells: list[Cell] = []
        for values in rows.values():
            pairs = (values.get("intervals") or {}).get("per_class")
            cells.append((percent(values["per_class"][c]), interval(pairs[c]) if pairs and roomy else ""))
        table.add(name, str(count), *cells)
    return table


def audit_table(report: dict[str, Any]) -> Table:
    """One line a check of an audit: verdict, figure, threshold, and the figure in words."""
    table = Table("check", "verdict", "figure", "at most", "found", right=(2, 3))
    for check in report["checks"]:
        numbers = ["-" if check[key] is None else f"{check[key]:.2g}" for key in ("figure", "threshold")]
        table.add(check["name"], check["verdict"], *numbers, check["found"])
    return table


def rows_table(rows: Sequence[dict[str, Any]], *, spare: Sequence[str] = ()) -> Table:
    """Rows of equal keys, at least one; numbers get six digits, None and NaN are "-"."""

    def cell(value: object) -> str:
        if value is None or (isinstance(value, float) and value != value):
            return "-"
        return f"{value:.6g}" if isinstance(value, float) else str(value)

    return Table(*rows[0], rows=[[cell(value) for value in row.values()] for row in rows], spare=spare)
