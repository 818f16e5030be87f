"""Accuracies as tables: dictionaries of fractions enter, tables that are valid Markdown leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table


def percent(value: float | None) -> str:
    """A fraction as a percentage with two decimals.

    Args:
        value: in [0, 1]; None or NaN where there is nothing to measure.

    Returns:
        Such as "63.11", or "-".
    """
    return "-" if value is None or value != value else f"{100 * value:.2f}"


def accuracy_table(rows: dict[str, dict[str, Any]]) -> Table:
    """Overall, well and under of each row.

    Args:
        rows: name -> accuracies.

    Returns:
        A table in percent.
    """
    table = Table("accuracy, %", "overall", "well", "under", box=box.MARKDOWN)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, values in rows.items():
        table.add_row(name, *(percent(values[part]) for part in ("overall", "well", "under")))
    return table


def per_class_table(rows: dict[str, dict[str, Any]], classes: Sequence[str], counts: Sequence[int]) -> Table:
    """One line a class.

    Args:
        rows: name -> accuracies with `per_class`.
        classes: names.
        counts: training images.

    Returns:
        A table in percent.
    """
    table = Table("class", "training images", *rows, box=box.MARKDOWN)
    for column in table.columns[1:]:
        column.justify = "right"
    for c, (name, count) in enumerate(zip(classes, counts, strict=True)):
        table.add_row(name, str(count), *(percent(values["per_class"][c]) for values in rows.values()))
    return table
