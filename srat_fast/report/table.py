"""The summary for a terminal and for Markdown pages: groups of runs enter, tables in the paper's layout leave."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.table import Table

from srat_fast.report.groups import Group
from srat_fast.report.summary import HEADINGS, texts


def summary_tables(groups: Iterable[Group]) -> list[tuple[str, Table]]:
    """One table a group, methods in the paper's order, seeds of one recipe in one row; accuracies in percent.

    Args:
        groups: as `srat_fast.report.groups.group_runs` gives them.

    Returns:
        (title, table) pairs. A row without a finished run has a note in place of numbers; `audit` is the verdict of
        `srat-fast audit`, or that there was none; notes have a column where there are any.
    """
    tables = []
    for group in groups:
        table = Table(box=box.MARKDOWN)
        # on a narrow terminal the method's name stays readable, and a variant's fields are folded below it
        table.add_column("method", min_width=max(len(row.method) for row in group.rows), overflow="fold")
        table.add_column("seeds")
        for name in HEADINGS:
            table.add_column(name, justify="right")
        table.add_column("audit", min_width=len("suspicious"))
        rows = [texts(row) for row in group.rows]
        noted = any(cells[-1] for cells in rows)
        if noted:
            table.add_column("note")
        for cells in rows:
            table.add_row(*(cells if noted else cells[:-1]))
        tables.append((group.title, table))
    return tables
