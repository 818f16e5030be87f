"""mkdocs hook that fills the `generated` marks of a page from the code.

A mark is a line `<!-- generated: NAME -->`, or `NAME ARGUMENT`. Nothing generated is committed, so nothing can
fall behind the code.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from command_pages import command_reference, exit_codes
from mkdocs.exceptions import PluginError
from recipe_pages import data_sets, field_methods, field_reference, methods, named_recipes

ROOT = Path(__file__).resolve().parents[2]
MARK = re.compile(r"^<!-- generated: ([a-z-]+)(?: (\S+))? -->$", re.MULTILINE)


def example(name: str) -> str:
    """A script of examples/ as a block.

    Args:
        name: of the file.

    Returns:
        The block, titled with the path.
    """
    text = (ROOT / "examples" / name).read_text(encoding="utf-8")
    return f'```python title="examples/{name}"\n{text}```'


def repository_file(name: str) -> str:
    """A Markdown file of the repository, for a page at the top of docs/.

    Args:
        name: its path.

    Returns:
        Its text; links to pages lead to them, those to other files are only named.
    """
    text = (ROOT / name).read_text(encoding="utf-8")
    text = re.sub(r"\]\(docs/", "](", text)
    return re.sub(
        r"\[([^\]]+)\]\((?!http|#)([^)]+)\)", lambda m: m[0] if m[2].endswith(".md") else m[1], text
    )


PARTS: dict[str, Callable[..., str]] = {
    "commands": command_reference,
    "data-sets": data_sets,
    "example": example,
    "exit-codes": exit_codes,
    "fields": field_reference,
    "file": repository_file,
    "methods": methods,
    "field-methods": field_methods,
    "named-recipes": named_recipes,
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill a page's marks.

    Args:
        markdown: the page as it is committed.
        **_: the page and the site, which no part depends on.

    Returns:
        The page with each mark replaced by its part.

    Raises:
        PluginError: a mark that names no part.
    """

    def fill(mark: re.Match[str]) -> str:
        if mark[1] not in PARTS:
            raise PluginError(f"no generated part is called {mark[1]}; there are {', '.join(PARTS)}")
        return PARTS[mark[1]](*mark.groups()[1:] if mark[2] else ())

    return MARK.sub(fill, markdown)
