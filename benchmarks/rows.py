"""The result files: rows (dictionaries) enter, lines of benchmarks/results/<device>.jsonl leave, and back.

Needs the standard library only, so that README.md can be made anew on any machine.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
RESULTS = Path(__file__).resolve().parent / "results"
#: What tells one measurement from another; a later row with the same values replaces an earlier one in tables.
KEY = (
    "op", "mode", "launch", "method", "batch", "dims", "classes", "width", "steps", "bn", "precision",
    "attack", "trials", "mps", "epochs", "pixels", "implementation", "reference",
)  # fmt: skip
#: Folders whose code decides what a row says.
SOURCES = ("srat_fast", "kernels", "benchmarks")


def source_digest(root: Path = RESULTS.parents[1]) -> str:
    """Which code made a row, also where there is no git: 12 hex digits over every Python file of `SOURCES`.

    Args:
        root: of the repository.
    """
    digest = hashlib.sha256()
    for path in sorted(path for folder in SOURCES for path in (root / folder).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def path_for(folder: Path, device: str) -> Path:
    """The file of a device: "NVIDIA H200" -> nvidia-h200.jsonl."""
    return folder / (re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + ".jsonl")


def append(path: Path, row: Row) -> None:
    """Add one line; the file is complete after each, whatever happens to the next measurement."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read(path: Path) -> list[Row]:
    """Every row of a file; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def latest(rows: Iterable[Row]) -> list[Row]:
    """The last measurement of each kind, in the order in which the kinds first appeared; stage rows are left out."""
    found: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        if row["op"] != "stage":
            found[tuple(row.get(name) for name in KEY)] = row
    return list(found.values())
