"""A measurement on one page: rows of one device enter; Markdown, or a table on the terminal, leaves."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from benchmarks.goals import judged
from benchmarks.rows import Row
from benchmarks.speed import machine_line
from benchmarks.tables import TABLES, table


def goals_for_the_eye(rows: list[Row]) -> None:
    """Print the goals.

    Args:
        rows: of one source and device.
    """
    found = Table("goal", "measured", "met?")
    for line in judged(rows):
        found.add_row(*line)
    Console().print(found)


def summary(rows: list[Row]) -> str:
    """Everything that was measured, goals first, and how each stage ended.

    Args:
        rows: of one source and device.
    """
    parts = ["# Measured"]
    if rows:
        parts.append(f"{'; '.join(dict.fromkeys(machine_line(row) for row in rows))}.")
    for title, make in TABLES.values():
        if text := make(rows):
            parts.append(f"## {title}\n\n{text}")
    stages = {row["name"]: row for row in rows if row["op"] == "stage"}
    lines = ([name, row["status"], f"{row['seconds']:.0f}"] for name, row in stages.items())
    parts.append(f"## Stages\n\n{table(['stage', 'ended', 'seconds'], lines)}")
    return "\n\n".join(parts) + "\n"
