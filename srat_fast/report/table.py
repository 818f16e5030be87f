"""The summary for a terminal and for Markdown pages: groups of runs enter, tables in the paper's layout leave."""

from __future__ import annotations

from collections.abc import Iterable

from srat_fast.report.groups import Group
from srat_fast.report.summary import HEADINGS, paper_texts, texts
from srat_fast.tables import Table

#: What a narrow terminal does without, first to last: the robust accuracies stand with their audit.
_SPARE = ("note", "seeds", "standard under", "standard", "robust")


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
        rows = [cells for row in group.rows for cells in (texts(row), paper_texts(row)) if cells]
        noted = any(cells[-1] for cells in rows)
        heads = ["method", "seeds", *HEADINGS, "audit", *(["note"] if noted else [])]
        table = Table(*heads, right=range(2, 2 + len(HEADINGS)), spare=_SPARE)
        for cells in rows:
            table.add(*(cells if noted else cells[:-1]))
        tables.append((group.title, table))
    return tables
