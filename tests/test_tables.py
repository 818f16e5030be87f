"""Tables and text: names as they are, one rule on narrow terminals, valid Markdown and LaTeX."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from srat_fast.figures.canvas import named
from srat_fast.tables import READABLE, Table, csv_text, latex, spread, tabular, visible

NAMES = [
    "cat [adult]",
    "[/b]",
    ":smile:",
    "a|b",
    "x\x1b[31m\ny",
    "猫の写真",
    "שלום",
    "",
    "long " * 30,
    "50 %",
]


def bars(line: str) -> int:
    """Separators of a row: an escaped bar is part of a cell."""
    return line.replace("\\|", "").count("|")


def table() -> Table:
    made = Table("class", "images", "accuracy", "note", right=(1, 2), spare=("images",))
    made.add("airplane", "5000", ("63.11", " [59.5, 66.6]"), "as it is")
    made.add("ship", "83", ("5.00", " [1.2, 9.9]"), "collapsed to one class")
    return made


@pytest.mark.parametrize(
    ("width", "heads", "below"),
    [
        (80, ["class", "images", "accuracy", "note"], None),
        (60, ["class", "images", "accuracy", "note"], "left out at this width: intervals"),
        (50, ["class", "accuracy", "note"], "left out at this width: intervals; images"),
        (40, ["class", "accuracy"], "left out at this width: intervals; images; note"),
    ],
)
def test_what_does_not_fit_is_left_out_by_one_rule(width, heads, below) -> None:
    lines = table().lines(width)
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == heads
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 4
    assert {len(row) for row in rows} == {len(rows[0])}
    assert len(rows[0]) <= width
    assert lines[4:] == ([] if below is None else [below])


def test_where_two_columns_do_not_fit_each_row_is_a_block() -> None:
    assert table().lines(20) == [
        "class: airplane", "images: 5000", "accuracy: 63.11 [59.5, 66.6]", "note: as it is", "",
        "class: ship", "images: 83", "accuracy: 5.00 [1.2, 9.9]", "note: collapsed to one class",
    ]  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
@pytest.mark.parametrize("width", [20, 60, 80, 200, 10**6])
def test_any_name_at_any_width(width, encoding) -> None:
    made = Table("class", "images", "bar", right=(1,))
    for k, name in enumerate(NAMES):
        made.add(name, str(k), "█")
    lines = made.lines(width, encoding)
    assert "\n".join(lines).encode(encoding)
    assert not any(character in line for line in lines for character in "\x1b\n\r")
    rows = [line for line in lines if line.startswith("|")]
    assert {bars(row) for row in rows} <= {4}
    if width == 10**6:
        assert len(rows) == len(NAMES) + 2
    elif width < 200:
        assert not rows
        assert "class: a|b" in lines


def test_names_are_text_and_controls_are_written_out() -> None:
    assert visible("cat [adult] :smile: <b> שלום 猫") == "cat [adult] :smile: <b> שלום 猫"
    assert visible("a\x1b[31m\nb\tc\u2028d\u202ee\x7f") == r"a\x1b[31m\nb\tc\u2028d\u202ee\x7f"
    assert visible("caf\udce9") == r"caf\xe9"  # a file name of Latin-1 bytes
    assert visible("one\ntwo\x07", lines=True) == "one\ntwo\\x07"
    assert "█±…猫\udce9".encode("ascii", READABLE) == rb"#+-...\u732b\xe9"


def test_files_hold_names_whatever_is_in_them() -> None:
    made = Table("class", "n", right=(1,))
    made.add("a|b", "1")
    made.add("<i>\n", "2")
    assert made.markdown() == "| class | n |\n| --- | ---: |\n| a\\|b | 1 |\n| \\<i>\\n | 2 |"
    assert latex("a_b & 50 % <x|y> \\ {z} ± \n") == (
        r"a\_b \& 50 \% \textless{}x\textbar{}y\textgreater{} \textbackslash{} \{z\} $\pm$ \textbackslash{}n"
    )
    assert named("_cat\n") == r" _cat\n"
    assert len(named("x" * 100)) == 24


def test_a_table_is_printed_by_any_console() -> None:
    text = io.StringIO()
    Console(file=text, width=60, force_terminal=True, color_system=None).print(table())
    printed = text.getvalue().splitlines()
    assert [line.rstrip() for line in printed[1:-1]] == table().lines(60)


def test_a_spread_has_a_deviation_where_there_are_several() -> None:
    assert spread(63.114, 0.416) == "63.11 ± 0.42"
    assert spread(63.114, None, 1) == "63.1"


def test_rows_as_csv_and_as_a_booktabs_table() -> None:
    assert csv_text([{"a": 1, "b, c": None}, {"a": "x y", "b, c": 0.5}]) == 'a,"b, c"\n1,\nx y,0.5\n'
    assert tabular("lr", [r"a & b \\"], [["x", "1"], r"\midrule"]) == [
        r"  \begin{tabular}{lr}", r"  \toprule", r"  a & b \\", r"  \midrule", r"  x & 1 \\", r"  \midrule",
        r"  \bottomrule", r"  \end{tabular}",
    ]  # fmt: skip
