"""Writes the result tables of README.md and docs/ from committed results (`--check` only compares).

Each table stands between `<!-- results:NAME -->` (made from benchmarks/results/runs/NAME), `<!-- audit:NAME/RUN -->`,
`<!-- attacks:NAME -->` (their audits and evaluations), `<!-- speed:DEVICE -->` (made from
benchmarks/results/DEVICE.jsonl), `<!-- gpu:TABLE -->` (of `tables.TABLES`, from every file of a GPU there) or
`<!-- photographs:TABLE -->` (of `photographs.TABLES`) and `<!-- end -->`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from rich.console import Console

from srat_fast.report.collect import find_runs
from srat_fast.report.groups import group_runs
from srat_fast.report.summary import summary_tables

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]  # a script's own folder is on the path, the repository's root is not

from benchmarks import photographs  # noqa: E402
from benchmarks.judging import attack_table, audit_table  # noqa: E402
from benchmarks.rows import RESULTS, read  # noqa: E402
from benchmarks.speed import machine_line, speed_tables  # noqa: E402
from benchmarks.tables import TABLES  # noqa: E402


def table(name: str, results: Path) -> str:
    """The Markdown tables of one folder of records, with the hardware and speed of each run below."""
    runs = find_runs([results / "runs" / name])
    records = [run.record for run in runs]
    console = Console(width=400, color_system=None, force_terminal=False)
    with console.capture() as capture:
        for title, rows in summary_tables(group_runs(runs)):
            console.print(title, soft_wrap=True)
            console.print(rows)
    text = "\n".join(line.rstrip() for line in capture.get().strip().splitlines())
    speeds = ", ".join(
        f"{r['recipe']['method']} {r['images_per_second']:,.0f} training images/s, {r['seconds']['total']:.0f} s in all"
        for r in records
    )
    devices = sorted({f"{r['device']}, torch {r['versions']['torch']}" for r in records})
    return f"{text}\n\nMeasured on {'; '.join(devices)}: {speeds}."


def gpu_table(name: str, results: Path) -> str:
    """A table of each GPU that was measured, with the machine below; a sentence where there is none.

    Args:
        name: a key of `tables.TABLES`.
        results: folder of the results.
    """
    parts = []
    for path in sorted(results.glob("*.jsonl")):
        rows = read(path)
        if rows and not rows[0]["device"].startswith("cpu") and (text := TABLES[name][1](rows)):
            machines = "; ".join(dict.fromkeys(machine_line(row) for row in rows))
            parts.append(f"{text}\n\nMeasured on {machines}.")
    return "\n\n".join(parts) or "Not measured on a GPU yet."


def rendered(text: str, results: Path = RESULTS) -> str:
    """A page's text with every table made anew."""
    kinds = {
        "results": lambda name: table(name, results),
        "audit": lambda name: audit_table(results / "runs" / name),
        "attacks": lambda name: attack_table(
            sorted(p.parent for p in (results / "runs" / name).glob("*/record.json"))
        ),
        "speed": lambda name: speed_tables(read(results / f"{name}.jsonl")),
        "gpu": lambda name: gpu_table(name, results),
        "photographs": lambda name: photographs.lines(name, results / "sweeps" / "photographs"),
    }
    pattern = re.compile(
        r"(<!-- (results|audit|attacks|speed|gpu|photographs):([\w/-]+) -->\n).*?(<!-- end -->)", re.DOTALL
    )
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
