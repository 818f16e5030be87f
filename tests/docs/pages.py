"""Fenced blocks of the documentation, and whether they are run.

A page's `bash` and `python` blocks are run from top to bottom in one fresh directory, as a reader would. A block with
a title (```toml title="mine.toml") is a file: it is written there. A block whose first line is a comment that begins
with one of `REASONS` is not run, and says so to the reader in the same words; its commands are checked instead.
A line `<!-- setup: runs/demo -->` puts a small finished run into the directory beforehand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
REASONS = ("# needs ", "# downloads ", "# takes ")
_FENCE = re.compile(r"^( *)```(\w*)(?: +title=\"([^\"]+)\")?[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        line: number of its first line in the page.
        language: as written behind the fence.
        title: a file's name, or None.
        text: its content.
    """

    line: int
    language: str
    title: str | None
    text: str

    @property
    def left_out(self) -> bool:
        """Whether it says why it is not run."""
        return self.text.startswith(REASONS)


def name(page: Path) -> str:
    """A page's name in messages."""
    return str(page.relative_to(ROOT))


def included(page: Path) -> str:
    """A page's text with the repository's files that it shows (`<!-- generated: file NAME -->`)."""
    text = page.read_text(encoding="utf-8")
    return re.sub(
        r"^<!-- generated: file (.+) -->$",
        lambda mark: (ROOT / mark[1]).read_text(encoding="utf-8").rstrip("\n"),
        text,
        flags=re.MULTILINE,
    )


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    text = included(page)
    found = []
    for match in _FENCE.finditer(text):
        indent, language, title, content = match.groups()
        content = re.sub(f"^{indent}", "", content, flags=re.MULTILINE) if indent else content
        found.append(Block(text.count("\n", 0, match.start()) + 2, language, title, content))
    return found
