"""Text and tables: names as they are, Markdown, its form on a narrow terminal, LaTeX, and CSV for programs."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

#: A cell, or a cell and a detail behind it (an interval) that goes first where there is little room.
Cell = str | tuple[str, str]

# what a terminal would act on (control characters), what ends a line, what turns the reading direction, lone surrogates
_INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_ASCII = {
    "█": "#", "±": "+-", "×": "x", "–": "-", "—": "-", "…": "...", "−": "-", "≤": "<=", "≥": ">=",
    "‘": "'", "’": "'", "“": '"', "”": '"', "→": "->", "•": "*",
}  # fmt: skip
_LATEX = str.maketrans(
    {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
     "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "<": r"\textless{}", ">": r"\textgreater{}",
     "|": r"\textbar{}", "±": r"$\pm$"}
)  # fmt: skip

#: Name of the codec error handler that writes what an encoding lacks in ASCII.
READABLE = "srat_fast.readable"


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a file name that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def _readable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wrong = error.object[error.start : error.end]
    return "".join(_ASCII.get(character) or _escape(character) for character in wrong), error.end


codecs.register_error(READABLE, _readable)


def visible(text: str, *, lines: bool = False) -> str:
    """A name as one line that no terminal acts on: control characters are written out, such as \\x1b and \\n.

    With `lines`, line feeds and tabs stay: for messages of several lines.
    """
    return _INVISIBLE.sub(lambda m: m[0] if lines and m[0] in "\n\t" else _escape(m[0]), text)


def latex(text: str) -> str:
    """Text for LaTeX."""
    return visible(text).translate(_LATEX)


def percent(value: float | None) -> str:
    """A fraction as a percentage with two decimals, "-" for None or NaN, where there was nothing to measure."""
    return "-" if value is None or value != value else f"{100 * value:.2f}"


def length(value: float) -> str:
    """A radius or a step in the range of pixels, as papers write it: "8/255" where it is one, else "0.1"."""
    short, levels = f"{value:.4g}", round(255 * value)
    return (
        f"{levels}/255"
        if float(short) != value and levels > 0 and abs(255 * value - levels) < 1e-6
        else short
    )


def spread(mean: float, deviation: float | None, decimals: int = 2) -> str:
    """Mean and sample deviation: "63.11 ± 0.42", or "63.11" of one seed."""
    return f"{mean:.{decimals}f}" + ("" if deviation is None else f" ± {deviation:.{decimals}f}")


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of equal keys as CSV; None is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def tabular(columns: str, heads: Iterable[str], rows: Iterable[str | list[str]]) -> list[str]:
    """Lines of a booktabs table: lines above its middle rule, and rows of cells or whole lines, all LaTeX already."""
    body = [row if isinstance(row, str) else " & ".join(row) + r" \\" for row in rows]
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *heads, r"\midrule", *body, r"\bottomrule"]
    return [f"  {line}" for line in (*lines, r"\end{tabular}")]


class Table:
    """A table of text: Markdown in a pipe or file; on a terminal no wider than that.

    The one rule of what happens where a terminal is too narrow: details behind cells (intervals) go first, then
    columns, those in `spare` in their order, then from the right; a line below names what is left out. No cell is
    broken in two. Where two columns do not fit, each row is a block of "name: value" lines, with everything.
    """

    def __init__(
        self,
        *heads: str,
        rows: Iterable[Sequence[Cell]] = (),
        right: Collection[int] = (),
        spare: Sequence[str] = (),
        detail: str = "intervals",
    ) -> None:
        self.heads, self.right, self.detail = heads, right, detail
        self.rows: list[Sequence[Cell]] = list(rows)
        named = [heads.index(name) for name in spare if name in heads]
        self._order = named + [k for k in range(len(heads) - 1, 0, -1) if k not in named]

    def add(self, *cells: Cell) -> None:
        """A row more."""
        self.rows.append(cells)

    def lines(self, width: int, encoding: str = "utf-8") -> list[str]:
        """Its lines on a terminal of a width."""
        columns = list(range(len(self.heads)))
        missing: list[str] = []
        for detailed in (True, False):
            lines = self._grid(columns, detailed, encoding)
            if _width(lines[1]) <= width:
                return [*lines, *self._missing(missing)]
            if not missing and any(
                not isinstance(cell, str) and cell[1] for row in self.rows for cell in row
            ):
                missing = [self.detail]
        for gone in self._order:
            if len(columns) <= 2:
                break
            columns.remove(gone)
            missing.append(visible(self.heads[gone]))
            lines = self._grid(columns, False, encoding)
            if _width(lines[1]) <= width:
                return [*lines, *self._missing(missing)]
        return self._blocks(encoding)

    def markdown(self) -> str:
        """For a file that is rendered: no padding, and no name is taken for HTML."""
        rows = [
            [_escaped(self._cell(cell, True)).replace("<", "\\<") for cell in row]
            for row in (self.heads, *self.rows)
        ]
        rule = ["---:" if k in self.right else "---" for k in range(len(self.heads))]
        return "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:]))

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.text import Text

        yield Text()
        for line in self.lines(options.max_width, options.encoding):
            yield Text(line)
        yield Text()

    @staticmethod
    def _missing(names: list[str]) -> list[str]:
        return [f"left out at this width: {'; '.join(names)}"] if names else []

    def _cell(self, cell: Cell, detailed: bool, encoding: str = "utf-8") -> str:
        text = visible(cell if isinstance(cell, str) else "".join(cell) if detailed else cell[0])
        return text.encode(encoding, READABLE).decode(encoding)

    def _grid(self, columns: Iterable[int], detailed: bool, encoding: str) -> list[str]:
        columns = list(columns)
        rows = [
            [_escaped(self._cell(row[k], detailed, encoding)) for k in columns]
            for row in (self.heads, *self.rows)
        ]
        widths = [max(_width(row[k]) for row in rows) for k in range(len(columns))]
        lines = []
        for row in rows:
            cells = []
            for k, text, room in zip(columns, row, widths, strict=True):
                space = " " * (room - _width(text))
                cells.append(space + text if k in self.right else text + space)
            lines.append("| " + " | ".join(cells) + " |")
        lines.insert(1, "|" + "|".join("-" * (room + 2) for room in widths) + "|")
        return lines

    def _blocks(self, encoding: str) -> list[str]:
        lines = []
        for row in self.rows:
            pairs = [
                (self._cell(h, True, encoding), self._cell(c, True, encoding))
                for h, c in zip(self.heads, row, strict=True)
            ]
            lines += ["", *(f"{head}: {cell}" if head else cell for head, cell in pairs)]
        return lines[1:]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _width(text: str) -> int:
    """Columns of a terminal: a wide character takes two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
