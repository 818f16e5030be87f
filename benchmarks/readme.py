"""Writes the result tables of README.md and docs/ from committed results (`--check` only compares).

Each table stands between `<!-- results:NAME -->` (made from benchmarks/results/runs/NAME), `<!-- audit:NAME/RUN -->`,
`<!-- attacks:NAME -->` (their audits and evaluations), `<!-- gpu:TABLE -->` (of `tables.TABLES`, from every file of a
GPU there) or `<!-- photographs:TABLE -->` (of `photographs.TABLES`) and `<!-- end -->`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from benchmarks import photographs
from benchmarks.rows import RESULTS, ROOT, read
from benchmarks.tables import TABLES, attack_table, audit_table, measured_on
from srat_fast.report.collect import find_runs
from srat_fast.report.groups import group_runs
from srat_fast.report.summary import summary_tables


def runs_table(name: str, results: Path) -> str:
    """The tables of one folder of records, with the hardware and speed of each run below."""
    runs = find_runs([results / "runs" / name])
    records = [run.record for run in runs]
    parts = [
        f"{title}\n\n" + "\n".join(table.lines(400)) for title, table in summary_tables(group_runs(runs))
    ]
    speeds = ", ".join(
        f"{r['recipe']['method']} {r['images_per_second']:,.0f} training images/s, {r['seconds']['total']:.0f} s in all"
        for r in records
    )
    devices = sorted({f"{r['device']}, torch {r['versions']['torch']}" for r in records})
    return "\n\n".join([*parts, f"Measured on {'; '.join(devices)}: {speeds}."])


def gpu_table(name: str, results: Path) -> str:
    """A table of each GPU that was measured, with the machine below; a sentence where there is none."""
    parts = []
    for path in sorted(results.glob("*.jsonl")):
        rows = read(path)
        if rows and not rows[0]["device"].startswith("cpu") and (text := TABLES[name][1](rows)):
            parts.append(f"{text}\n\n{measured_on(rows)}")
    return "\n\n".join(parts) or "Not measured on a GPU yet."


def rendered(text: str, results: Path = RESULTS) -> str:
    """A page's text with every table made anew."""
    kinds = {
        "results": lambda name: runs_table(name, results),
        "audit": lambda name: audit_table(results / "runs" / name),
        "attacks": lambda name: attack_table(
            sorted(p.parent for p in (results / "runs" / name).glob("*/record.json"))
        ),
        "gpu": lambda name: gpu_table(name, results),
        "photographs": lambda name: photographs.lines(name, results / "sweeps" / "photographs"),
    }
    pattern = re.compile(rf"(<!-- ({'|'.join(kinds)}):([\w/-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
    return pattern.sub(lambda m: f"{m[1]}\n{kinds[m[2]](m[3])}\n\n{m[4]}", text)


def main() -> int:
    """Write the tables, or with --check say which page is out of date."""
    stale = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        old = page.read_text(encoding="utf-8")
        new = rendered(old)
        if old != new:
            stale.append(page.name)
            if "--check" not in sys.argv[1:]:
                page.write_text(new, encoding="utf-8")
    if stale and "--check" in sys.argv[1:]:
        print("out of date: " + ", ".join(stale), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
