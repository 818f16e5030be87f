"""Accuracies as tables that are valid Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from srat_fast.tables import Cell, Table, percent

#: Intervals stand in a table of classes with at most this many columns of accuracies; the record has them all.
_INTERVAL_COLUMNS = 3


def accuracy_table(rows: dict[str, dict[str, Any]]) -> Table:
    """Overall, well and under of each row, each with its 95 % interval where the row has one.

    Args:
        rows: name -> accuracies.

    Returns:
        A table in percent.
    """
    table = Table("accuracy, %", "overall", "well", "under", right=(1, 2, 3))
    for name, values in rows.items():
        cells: list[Cell] = []
        for part in ("overall", "well", "under"):
            low_high = (values.get("intervals") or {}).get(part)
            cells.append((percent(values[part]), interval(low_high) if low_high else ""))
        table.add(name, *cells)
    return table


def interval(low_high: Sequence[float]) -> str:
    """A confidence interval in percent.

    Args:
        low_high: fractions.

    Returns:
        Such as " [59.5, 66.6]".
    """
    return f" [{100 * low_high[0]:.1f}, {100 * low_high[1]:.1f}]"


def per_class_table(rows: dict[str, dict[str, Any]], classes: Sequence[str], counts: Sequence[int]) -> Table:
    """One line a class, with 95 % intervals where a row has them and there is room.

    Args:
        rows: name -> accuracies with `per_class`.
        classes: names.
        counts: training images.

    Returns:
        A table in percent.
    """
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
    """One line a check.

    Args:
        report: as `srat_fast.evaluation.audit.audit` gives it.

    Returns:
        A table: check, verdict, figure, threshold, and the figure in words.
    """
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
