"""Tables as files: `TableData` enters; Markdown, LaTeX, CSV or Parquet leaves."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from srat_fast.errors import MissingPackage, UserError
from srat_fast.methods import METHODS
from srat_fast.published import METRICS, SEEDS_TAKEN, p_text
from srat_fast.record import write_atomically
from srat_fast.sweep.statistics import Summary
from srat_fast.sweep.table import Entry, Line, TableData
from srat_fast.tables import Cell, Table, latex, visible

FORMATS = ("md", "csv", "parquet", "tex")
_HEADS = [f"{kind} {part}" for kind, part in METRICS]


def _spread(summary: Summary, plus_minus: str) -> str:
    if not summary.n:
        return "-"
    return f"{summary.mean:.2f}" + ("" if summary.std is None else f"{plus_minus}{summary.std:.2f}")


def _cell(entry: Entry) -> Cell:
    """75.89 ± 0.41 (paper 76.25 ± 0.09: -0.36, p = 0.12)."""
    text = _spread(entry.summary, " ± ")
    if entry.paper is None:
        return text
    off = "" if entry.off is None else f": {entry.off:+.2f}, {p_text(entry.p_paper)}"
    return text, f" (paper {entry.paper.text}{off})"


def _whole(summary: Summary) -> str:
    return f"{summary.mean:,.0f}" if summary.n else "-"


def _grid(heads: Sequence[str], rows: Sequence[Sequence[Cell]], numbers: range, detail: str = "") -> Table:
    """A table; columns in `numbers` are set to the right."""
    made = Table(*heads, right=numbers, detail=detail)
    for row in rows:
        made.add(*row)
    return made


def _difference(line: Line) -> list[str]:
    """Interval and comparison of each of the four figures."""
    cells = []
    for entry in line.entries[: len(METRICS)]:
        text = "-" if entry.summary.low is None else f"[{entry.summary.low:.2f}, {entry.summary.high:.2f}]"
        if entry.against is not None and entry.against.n:
            p = "" if entry.against.p is None else f", p = {entry.against.p:.2g}"
            text += f"; {entry.against.difference:+.2f}{p}"
        cells.append(text)
    return cells


def to_markdown(table: TableData) -> str:
    """The table as Markdown: for each data set the accuracies, then their intervals and the comparison.

    Args:
        table: of a sweep.

    Returns:
        The text.
    """
    lines: list[str] = []
    for part in to_parts(table):
        lines += ["", visible(part) if isinstance(part, str) else part.markdown()]
    return "\n".join(lines[1:]) + "\n"


def to_parts(table: TableData) -> list[str | Table]:
    """The same as lines and tables, in order."""
    parts: list[str | Table] = [f"## {table.title}"]
    for setting, lines in table.settings().items():
        with_paper = any(entry.paper is not None for line in lines for entry in line.entries)
        beside = f"; beside the paper's, Welch's t-test ({SEEDS_TAKEN})" if with_paper else ""
        parts.append(f"{setting}, accuracy in percent: mean ± sample deviation over n seeds{beside}")
        cells = [
            [line.label, str(len(line.seeds)), *map(_cell, line.entries[:4]), "; ".join(line.marks)]
            for line in lines
        ]
        parts.append(_grid(["method", "n", *_HEADS, "marks"], cells, range(1, 6), "the paper's figures"))
        against = (
            f"; difference from {table.baseline} over common seeds, paired t-test" if table.baseline else ""
        )
        parts.append(f"{table.confidence:.0%} bootstrap interval of the mean{against}")
        rows = [[line.label, *_difference(line)] for line in lines]
        parts.append(_grid(["method", *_HEADS], rows, range(1, 5)))
        rows = [
            [line.label, str(line.speed.n), _whole(line.speed), _whole(line.seconds)]
            for line in lines
            if line.values["weights"] == "last"
        ]
        parts.append("speed of training and wall time of a run, evaluation included: mean over seeds")
        parts.append(_grid(["method", "n", "images/s", "seconds"], rows, range(1, 4)))
        classes = [e.part.removeprefix("class:") for e in lines[0].entries[4:] if e.kind == "standard"]
        for kind in ("standard", "robust") if classes else ():
            rows = [
                [line.label, *(_spread(e.summary, " ± ") for e in line.entries[4:] if e.kind == kind)]
                for line in lines
            ]
            parts.append(f"{kind} accuracy of each class")
            parts.append(_grid(["method", *classes], rows, range(1, len(classes) + 1)))
    return parts + [f"Note: {note}." for note in table.notes]


def to_latex(table: TableData) -> str:
    """The table for a paper: booktabs, standard and robust accuracy above overall and under; marks as footnotes.

    Args:
        table: of a sweep.

    Returns:
        The text; it needs the packages booktabs and threeparttable.
    """
    parts = [f"% {visible(table.title)}"]
    for setting, lines in table.settings().items():
        with_paper = any(entry.paper is not None for line in lines for entry in line.entries)
        notes: dict[str, str] = {}
        body = []
        for line in lines:
            method = str(line.values["method"])
            label = latex(line.label.replace(method, METHODS[method].title, 1))
            marks = [notes.setdefault(mark, chr(ord("a") + len(notes) % 26)) for mark in line.marks]
            cells = [label + (f"\\tnote{{{','.join(marks)}}}" if marks else "")]
            for entry in line.entries[:4]:
                cells.append(latex(_spread(entry.summary, " ± ")))
                if with_paper:
                    cells.append("" if entry.paper is None else latex(entry.paper.text))
            body.append("  " + " & ".join(cells) + " \\\\")
        wide = 2 if with_paper else 1
        group = 2 * wide
        heads = " & ".join(
            f"{part}" + (" & paper" if with_paper else "")
            for part in ("Overall", "Under", "Overall", "Under")
        )
        parts += [
            "\\begin{table}",
            "  \\centering",
            "  \\begin{threeparttable}",
            f"  \\caption{{{latex(table.title)}: {latex(setting)}, accuracy in percent.}}",
            f"  \\begin{{tabular}}{{l{'r' * (2 * group)}}}",
            "  \\toprule",
            f"  & \\multicolumn{{{group}}}{{c}}{{Standard}} & \\multicolumn{{{group}}}{{c}}{{Robust}} \\\\",
            f"  \\cmidrule(lr){{2-{group + 1}}} \\cmidrule(lr){{{group + 2}-{2 * group + 1}}}",
            f"  Method & {heads} \\\\",
            "  \\midrule",
            *body,
            "  \\bottomrule",
            "  \\end{tabular}",
            *(["  \\begin{tablenotes}"] if notes else []),
            *(f"  \\item[{letter}] {latex(text)}" for text, letter in notes.items()),
            *(["  \\end{tablenotes}"] if notes else []),
            "  \\end{threeparttable}",
            "\\end{table}",
        ]
    if any(entry.paper is not None for line in table.lines for entry in line.entries):
        parts.append(f"% p: Welch's t-test against the paper's deviation; {SEEDS_TAKEN}")
    parts += [f"% {visible(note)}" for note in table.notes]
    return "\n".join(parts) + "\n"


def to_rows(table: TableData) -> list[dict[str, Any]]:
    """One row a figure, for CSV and Parquet.

    Args:
        table: of a sweep.

    Returns:
        Plain values; None where there is nothing.
    """
    rows: list[dict[str, Any]] = []
    for line in table.lines:
        for entry in line.entries:
            against = entry.against
            rows.append(
                {
                    name: value if value is None or isinstance(value, (int, float, str)) else str(value)
                    for name, value in line.values.items()
                }
                | {
                    "accuracy": entry.kind,
                    "part": entry.part,
                    "n": entry.summary.n,
                    "mean": entry.summary.mean if entry.summary.n else None,
                    "std": entry.summary.std,
                    "low": entry.summary.low,
                    "high": entry.summary.high,
                    "confidence": table.confidence,
                    "baseline": table.baseline if against is not None else None,
                    "difference": against.difference if against is not None and against.n else None,
                    "common_seeds": against.n if against is not None else None,
                    "p": against.p if against is not None else None,
                    "paper": entry.paper.mean if entry.paper is not None else None,
                    "paper_std": entry.paper.std if entry.paper is not None else None,
                    "off_paper": entry.off,
                    "p_paper": entry.p_paper,
                    "images_per_second": line.speed.mean if line.speed.n else None,
                    "seconds": line.seconds.mean if line.seconds.n else None,
                    "seeds": ",".join(map(str, line.seeds)),
                    "marks": "; ".join(line.marks),
                }
            )
    return rows


def _to_csv(table: TableData) -> bytes:
    rows = to_rows(table)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _to_parquet(table: TableData) -> bytes:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingPackage("pyarrow", "a Parquet table", "pip install 'srat-fast[parquet]'") from None
    sink = pyarrow.BufferOutputStream()
    content = pyarrow.Table.from_pylist(to_rows(table))
    pyarrow.parquet.write_table(content.replace_schema_metadata({"title": table.title}), sink)
    return sink.getvalue().to_pybytes()


def write_table(table: TableData, path: Path) -> None:
    """Write the table in the format that a file's ending names.

    Args:
        table: of a sweep.
        path: ends in .md, .csv, .parquet or .tex.

    Raises:
        UserError: another ending, or it cannot be written.
        MissingPackage: Parquet without pyarrow.
    """
    kind = path.suffix[1:]
    if kind not in FORMATS:
        raise UserError(
            "--out", f"a file ending in {', '.join('.' + f for f in FORMATS)} is needed", str(path)
        )
    if kind == "parquet":
        data = _to_parquet(table)
    elif kind == "csv":
        data = _to_csv(table)
    else:
        data = (to_markdown(table) if kind == "md" else to_latex(table)).encode()
    try:
        write_atomically(path, data)
    except OSError as error:
        raise UserError("--out", f"cannot be written: {error.strerror}", str(path)) from None
