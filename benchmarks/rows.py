"""The result files, benchmarks/results/<device>.jsonl: one row a measurement, one schema.

A row has "op", device and versions, the fields of `KEY` that apply to it and what was measured. What is compared names
"implementation" and "reference" and has "ratio", median and quartiles of time of the reference / time of the
implementation. Needs the standard library only, so that README.md can be made anew on any machine.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
#: Small sizes say nothing about speed: their rows stay apart.
SMALL_RESULTS = ROOT / "build" / "small"
OUT = "benchmarks/results/ (of --small: build/small/)"
#: What tells one measurement from another; a later row with the same values replaces an earlier one in tables.
KEY = (
    "op", "mode", "launch", "method", "batch", "dims", "classes", "width", "steps", "bn", "precision", "search",
    "attack", "trials", "mps", "epochs", "pixels", "implementation", "reference",
)  # fmt: skip
#: What every row says of the machine.
ABOUT = ("device", "torch", "commit")
#: Folders whose code decides what a row says.
SOURCES = ("srat_fast", "kernels", "benchmarks")


def problem(row: Row) -> str:
    """What the schema has against a row; "" where it is one."""
    if missing := [name for name in ("op", *ABOUT) if name not in row]:
        return f"no {', '.join(missing)}"
    if "ratio" in row:
        if missing := [name for name in ("implementation", "reference") if name not in row]:
            return f"a ratio without {', '.join(missing)}"
        if set(row["ratio"]) != {"median", "quartiles"} or len(row["ratio"]["quartiles"]) != 2:
            return "a ratio is a median and two quartiles"
    return ""


def source_digest(root: Path = ROOT) -> str:
    """Which code made a row, also where there is no git: 12 hex digits over every Python file of `SOURCES`."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in SOURCES for path in (root / folder).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def path_for(folder: Path, device: str) -> Path:
    """The file of a device: "NVIDIA H200" -> nvidia-h200.jsonl."""
    return folder / (re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + ".jsonl")


def append(path: Path, row: Row) -> None:
    """Add one line; the file is complete after each, whatever happens to the next measurement."""
    if text := problem(row):
        raise ValueError(f"{row.get('op', 'row')}: {text}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read(path: Path) -> list[Row]:
    """Every row of a file; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines() if text.strip()]


def latest(rows: Iterable[Row]) -> list[Row]:
    """The last measurement of each kind, in the order in which the kinds first appeared; questions are left out."""
    found: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        if row["op"] != "stage":
            found[tuple(row.get(name) for name in KEY)] = row
    return list(found.values())


def line(row: Row) -> str:
    """A row for the eye."""
    shown = (
        "mode",
        "launch",
        "attack",
        "trials",
        "batch",
        "dims",
        "classes",
        "width",
        "bn",
        "precision",
        "search",
    )
    text = " ".join([row["op"], *(f"{name}={row[name]}" for name in shown if row.get(name) is not None)])
    facts = [row["implementation"]] if "implementation" in row else []
    units = {
        "images_per_second": "images/s", "wall_seconds": "s in all", "host_share": "of the time the host's",
        "passed": "passed", "failed": "failed", "refused": "refused",
    }  # fmt: skip
    facts += [f"{row[name]:,} {unit}" for name, unit in units.items() if row.get(name) is not None]
    if "ratio" in row:
        facts.append(f"{row['ratio']['median']:.2f} {row['ratio']['quartiles']} x {row['reference']}")
    figures = (f"{name} {row[name]:.4g}" for name in row if isinstance(row[name], float))
    return f"{text}: {', '.join(facts or figures)}"
