"""Consoles, where names are text: everything that the commands show goes through here."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import rich.console

from srat_fast.tables import visible


class Console(rich.console.Console):
    """Text is text: no markup, no emoji, no colours by guess; control characters are shown, not obeyed.

    A terminal, or lines as long as they are.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        stream = sys.stderr if stderr else sys.stdout
        terminal = stream is not None and stream.isatty()  # whatever FORCE_COLOR says: that is about colours
        environment = dict(os.environ)
        if os.name == "posix":
            environment["TERM"] = environment.get("TERM") or "dumb"
        super().__init__(
            file=stream, force_terminal=terminal, markup=False, emoji=False, highlight=False, _environ=environment,
            width=None if terminal else 10**6,  # COLUMNS is about terminals
        )  # fmt: skip

    def render_str(self, text: str, **options: Any) -> Any:
        """Text as it is."""
        return super().render_str(visible(text, lines=True), **options)

    def say(self, text: str, style: str | None = None) -> None:
        """Print a line, whole: terminals break it where they end, and join it where it is copied."""
        self.print(text, style=style, soft_wrap=True)


def interactive(console: rich.console.Console) -> bool:
    """Whether lines can be drawn over: a terminal that is not dumb."""
    return console.is_terminal and not console.is_dumb_terminal


@contextlib.contextmanager
def unheard(console: rich.console.Console) -> Iterator[None]:
    """A console that cannot be written is silent from then on: it does not end the work that it tells of.

    For a console that a program gave. rich answers a closed pipe by SystemExit; a closed file is a ValueError, and so
    is a character that the encoding lacks.
    """
    try:
        yield
    except (OSError, ValueError, SystemExit):
        console.quiet = True
