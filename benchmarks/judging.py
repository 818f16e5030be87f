"""Tables of what judging the demo's runs found: committed records enter, Markdown leaves. Imports no torch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from srat_fast.record import audit_verdict


def read(run: Path) -> dict[str, Any]:
    """A run's record."""
    return json.loads((run / "record.json").read_text(encoding="utf-8"))


def audit_table(run: Path) -> str:
    """Every check of a run's audit, with its verdict in one line below."""
    record = read(run)
    report = record["audit"]
    lines = ["| check | verdict | found |", "|---|---|---|"]
    lines += [f"| {c['name']} | {c['verdict']} | {c['found']} |" for c in report["checks"]]
    failed = ", ".join(check["name"] for check in report["checks"] if check["verdict"] == "failed")
    verdict = audit_verdict(record) + (f": {failed}" if failed else "")
    attack = report["attack"]
    method = record["recipe"]["method"]
    of = f"`{method}`, {attack['name']} at eps {attack['epsilon']:g}, {report['subset']} test images"
    return "\n".join([*lines, "", f"{of}, on {report['device']}: **{verdict}**."])


def attacks_of(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Rows of all evaluations of the last epoch on all test images at the run's radius; later ones replace earlier."""
    radius, rows = record["recipe"]["eval_attack"]["epsilon"], {}
    for entry in record.get("evaluations", []):
        if entry.get("weights", "last") == "last":
            for name, row in entry["attacks"].items():
                if row["images"] == record["test_images"] and row.get("epsilon", radius) == radius:
                    rows[name] = row
    return rows


def _order(name: str) -> tuple[int, str, list[float]]:
    """Clean first, AutoAttack last, between them by kind and numbers."""
    kind, _, numbers = name.partition("-")
    place = {"clean": 0, "autoattack": 2}.get(name, 1)
    return place, kind.replace("pgd", "a"), [float(n) for n in re.findall(r"[0-9.]+", numbers)]


def attack_table(runs: list[Path]) -> str:
    """Attacks by methods: overall and under accuracy in percent with the overall 95 % interval."""
    found = {r["recipe"]["method"]: attacks_of(r) for r in map(read, runs)}
    names = sorted({name for rows in found.values() for name in rows if name != "worst-case"}, key=_order)
    lines = [
        "| attack | " + " | ".join(f"{m} | {m}, under" for m in found) + " |",
        "|---|" + "--:|--:|" * len(found),
    ]
    for name in names:
        cells = []
        for rows in found.values():
            row = rows.get(name)
            if row is None:
                cells += ["-", "-"]
                continue
            low, high = row["intervals"]["overall"]
            cells += [
                f"{100 * row['overall']:.1f} [{100 * low:.1f}, {100 * high:.1f}]",
                f"{100 * row['under']:.1f}",
            ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
