"""A figure of a report that has not been drawn yet: its name, its place in the paper, and how to draw it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from srat_fast.figures.canvas import Figure

#: What the paper calls the two methods that Figs. 1 to 3 and 7 to 12 set side by side.
TRAINING = {"natural": "natural training", "ce": "adversarial training"}


@dataclass(frozen=True)
class Drawing:
    """One figure.

    Attributes:
        name: stem of its files.
        title: in one line.
        paper: the figures of the paper that it repeats, such as ("fig6",); () where it has no counterpart.
        caption: what is seen, and of which runs.
        text: the same in words, for readers who do not see it.
        draw: makes the figure; called once.
    """

    name: str
    title: str
    paper: tuple[str, ...]
    caption: str
    text: str
    draw: Callable[[], Figure]


def stem(*parts: str) -> str:
    """A file name of lower-case letters, digits, dots and dashes, from texts."""
    return "-".join(re.sub(r"[^a-z0-9.]+", "-", part.lower()).strip("-") for part in parts if part)


def percent(value: float) -> float:
    """A fraction as a number of percent."""
    return 100.0 * value
