"""Progress: lines with the time left, or bars that fit a terminal; defaults that must agree."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable

import pytest
from rich.console import Console

from srat_fast.cli import audit as command
from srat_fast.evaluation.audit.run import SUBSET
from srat_fast.evaluation.audit.verdict import AUTOATTACK_IMAGES, QUERIES
from srat_fast.progress import AmountView, BarView, LiveView, ProgressView, View, Watch


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


def watched(console: Console) -> BarView:
    with Watch(console) as watch:
        watch("autoattack [/b]", 50, 10_000)
        return watch


def trained(console: Console) -> BarView:
    with ProgressView("{title} [b]", console) as view:
        view.begin("training", 100)
        view.advance(50, "loss 1.2")
        return view


def prepared(console: Console) -> BarView:
    with AmountView(console, "cifar-10-python.tar.gz", 170_000_000, in_bytes=True) as view:
        view.update(completed=1_000_000)
        return view


def swept(console: Console) -> View:
    with LiveView(console) as view:
        view.show("drawn", "3 of 7 done")
        return view


@pytest.mark.parametrize("width", [20, 40, 80])
@pytest.mark.parametrize("shown", [watched, trained, prepared])
def test_every_bar_stays_on_one_line(shown: Callable[[Console], BarView], width: int) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, no_color=True)
    view = shown(console)
    assert view._live is not None
    (line,) = console.render_lines(view._live.get_renderable(), console.options, pad=False)
    text = "".join(segment.text for segment in line)
    assert 0 < len(text) <= width
    assert any(name in text for name in ("autoattack [/b]", "{title} [b]", "cifar-10"))


@pytest.mark.parametrize(
    ("shown", "text"), [(watched, ""), (trained, ""), (prepared, ""), (swept, "3 of 7 done\n")]
)
def test_nothing_is_drawn_in_a_pipe(shown: Callable[[Console], View], text: str) -> None:
    file = io.StringIO()
    shown(Console(file=file, width=80))
    assert file.getvalue() == text


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("shown", [watched, trained, prepared, swept])
def test_work_goes_on_when_nobody_listens(shown: Callable[[Console], View], terminal: bool) -> None:
    shown(Console(file=Broken(), force_terminal=terminal, width=80)).line("one")


def test_the_command_s_defaults_are_the_library_s() -> None:
    defaults = {name: p.default for name, p in inspect.signature(command.audit).parameters.items()}
    assert (int(defaults["subset"]), defaults["autoattack"], defaults["queries"]) == (
        SUBSET, AUTOATTACK_IMAGES, QUERIES,
    )  # fmt: skip
