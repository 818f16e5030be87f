"""`srat-fast report DIR...`: tables, figures and one HTML page of runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def report(
    directories: Annotated[
        list[Path], typer.Argument(help="Run directories, sweeps, or folders of them.", metavar="DIR...")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Where report.html, tables and figures go.", show_default="DIR/report"),
    ] = None,
    all_figures: Annotated[
        bool, typer.Option("--all-figures", help="Every figure, also of more than 200 runs.")
    ] = False,
    print_only: Annotated[
        bool, typer.Option("--print-only", help="Print the tables, write nothing.")
    ] = False,
) -> None:
    """Tables, figures and one HTML page of runs. As Markdown, CSV and LaTeX, SVG and PNG, and report.html."""
    from srat_fast.console import Console
    from srat_fast.report.collect import find_runs
    from srat_fast.report.groups import group_runs
    from srat_fast.report.summary import summary_tables
    from srat_fast.tables import visible

    console = Console()
    damaged: list[str] = []
    runs = find_runs(directories, damaged)
    for line in damaged:
        print("warning: " + visible(line), file=sys.stderr)
    for title, table in summary_tables(group_runs(runs)):
        console.say(title)
        console.print(table)
    if print_only:
        return

    from srat_fast.report.build import PAGE, build_report

    made = build_report(directories, out, all_figures=all_figures)
    console.say(f"{len(made.figures)} figures, {made.directory / PAGE}")
    if made.left_out:
        console.say(f"{made.left_out} more figures with --all-figures")
    if made.missing:
        console.say(f"{len(made.missing)} figures of the paper need other runs: the page says which")
