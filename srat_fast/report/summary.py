"""Summary tables in the paper's layout: for the terminal, as Markdown, CSV and LaTeX."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from srat_fast.published import COLUMNS, Published, p_text
from srat_fast.record import audit_verdict as record_verdict
from srat_fast.report.groups import Group, Row, judged, mean_and_deviation
from srat_fast.tables import Cell, Table, csv_text, spread, tabular, visible
from srat_fast.tables import latex as tex

HEADINGS = ("standard", "standard under", "robust", "robust under")
#: Behind the paper's columns.
WORST = ("standard", "robust")
_WORST_HEADINGS = tuple(f"{kind} worst" for kind in WORST)
_FIGURES = len(HEADINGS) + len(WORST)
#: What a narrow terminal does without, first to last: the robust accuracies stand with their audit.
_SPARE = ("note", _WORST_HEADINGS[0], "seeds", _WORST_HEADINGS[1], "standard under", "standard", "robust")


def audit_verdict(row: Row) -> str:
    """What the audits of a row's runs say: "reliable (2 of 3 audited)", "suspicious: 1 of 3", "not audited", ..."""
    verdicts = [record_verdict(run.record, row.weights) for run in row.finished]
    doubted = sum(verdict == "suspicious" for verdict in verdicts)
    audited = doubted + sum(verdict == "reliable" for verdict in verdicts)
    if not audited:
        return "not audited"
    partly = "" if audited == len(verdicts) else f" ({audited} of {len(verdicts)} audited)"
    if not doubted:
        return f"reliable{partly}"
    return "suspicious" if len(verdicts) == 1 else f"suspicious: {doubted} of {audited}{partly}"


def notes(row: Row) -> str:
    """What a reader must know of a row's runs: unfinished, failed, collapsed, flagged, hardly audited, of one seed."""
    found: dict[str, int] = {}
    drawn = Counter((run.seed, run.fields["data.subset_seed"]) for run in row.finished)
    found |= {f"runs of seed {seed}": times for (seed, _), times in drawn.items() if times > 1}
    for run in row.runs:
        record = run.record
        if not run.finished:
            found[str(record.get("status", "running"))] = (
                found.get(str(record.get("status", "running")), 0) + 1
            )
            continue
        if (collapsed := judged(record, row.weights).get("collapsed")) is not None:
            text = f"collapsed to class {record['classes'][collapsed]}"
            found[text] = found.get(text, 0) + 1
        audit = judged(record, row.weights).get("audit") or {}
        if audit.get("verdict") == "reliable" and "AutoAttack" in audit.get("not_run", ()):
            text = f"audited without AutoAttack, on {audit['subset']} images"
            found[text] = found.get(text, 0) + 1
        if record.get("catastrophic_overfitting"):
            found["catastrophic overfitting"] = found.get("catastrophic overfitting", 0) + 1
    return "; ".join(text if len(row.runs) == 1 else f"{count} {text}" for text, count in found.items())


def cell(values: list[float]) -> str:
    """Mean and deviation of fractions in percent: "63.11 ± 0.42", "63.11" for one seed, "-" for none."""
    summary = mean_and_deviation(values)
    if summary is None:
        return "-"
    mean, deviation = summary
    return spread(100 * mean, None if deviation is None else 100 * deviation)


def seeds(row: Row) -> str:
    """The seeds that a row's numbers stand for: "0, 1, 2", or "0 .. 9 (10)"."""
    numbers = sorted(run.seed for run in (row.finished or row.runs))
    if len(numbers) <= 5:
        return ", ".join(map(str, numbers))
    return f"{numbers[0]} .. {numbers[-1]} ({len(numbers)})"


def texts(row: Row) -> list[Cell]:
    """A row as the cells of a table: label, seeds, the accuracies of `HEADINGS`, worst classes, audit, notes."""
    worst = [worst_cell(row, kind) for kind in WORST]
    return [*_cells(row), *worst, audit_verdict(row) if row.finished else "-", notes(row)]


def _cells(row: Row) -> list[str]:
    return [row.label, seeds(row), *(cell(row.values(*column)) for column in COLUMNS)]


def worst_cell(row: Row, kind: str) -> tuple[str, str]:
    """Mean and deviation over seeds of each run's worst class; of one run beside it the interval over its images."""
    found = [judged(run.record, row.weights)[kind] for run in row.finished]
    ends = (found[0].get("intervals") or {}).get("worst") if len(found) == 1 else None
    return cell(row.values(kind, "worst")), f" [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]" if ends else ""


def against_paper(row: Row) -> list[tuple[Published, float | None, float | None]]:
    """The paper's figures of a row, ours minus theirs in percent points and p of Welch's test; [] without any."""
    found: list[tuple[Published, float | None, float | None]] = []
    for number, column in zip(row.paper or (), COLUMNS, strict=False):
        values = [100 * value for value in row.values(*column)]
        summary = mean_and_deviation(values)
        if summary is None:
            found.append((number, None, None))
        else:
            found.append((number, summary[0] - number.mean, number.p(*summary, len(values))))
    return found


def paper_texts(row: Row) -> list[str]:
    """The line of the paper's figures below a row, in the columns of `texts`; [] without any."""
    figures = against_paper(row)
    if not figures:
        return []
    off = [
        f"{name} {off:+.2f} ({p_text(p)})"
        for name, (_, off, p) in zip(HEADINGS, figures, strict=True)
        if off is not None
    ]
    note = f"ours minus the paper's: {', '.join(off)}" if off else ""
    return [
        f"{row.label}, paper",
        "-",
        *(number.text for number, _, _ in figures),
        *("-" for _ in WORST),
        "-",
        note,
    ]


def summary_tables(groups: Iterable[Group]) -> list[tuple[str, Table]]:
    """(title, table for a terminal) of each group; a column of notes only where there are any."""
    tables = []
    for group in groups:
        rows: list[Sequence[Cell]] = [
            cells for row in group.rows for cells in (texts(row), paper_texts(row)) if cells
        ]
        noted = any(cells[-1] for cells in rows)
        heads = ["method", "seeds", *HEADINGS, *_WORST_HEADINGS, "audit", *(["note"] if noted else [])]
        table = Table(*heads, right=range(2, 2 + _FIGURES), spare=_SPARE)
        for cells in rows:
            table.add(*(cells if noted else cells[:-1]))
        tables.append((group.title, table))
    return tables


def markdown(groups: Sequence[Group]) -> str:
    """One Markdown table a group."""
    lines = []
    for group in groups:
        heads = ["method", "seeds", *HEADINGS, *_WORST_HEADINGS, "audit", "note"]
        table = Table(*heads, right=range(2, 2 + _FIGURES))
        for row in group.rows:
            table.add(*texts(row))
            if theirs := paper_texts(row):
                table.add(*theirs)
        lines += [visible(group.title), "", table.markdown(), ""]
    return "\n".join(lines)


def latex(groups: Sequence[Group]) -> str:
    """One booktabs table a group; a dagger marks robust accuracies that no audit has found reliable."""
    lines = ["% needs \\usepackage{booktabs}; daggers: robust accuracy not audited, or found suspicious"]
    heads = ["method & seeds & " + " & ".join((*HEADINGS, *_WORST_HEADINGS)) + r" \\"]
    for group in groups:
        rows = []
        for row in group.rows:
            cells = [
                tex(text) for text in (*_cells(row), *("".join(worst_cell(row, kind)) for kind in WORST))
            ]
            if row.finished and audit_verdict(row) != "reliable":
                for k in (4, 5, 7):  # the robust ones
                    cells[k] += r"$^\dagger$"
            rows.append(cells)
            if theirs := paper_texts(row):
                rows.append([tex(text) for text in theirs[: 2 + _FIGURES]])
        caption = rf"\caption{{{tex(group.title)}}}"
        lines += [
            r"\begin{table}",
            r"\centering",
            caption,
            *tabular("ll" + "r" * _FIGURES, heads, rows),
            r"\end{table}",
            "",
        ]
    return "\n".join(lines)


def comma_separated(groups: Sequence[Group]) -> str:
    """All groups in one table for programs: fractions, means and deviations apart."""
    rows = []
    for group in groups:
        for row in group.rows:
            cells: dict[str, object] = {
                "group": group.title, "method": row.method, "variant": row.variant, "weights": row.weights,
                "runs": len(row.runs), "finished": len(row.finished),
            }  # fmt: skip
            for kind, part in (*COLUMNS, *((kind, "worst") for kind in WORST)):
                mean, std = mean_and_deviation(row.values(kind, part)) or (None, None)
                cells |= {f"{kind}_{part}_mean": mean, f"{kind}_{part}_std": std}
            cells |= {"audit": audit_verdict(row) if row.finished else "", "note": notes(row)}
            paper = against_paper(row)
            for k, (kind, part) in enumerate(COLUMNS):
                number, _, p = paper[k] if k < len(paper) else (None, None, None)
                name = f"{kind}_{part}_paper"
                cells[name] = None if number is None else number.mean / 100
                cells[f"{name}_std"] = None if number is None or number.std is None else number.std / 100
                cells[f"{name}_p"] = p
            rows.append(cells)
    return csv_text(rows)
