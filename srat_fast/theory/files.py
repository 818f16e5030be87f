"""What `srat-fast theory --out DIR` leaves: settings and results enter; JSON, CSV tables and figures leave."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from srat_fast.errors import UserError
from srat_fast.figures.canvas import save
from srat_fast.record import plain_json, versions, write_atomically
from srat_fast.theory.claims import Checked
from srat_fast.theory.drawing import draw
from srat_fast.theory.settings import Settings


def as_json(settings: Settings, checked: Checked) -> dict[str, Any]:
    """Everything but the simulated histograms, as plain values.

    Args:
        settings: as asked.
        checked: what `claims.check` gave.

    Returns:
        {"settings", "claims", "lemma", "errors", "ranges", "grid", "as_expected", "versions"}.
    """
    return plain_json(
        {
            "settings": asdict(settings),
            "claims": [asdict(claim) for claim in checked.claims],
            "lemma": checked.lemma,
            "errors": checked.errors,
            "ranges": checked.ranges,
            "grid": [asdict(row) for row in checked.grid],
            "as_expected": checked.as_expected,
            "versions": versions(),
        }
    )


def _csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def make_folder(folder: Path) -> None:
    """The directory of the files, before the work whose result it will hold.

    Args:
        folder: created where it is not there.

    Raises:
        UserError: it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError("--out", f"cannot be written: {error.strerror}", str(folder)) from None


def write(settings: Settings, checked: Checked, folder: Path) -> list[Path]:
    """Write theory.json, a CSV file for each table, and each figure as SVG and PNG.

    Args:
        settings: as asked.
        checked: what `claims.check` gave.
        folder: as `make_folder` left it; files of the same names are replaced.

    Returns:
        The files.

    Raises:
        UserError: a file cannot be written.
    """
    content = as_json(settings, checked)
    files = {"theory.json": (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()}
    files |= {f"{name}.csv": _csv(content[name]) for name in ("claims", "lemma", "errors", "ranges", "grid")}
    try:
        for name, data in files.items():
            write_atomically(folder / name, data)
    except OSError as error:
        raise UserError("--out", f"cannot be written: {error.strerror}", str(folder)) from None
    pictures = [
        save(drawn, folder / f"{stem}{suffix}", "--out")
        for stem, drawn in draw(settings, checked).items()
        for suffix in (".svg", ".png")
    ]
    return [*(folder / name for name in files), *pictures]
