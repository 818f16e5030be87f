"""Writes README.md's result tables from committed results: `python benchmarks/readme.py` (`--check` only compares).

Each table stands between `<!-- results:NAME -->` (made from benchmarks/results/runs/NAME) or `<!-- speed:DEVICE -->`
(made from benchmarks/results/DEVICE.jsonl) and `<!-- end -->`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from rich.console import Console

from srat_fast.report.table import find_records, summary_tables

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]  # a script's own folder is on the path, the repository's root is not

from benchmarks.rows import RESULTS, read  # noqa: E402
from benchmarks.speed import speed_tables  # noqa: E402


def table(name: str, results: Path) -> str:
    """The Markdown tables of one folder of records, with the hardware and speed of each run below."""
    records = find_records([results / "runs" / name])
    console = Console(width=400, color_system=None, force_terminal=False)
    with console.capture() as capture:
        for title, rows in summary_tables(records):
            console.print(title, soft_wrap=True)
            console.print(rows)
    text = "\n".join(line.rstrip() for line in capture.get().strip().splitlines())
    speeds = ", ".join(
        f"{r['recipe']['method']} {r['images_per_second']:,.0f} training images/s, {r['seconds']['total']:.0f} s in all"
        for r in records
    )
    devices = sorted({f"{r['device']}, torch {r['versions']['torch']}" for r in records})
    return f"{text}\n\nMeasured on {'; '.join(devices)}: {speeds}."


def rendered(text: str, results: Path = RESULTS) -> str:
    """README.md's text with every table made anew."""
    kinds = {
        "results": lambda name: table(name, results),
        "speed": lambda name: speed_tables(read(results / f"{name}.jsonl")),
    }
    pattern = re.compile(r"(<!-- (results|speed):([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
    return pattern.sub(lambda m: f"{m[1]}\n{kinds[m[2]](m[3])}\n\n{m[4]}", text)


def main() -> int:
    """Write the tables, or with --check say whether they are up to date."""
    readme = ROOT / "README.md"
    old = readme.read_text(encoding="utf-8")
    new = rendered(old)
    if "--check" in sys.argv[1:]:
        return int(old != new)
    readme.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
