"""`srat-fast report DIR...`: run directories enter, one table of accuracies leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    directories: Annotated[
        list[Path], typer.Argument(help="Run directories, or folders of them.", metavar="DIR...")
    ],
) -> None:
    """One table a data set: standard and robust accuracy, overall and under-represented."""
    from rich.console import Console

    from srat_fast.report.table import find_records, summary_tables

    console = Console()
    for title, table in summary_tables(find_records(directories)):
        console.print(title, highlight=False, soft_wrap=True)
        console.print(table)
