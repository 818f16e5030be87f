"""Writes the results of docs/explanation/paper.md from committed runs (`--check` only compares).

They stand between `<!-- paper -->` and `<!-- end -->`; without a run it says there that nothing is measured yet.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]  # a script's own folder is on the path, the repository's root is not

from benchmarks.paper import tables  # noqa: E402
from benchmarks.paper.choices import choice_lines  # noqa: E402
from benchmarks.paper.options import RESULTS  # noqa: E402
from benchmarks.paper.rows import Setting, settings  # noqa: E402

PAGE = ROOT / "docs" / "explanation" / "paper.md"
NOTHING = "**Not measured yet:** it takes a data-centre GPU; no run of the paper's recipe on real images is on record."
_PATTERN = re.compile(r"(<!-- paper -->\n).*?(<!-- end -->)", re.DOTALL)


def rendered(text: str, results: Path, figures: list[str]) -> str:
    """The page with its results made anew.

    Args:
        text: of the page.
        results: folder of runs.
        figures: file names of drawn features beside the page.

    Returns:
        The text.
    """
    lines = content(results, figures)
    return _PATTERN.sub(lambda m: m[1] + "\n" + "\n".join(lines) + "\n\n" + m[2], text)


def content(results: Path, figures: list[str]) -> list[str]:
    """The results.

    Args:
        results: folder of runs.
        figures: file names of drawn features beside the page.

    Returns:
        Lines of Markdown.
    """
    found = settings(results)
    if not found:
        return [NOTHING]
    slots, smoke = _manifest(results)
    lines = (
        ["**Smoke scale: this shows that everything runs; its numbers mean nothing.**", ""] if smoke else []
    )
    devices = sorted(
        {
            f"{r.record['device']}, torch {r.record['versions']['torch']}"
            for s in found
            for row in s.rows
            for r in row.runs
        }
    )
    lines += [f"Measured on {'; '.join(devices)}.", ""]
    for setting in found:
        lines += _of(setting, slots, figures)
    return lines[:-1]


def _of(setting: Setting, slots: dict[str, set[int]], figures: list[str]) -> list[str]:
    name = f"{setting.imbalance}-100"
    figure = f"tsne-{setting.imbalance}.png"
    features = tables.feature_lines(setting)
    if features and figure in figures:
        features += ["", f"![Penultimate features of the runs, t-SNE, clean test images]({figure})"]
    parts = {
        f"{name}: accuracy, percent": tables.accuracy_lines(setting),
        f"{name}: what SRAT gains": tables.claim_lines(setting),
        f"{name}: further attacks": tables.judged_lines(setting),
        f"{name}: separability": features,
        f"{name}: choices": choice_lines(setting, slots) if setting.imbalance == "exp" else [],
        f"{name}: accuracy of each class (training images), percent": tables.class_lines(setting),
        f"{name}: time": tables.time_lines(setting, slots),
    }
    return [line for title, part in parts.items() if part for line in (f"### {title}", "", *part, "")]


def _manifest(results: Path) -> tuple[dict[str, set[int]], bool]:
    """Stage -> how many runs at a time it had; and whether all was at smoke scale."""
    path = results / "manifest.json"
    if not path.exists():
        return {}, False
    manifest = json.loads(path.read_text(encoding="utf-8"))
    slots: dict[str, set[int]] = {}
    for call in manifest["calls"]:
        slots.setdefault(call["stage"], set()).add(call["slots"])
    return slots, manifest["smoke"]


def write(results: Path = RESULTS, page: Path = PAGE) -> None:
    """Make the page anew, with the figures beside it.

    Args:
        results: folder of runs.
        page: to be rewritten.
    """
    drawn = sorted((results / "figures").glob("tsne-*.png"))
    for figure in drawn:
        shutil.copyfile(figure, page.parent / figure.name)
    text = page.read_text(encoding="utf-8")
    page.write_text(rendered(text, results, [figure.name for figure in drawn]), encoding="utf-8")


def main() -> int:
    """Write the page, or with --check say whether it is out of date.

    Returns:
        The exit code.
    """
    if "--check" not in sys.argv[1:]:
        write()
        return 0
    text = PAGE.read_text(encoding="utf-8")
    drawn = sorted(figure.name for figure in (RESULTS / "figures").glob("tsne-*.png"))
    if text != rendered(text, RESULTS, drawn):
        print("out of date: run python benchmarks/paper/page.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
