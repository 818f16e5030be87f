"""The tables of the paper's claim: settings enter, Markdown leaves."""

from __future__ import annotations

import json
import statistics
from itertools import product
from typing import Any

from benchmarks.paper.choices import Difference, difference, newcombe
from benchmarks.paper.rows import Setting
from srat_fast.published import COLUMNS, FAR, LEVEL, differs, p_text
from srat_fast.record import audit_verdict
from srat_fast.report.groups import judged
from srat_fast.report.summary import notes

_PARTS = ("overall", "under")
_HEADS = [f"{kind} {part}" for kind, part in COLUMNS]


def grid(heads: list[str], rows: list[list[str]], left: int = 1) -> list[str]:
    """A Markdown table.

    Args:
        heads: of the columns.
        rows: of cells.
        left: columns set to the left; the others hold numbers.

    Returns:
        Its lines.
    """
    rule = "|" + "---|" * left + "--:|" * (len(heads) - left)
    return ["| " + " | ".join(heads) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows)]


def accuracy_lines(setting: Setting) -> list[str]:
    """Ours, the paper's, the difference and Welch's test; what wants an explanation is set bold and named below.

    Args:
        setting: of one imbalance.

    Returns:
        Lines of Markdown.
    """
    rows, far = [], []
    for row in (r for r in setting.rows if not r.variant):
        paper = None if setting.departures else row.paper()
        cells = []
        for k, metric in enumerate(COLUMNS):
            ours = row.mean(*metric)
            if paper is None:
                cells.append(f"{ours:.2f}")
                continue
            off = ours - paper[k].mean
            values = list(row.values(*metric).values())
            p = paper[k].p(ours, statistics.stdev(values) if len(values) > 1 else None, len(values))
            why = differs(off, p)
            text = f"{ours:.2f} (paper {paper[k].text}: {off:+.2f}, {p_text(p)})"
            cells.append(text if why is None else f"**{text}**")
            if why is not None:
                far.append(f"{row.label} {' '.join(metric)} {off:+.2f}")
        verdicts = sorted({audit_verdict(run.record, row.weights) for run in row.runs})
        verdicts += [text for text in [notes(row)] if text]
        rows.append([row.label, ", ".join(str(run.seed) for run in row.runs), *cells, ", ".join(verdicts)])
    lines = grid(["method", "seeds", *_HEADS, "audit"], rows, 2)
    if setting.departures:
        text = ", ".join(f"`{d}`" for d in setting.departures)
        return [*lines, "", f"Not the paper's recipe ({text}): its numbers are no target."]
    rule = f"more than {FAR:g} points from the paper or, over seeds, beyond both deviations (Welch, p < {LEVEL:g})"
    said = f"To be explained, {rule}: {'; '.join(far)}." if far else f"No figure is {rule}."
    return [*lines, "", said]


def claim_lines(setting: Setting) -> list[str]:
    """What the paper claims of the method: SRAT-LDAM against DRCB-LDAM and CE, with intervals.

    Args:
        setting: of one imbalance.

    Returns:
        Lines of Markdown; none without srat-ldam and another.
    """
    own = setting.row("srat-ldam")
    rows = []
    for name in ("drcb-ldam", "ce"):
        other = setting.row(name)
        if own is None or other is None:
            continue
        found = [difference(own, other, *metric) for metric in COLUMNS]
        papers = (None, None) if setting.departures else (own.paper(), other.paper())
        cells = []
        for k, each in enumerate(found):
            theirs = "" if None in papers else f"; paper {papers[0][k].mean - papers[1][k].mean:+.2f}"  # type: ignore[index]
            cells.append("-" if each is None else _interval(each) + theirs)
        rows.append([f"`srat-ldam` - `{name}`", *cells])
    return grid(["difference", *_HEADS], rows) if rows else []


def _interval(found: Difference) -> str:
    return f"{found.points:+.2f} [{found.low:+.2f}, {found.high:+.2f}]{' *t*' if found.paired else ''}"


def class_lines(setting: Setting) -> list[str]:
    """Accuracy of each class, means over seeds, the most frequent class first.

    Args:
        setting: of one imbalance.

    Returns:
        Lines of Markdown.
    """
    record = setting.rows[0].runs[0].record
    heads = [f"{name} ({count})" for name, count in zip(record["classes"], record["counts"], strict=True)]
    rows = []
    for row in (r for r in setting.rows if not r.variant and r.weights == "last"):
        for kind in ("standard", "robust"):
            lists = [judged(run.record, row.weights)[kind]["per_class"] for run in row.runs]
            means = [statistics.fmean(column) for column in zip(*lists, strict=True)]
            rows.append([row.label, kind, *(f"{100 * mean:.1f}" for mean in means)])
    return grid(["method", "accuracy", *heads], rows, 2)


def time_lines(setting: Setting, slots: dict[str, set[int]]) -> list[str]:
    """Wall time and speed of each run.

    Args:
        setting: of one imbalance.
        slots: stage -> how many runs at a time it had.

    Returns:
        Lines of Markdown.
    """
    rows = []
    for row in (r for r in setting.rows if r.weights == "last"):
        for run in row.runs:
            record, took = run.record, run.record["seconds"]
            beside = "/".join(map(str, sorted(slots.get(run.path.parent.name, ())))) or "-"
            mfu = "-" if record.get("mfu") is None else f"{100 * record['mfu']:.1f} %"
            cells = [f"{took['total']:,.0f}", f"{took['evaluation']:,.0f}", f"{took['compile']:,.0f}"]
            memory = (
                "-" if not record.get("peak_memory_bytes") else f"{record['peak_memory_bytes'] / 2**30:.1f}"
            )
            speed = f"{record['images_per_second']:,.0f}"
            rows.append([row.label, str(run.seed), *cells, speed, mfu, memory, beside])
    heads = [
        "seconds",
        "of them evaluation",
        "compilation",
        "training images/s",
        "MFU",
        "peak GiB",
        "runs at a time",
    ]
    return grid(["method", "seed", *heads], rows)


def judged_lines(setting: Setting) -> list[str]:
    """The further attacks on a subset of the test images, and whether LDAM's gain survives them.

    Args:
        setting: of one imbalance.

    Returns:
        Lines of Markdown; none where nothing has been judged.
    """
    found = {}
    for name, weights in product(("srat-ldam", "drcb-ldam", "ce"), ("last", "ema")):
        row = setting.row(name, weights)
        for run in row.runs if row is not None else ():
            entries = [e for e in run.record.get("evaluations", []) if e["weights"] == weights]
            if row is not None and entries and (name, weights) not in found:
                found[name, weights] = row.label, entries[-1]["attacks"]
    if not found:
        return []
    first = next(iter(found.values()))[1]
    attacks, images = list(first), next(iter(first.values()))["images"]
    rows = []
    for label, of in found.values():
        cells = []
        for attack in attacks:
            row = of.get(attack)
            if row is None:
                cells.append("-")
                continue
            low, high = row["intervals"]["overall"]
            cells.append(
                f"{100 * row['overall']:.1f} [{100 * low:.1f}, {100 * high:.1f}]; {100 * row['under']:.1f}"
            )
        rows.append([label, *cells])
    lines = grid(["method", *attacks], rows)
    lines += [
        "",
        f"Overall with its 95 % interval; under. On {images} test images, equally many of each class.",
    ]
    last = {name: of for (name, weights), (_, of) in found.items() if weights == "last"}
    if "srat-ldam" in last:
        lines += ["", *_survives(last, attacks, images)]
    return lines


def _survives(found: dict[str, dict[str, Any]], attacks: list[str], images: int) -> list[str]:
    """The gain of srat-ldam over each baseline, attack by attack."""
    rows = []
    for name in (n for n in found if n != "srat-ldam"):
        for part in _PARTS:
            cells = []
            for attack in attacks:
                mine, theirs = (found[n].get(attack, {}).get(part) for n in ("srat-ldam", name))
                if mine is None or theirs is None:
                    cells.append("-")
                    continue
                low, high = newcombe(mine, theirs, images if part == "overall" else images // 2)
                cells.append(f"{100 * (mine - theirs):+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]")
            rows.append([f"`srat-ldam` - `{name}`, {part}", *cells])
    return grid(["gain", *attacks], rows) if rows else []


def feature_lines(setting: Setting) -> list[str]:
    """How separable the classes are in the penultimate features (the paper's Fig. 4 in numbers).

    Args:
        setting: of one imbalance.

    Returns:
        Lines of Markdown; none where nothing has been analysed.
    """
    names = ("silhouette", "silhouette_cosine", "scatter_ratio", "under_taken_by_well")
    rows = []
    images = set()
    for method in ("ce", "drcb-ldam", "srat-ldam"):
        row = setting.row(method)
        for run in row.runs if row is not None else ():
            path = run.path / "analysis.json"
            if path.exists():
                analysis = json.loads(path.read_text(encoding="utf-8"))
                images.add(analysis["images"])
                for view in ("clean", "attacked"):
                    values = (analysis[view][name] for name in names)
                    cells = ["-" if value is None else f"{value:.3f}" for value in values]
                    rows.append([row.label if row is not None else method, str(run.seed), view, *cells])
    if not rows:
        return []
    heads = ["silhouette", "cosine silhouette", "scatter ratio", "share of rare taken for frequent"]
    of = "/".join(map(str, sorted(images)))
    return [*grid(["method", "seed", "images", *heads], rows, 3), "", f"On {of} test images."]
