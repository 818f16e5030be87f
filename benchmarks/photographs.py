"""Results of examples/photographs.toml: what is kept of the sweep, and its tables for README.md and docs/.

`python benchmarks/photographs.py DIR` keeps plan, records and curves of the finished runs of the sweep DIR (no
weights), draws the figure of docs/explanation/photographs.md and writes all tables (`benchmarks/readme.py`).
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.rows import RESULTS, ROOT
from srat_fast.published import COLUMNS, departures, published
from srat_fast.report.collect import Run, find_runs
from srat_fast.report.groups import group_runs
from srat_fast.report.summary import audit_verdict
from srat_fast.sweep.directory import PLAN
from srat_fast.sweep.table import Summary, compare, holm, summarize
from srat_fast.tables import Table, spread

KEPT = RESULTS / "sweeps" / "photographs"
FIGURE = ROOT / "docs" / "explanation" / "photographs.svg"
#: Where the images lie for a reader of the spec; where they lay on the machine is no part of a result.
DATA = "data/cifar10-jpeg"
STANDS_FOR = "cifar10"
NOTHING = "Not measured yet."
LEVEL = 0.05
BASELINE = "ce"
LIMITS = (
    "It cannot show which method is better at the paper's scale: this is a fifth of the images, a quarter of the width "
    "and 30 epochs in place of 200, and so few seeds tell only large differences from chance."
)
PARTS = ("overall", "under", "worst class")
#: Attack of `srat-fast evaluate` -> its name in tables; the first two are in every record.
ATTACKS = {"clean": "standard", "pgd-20": "PGD-20", "cw-20": "CW-20", "autoattack": "AutoAttack"}

Values = dict[int, float]  # seed -> percent


def keep(sweep: Path, kept: Path = KEPT) -> int:
    """Copy what tables need of a sweep's finished runs; how many there are."""
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    plan = json.loads((sweep / PLAN).read_text(encoding="utf-8"))
    for recipe in plan["recipes"]:
        recipe["data.root"] = DATA
    _write(kept / PLAN, plan)
    finished = [run for run in find_runs([sweep]) if run.finished]
    for run in finished:
        folder = kept / "runs" / run.path.name
        folder.mkdir(parents=True)
        record = json.loads((run.path / "record.json").read_text(encoding="utf-8"))
        record["recipe"]["data"]["root"] = DATA
        _write(folder / "record.json", record)
        shutil.copyfile(run.path / "metrics.jsonl", folder / "metrics.jsonl")
    return len(finished)


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def draw(kept: Path = KEPT, path: Path = FIGURE) -> None:
    """Accuracy of each class, a panel a method."""
    from srat_fast.figures.canvas import render
    from srat_fast.report.figures.classes import class_drawings

    (group,) = group_runs(_runs(kept))
    path.write_bytes(render(class_drawings(group)[-1].draw(), path.suffix))


def _runs(kept: Path) -> list[Run]:
    return [run for run in find_runs([kept]) if run.finished] if any(kept.glob("runs/*/record.json")) else []


def accuracies(runs: list[Run]) -> dict[tuple[str, int], dict[str, dict[str, Values]]]:
    """(attack, test images) -> method -> part -> seed -> percent, in the order of `ATTACKS`."""
    found: dict[tuple[str, int], dict[str, dict[str, Values]]] = {}
    methods = [row.method for group in group_runs(runs) for row in group.rows]
    for run in sorted(runs, key=lambda run: (methods.index(run.method), run.seed)):
        record = run.record
        rows = {
            ("clean", record["test_images"]): record["standard"],
            ("pgd-20", record["test_images"]): record["robust"],
        }
        for entry in record.get("evaluations", []):
            for name, row in entry["attacks"].items():
                if name in ("cw-20", "autoattack"):
                    rows[name, row["images"]] = row
        for key, row in rows.items():
            parts = found.setdefault(key, {}).setdefault(run.method, {})
            for part in PARTS:
                value = min(row["per_class"]) if part == "worst class" else row[part]
                parts.setdefault(part, {})[run.seed] = 100 * value
    return dict(sorted(found.items(), key=lambda item: (list(ATTACKS).index(item[0][0]), item[0][1])))


def _named(attack: str, images: int) -> str:
    return f"{ATTACKS[attack]}, {images:,} images"


def _spread(summary: Summary) -> str:
    return spread(summary.mean, summary.std, 1)


def result_lines(runs: list[Run], attacks: tuple[str, ...] = tuple(ATTACKS)) -> str:
    """Mean and sample deviation over seeds of every accuracy, audits and speed below."""
    table = Table("accuracy", "method", "seeds", *PARTS, right=range(2, 6))
    for key, methods in accuracies(runs).items():
        if key[0] in attacks:
            for method, parts in methods.items():
                cells = [_spread(summarize(list(parts[part].values()))) for part in PARTS]
                table.add(_named(*key), f"`{method}`", str(len(parts["overall"])), *cells)
    audits = ", ".join(
        f"`{row.method}` {audit_verdict(row)}" for group in group_runs(runs) for row in group.rows
    )
    return f"{table.markdown()}\n\nAccuracy in percent. {collapses(runs)}Audits: {audits}. {machine(runs)}"


def collapses(runs: list[Run]) -> str:
    """Which runs ended as a constant."""
    classes: dict[str, list[str]] = {}
    for run in runs:
        if run.record.get("collapsed") is not None:
            classes.setdefault(run.method, []).append(run.record["classes"][run.record["collapsed"]])
    named = (f"{len(found)} of `{method}` ({', '.join(sorted(found))})" for method, found in classes.items())
    return f"Collapsed to one class: {'; '.join(named)}. " if classes else ""


def short_lines(runs: list[Run]) -> str:
    """The same of the standard and the PGD accuracy only."""
    return result_lines(runs, ("clean", "pgd-20"))


def machine(runs: list[Run]) -> str:
    """What the runs were measured on, their speed and their time."""
    records = [run.record for run in runs]
    devices = "; ".join(sorted({f"{r['device']}, torch {r['versions']['torch']}" for r in records}))
    speeds = sorted(r["images_per_second"] for r in records)
    minutes = sorted(r["seconds"]["total"] / 60 for r in records)
    return (
        f"{len(runs)} runs on {devices} each, two at a time beside other work: {speeds[0]:.0f} to {speeds[-1]:.0f} "
        f"training images/s, {minutes[0]:.0f} to {minutes[-1]:.0f} minutes a run."
    )


class Test(NamedTuple):
    """Two methods compared on one accuracy."""

    pair: str
    accuracy: str
    part: str
    difference: float  # percent points
    p: float | None  # paired t-test over common seeds; None for fewer than two
    p_holm: float | None  # after Holm's correction over all tests

    @property
    def text(self) -> str:
        return f"{self.difference:+.1f}" + (
            "" if self.p is None else f" (p = {self.p:.2g}, Holm {self.p_holm:.2g})"
        )


def asked(methods: list[str]) -> list[tuple[str, str]]:
    """(method, what it is compared with): each with plain adversarial training, and SRAT with what it adds to.

    Not every pair: a correction over all of them would leave nothing to see in so few seeds.
    """
    adds = [(name, name.replace("srat-", "drcb-").removeprefix("srat:")) for name in methods]
    return [(name, BASELINE) for name in methods if name != BASELINE] + [
        (name, other) for name, other in adds if name != other and other in methods and other != BASELINE
    ]


def comparisons(runs: list[Run]) -> list[Test]:
    """What is asked of methods that have common seeds, on every accuracy."""
    found = []
    for key, methods in accuracies(runs).items():
        for first, second in asked(list(methods)):
            for part in PARTS:
                each = compare(methods[first][part], methods[second][part])
                if each.n:
                    found.append(
                        Test(f"`{first}` - `{second}`", _named(*key), part, each.difference, each.p, None)
                    )
    corrected = holm([test.p for test in found])
    return [test._replace(p_holm=p) for test, p in zip(found, corrected, strict=True)]


def test_lines(runs: list[Run]) -> str:
    """Differences between methods, seed by seed."""
    table = Table("accuracy", "difference", *PARTS, right=range(2, 5))
    rows: dict[tuple[str, str], list[str]] = {}
    found = comparisons(runs)
    for test in found:
        rows.setdefault((test.accuracy, test.pair), []).append(test.text)
    for names, cells in rows.items():
        table.add(*names, *cells)
    return (
        f"{table.markdown()}\n\nPercent points. Paired t-test over common seeds, which draw the same images; Holm's "
        f"correction is over the {sum(test.p is not None for test in found)} tests of this table."
    )


def paper_lines(runs: list[Run]) -> str:
    """Our figures of the paper's methods beside the paper's at full scale, and in what the scales differ."""
    table = Table("method", *(f"{kind} {part}" for kind, part in COLUMNS), right=range(1, 5))
    different: dict[str, None] = {}
    for group in group_runs(runs):
        for row in group.rows:
            fields = row.runs[0].fields
            theirs = published(fields, STANDS_FOR)
            if theirs is None:
                continue
            different |= dict.fromkeys(departures(fields, STANDS_FOR))
            cells = []
            for k, (kind, part) in enumerate(COLUMNS):
                ours = _spread(summarize([100 * value for value in row.values(kind, part)]))
                cells.append(f"{ours} (paper {theirs[k].text})")
            table.add(f"`{row.method}`", *cells)
    counts = runs[0].record["counts"]
    return (
        f"{table.markdown()}\n\nThe paper's figures are no target here: {sum(counts):,} training images "
        f"({counts[0]:,} of the largest class, {counts[-1]} of the rarest) as JPEG files, where the paper has 12,406 "
        f"(5,000 and 50), and {', '.join(f'`{text}`' for text in different)}."
    )


def learnt_lines(runs: list[Run]) -> str:
    """What was learnt, as it follows from the records."""
    robust = next(methods for (attack, _), methods in accuracies(runs).items() if attack == "pgd-20")
    best: dict[str, list[str]] = {}
    for part, where in zip(PARTS[:2], ("on all classes", "on the rare half"), strict=True):
        means = {method: summarize(list(parts[part].values())) for method, parts in robust.items()}
        method = max(means, key=lambda name: means[name].mean)
        best.setdefault(method, []).append(f"{where} ({_spread(means[method])} %)")
    highest = ", ".join(f"`{method}` {' and '.join(places)}" for method, places in best.items())
    found = [test for test in comparisons(runs) if test.p_holm is not None]
    held = [test for test in found if test.p_holm is not None and test.p_holm < LEVEL]
    named = "; ".join(f"{test.pair}, {test.accuracy}, {test.part}: {test.difference:+.1f}" for test in held)
    first = f"The highest accuracy under PGD-20 is that of {highest}; chance is 10 %."
    if not found:
        return f"{first} Nothing is tested: that takes two methods with two common seeds."
    return (
        f"{first} Of {len(found)} paired tests over {len({run.seed for run in runs})} seeds {len(held) or 'none'} "
        f"{'is' if len(held) < 2 else 'are'} below {LEVEL:g} after Holm's correction{f' ({named})' if named else ''}."
    )


def page_lines(runs: list[Run]) -> str:
    """What stands on the page."""
    return "\n\n".join(
        (
            f"{learnt_lines(runs)} {LIMITS}",
            result_lines(runs),
            f"![Standard and robust accuracy of each class, a panel a method]({FIGURE.name})",
            "Differences between methods:",
            test_lines(runs),
            "Beside the paper's figures for exponential imbalance of ratio 100 (its Table 4):",
            paper_lines(runs),
        )
    )


TABLES = {"short": short_lines, "page": page_lines}


def lines(name: str, kept: Path = KEPT) -> str:
    """One of `TABLES` as Markdown."""
    runs = _runs(kept)
    return TABLES[name](runs) if runs else NOTHING


def main() -> int:
    """Keep a sweep and write the pages."""
    from benchmarks import readme

    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / PLAN).exists():
        print(
            f"usage: python benchmarks/photographs.py DIR: the directory of a sweep (it has a {PLAN})",
            file=sys.stderr,
        )
        return 2
    print(f"{keep(Path(sys.argv[1]))} finished runs in {KEPT}")
    draw()
    del sys.argv[1:]
    return readme.main()


if __name__ == "__main__":
    sys.exit(main())
