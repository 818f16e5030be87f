"""Progress of an evaluation: lines with the time left, or a bar on a terminal; defaults that must agree."""

from __future__ import annotations

import inspect
import io

from rich.console import Console

from srat_fast.cli import audit as command
from srat_fast.cli.watch import Watch
from srat_fast.evaluation.audit.run import SUBSET
from srat_fast.evaluation.audit.verdict import AUTOATTACK_IMAGES, QUERIES


def test_lines_where_there_is_no_terminal() -> None:
    text = io.StringIO()
    with Watch(Console(file=text, width=80), every=0.0) as watch:
        watch("pgd-20", 40, 100)  # what an earlier attempt had done: no speed yet
        watch("pgd-20", 40, 100)
        assert text.getvalue() == ""
        watch("pgd-20", 70, 100)
        watch("cw-20", 0, 100)
        watch("cw-20", 100, 100)
    first, last = text.getvalue().splitlines()
    assert first.startswith("pgd-20: 70/100, ")
    assert first.endswith(" s left")
    assert last == "cw-20: 100/100, 0 s left"


def test_a_bar_on_a_terminal() -> None:
    text = io.StringIO()
    with Watch(Console(file=text, force_terminal=True, width=80)) as watch:
        watch("pgd-20", 0, 100)
        watch("pgd-20", 50, 100)
        watch("cw-20", 10, 100)
    assert "cw-20" in text.getvalue()
    assert "10/100" in text.getvalue()


def test_the_command_s_defaults_are_the_library_s() -> None:
    defaults = {name: p.default for name, p in inspect.signature(command.audit).parameters.items()}
    assert (int(defaults["subset"]), defaults["autoattack"], defaults["queries"]) == (
        SUBSET, AUTOATTACK_IMAGES, QUERIES,
    )  # fmt: skip
