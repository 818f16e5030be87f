"""docs/evaluation.md names every attack and every check that there is, and no other."""

from __future__ import annotations

import json
import re
from pathlib import Path

from benchmarks.tables import attack_table, attacks_of, audit_table
from srat_fast.attacks.autoattack import FEWEST_CLASSES
from srat_fast.attacks.named import named_attack

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
RUNS = ROOT / "benchmarks" / "results" / "runs" / "demo"


def rows(title: str) -> list[str]:
    """First cells of the table whose header begins with `title`."""
    table = PAGE[PAGE.index(f"| {title} |") :].split("\n\n")[0].splitlines()[2:]
    return [line.split("|")[1].strip() for line in table]


def test_every_attack_is_described() -> None:
    named = re.findall(r"`([a-zKRS@0-9-]+)`", " ".join(rows("name")))
    for name in named:
        spelled = name.replace("K", "20").replace("R", "2").replace("S", "30")
        if spelled not in (*FEWEST_CLASSES, "autoattack"):
            assert (
                named_attack(spelled, threat_model="linf", epsilon=0.1, step_size=0.02, classes=10).name
                == spelled
            )
    assert {"autoattack", *FEWEST_CLASSES} <= set(named)


def test_every_check_is_described() -> None:
    for run in ("ce", "srat-ldam"):
        report = json.loads((RUNS / run / "record.json").read_text())["audit"]
        assert rows("check") == [check["name"] for check in report["checks"]]


def test_tables_of_records() -> None:
    audit = audit_table(RUNS / "srat-ldam")
    assert audit.count("\n| ") == 20
    table = attack_table([RUNS / "ce", RUNS / "srat-ldam"]).splitlines()
    of = "{0} | {0}, under | {0}, worst class".format
    assert table[0] == f"| attack | {of('ce')} | {of('srat-ldam')} |"
    record = json.loads((RUNS / "ce" / "record.json").read_text())
    assert attacks_of(record)["pgd-20"]["overall"] == record["robust"]["overall"]
    first = record | {"evaluations": [{"attacks": {"fgsm": {"images": 500, "epsilon": 0.2}}}]}
    assert attacks_of(first) == {}, "another radius"
