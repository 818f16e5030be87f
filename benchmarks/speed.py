"""Result rows as Markdown: rows of one device enter; tables of training and of kernels leave, the machine below."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from benchmarks.rows import Row, latest

Columns = dict[str, Callable[[Row], str]]


def _ratio(row: Row) -> str:
    median, (low, high) = row["ratio"]["median"], row["ratio"]["quartiles"]
    other = f", method {row['reference_method']}" if row.get("reference_method") != row.get("method") else ""
    return f"{median:.2f} ({low:.2f} to {high:.2f}) x {row['reference']}{other}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _bytes(value: int | None) -> str:
    return "-" if value is None else f"{value / 2**20:,.1f} MiB"


TRAINING: Columns = {
    "part": lambda row: row["op"],
    "method": lambda row: row.get("method", "-"),
    "batch": lambda row: str(row["batch"]),
    "width": lambda row: str(row.get("width", "-")),
    "PGD steps": lambda row: str(row.get("steps", "-")),
    "attack_bn": lambda row: row.get("bn", "-"),
    "precision": lambda row: row.get("precision", "-"),
    "implementation": lambda row: row["implementation"],
    "images/s": lambda row: f"{row['images_per_second']:,.0f}",
    "speedup, median (quartiles)": _ratio,
    "MFU": lambda row: _share(row["mfu"]),
    "peak memory": lambda row: _bytes(row.get("peak_bytes")),
}
KERNELS: Columns = {
    "op": lambda row: row["op"],
    "mode": lambda row: row["mode"],
    "launch": lambda row: row["launch"],
    "B, D, C": lambda row: f"{row['batch']}, {row['dims']}, {row['classes']}",
    "implementation": lambda row: row["implementation"],
    "microseconds": lambda row: f"{row['microseconds']['median']:,.1f}",
    "speedup, median (quartiles)": _ratio,
    "peak memory": lambda row: _bytes(row["peak_bytes"]),
}


def speed_tables(rows: Iterable[Row]) -> str:
    """Markdown of everything that has a ratio, the last measurement of each kind.

    Args:
        rows: of one device's file.

    Raises:
        ValueError: there is nothing to show: a block in README.md must not be empty.
    """
    kinds = latest(rows)
    training = [row for row in kinds if "ratio" in row and "mfu" in row]
    kernels = [row for row in kinds if "ratio" in row and "launch" in row]
    timed = training + kernels  # other comparisons have tables of their own (tables.py)
    if not timed:
        raise ValueError("no measured ratio in these results")
    parts = [
        _table(columns, chosen)
        for columns, chosen in (
            (TRAINING, training),
            (KERNELS, kernels),
        )
        if chosen
    ]
    hosts = [
        f"Host-bound share of a step (batch {row['batch']}): {row['host_share']:.1%}."
        for row in kinds
        if row["op"] == "profile"
    ]
    return "\n\n".join(
        [*parts, *hosts, f"Measured on {'; '.join(dict.fromkeys(machine_line(row) for row in timed))}."]
    )


def _table(columns: Columns, rows: list[Row]) -> str:
    lines = [
        list(columns),
        ["---"] * len(columns),
        *([cell(row) for cell in columns.values()] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine_line(row: Row) -> str:
    """Device, limits and versions of a row in words."""
    named = [
        ("power limit", "power_limit"),
        ("torch", "torch"),
        ("triton", "triton"),
        ("driver", "driver"),
        ("commit", "commit"),
    ]
    return ", ".join([row["device"], *(f"{name} {row[key]}" for name, key in named if row.get(key))])
