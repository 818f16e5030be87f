"""What the pages state about the code is so: paths, tests, keys of records, fields, links; no other host is needed."""

from __future__ import annotations

import ast
import html
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from srat_fast.cli.options import OPTION_FIELDS
from srat_fast.methods import METHODS
from srat_fast.recipe import FIELDS, SECTIONS
from tests.docs.pages import PAGES, ROOT, included, name

CODE = re.compile(r"`([^`\n]+)`")
#: Files of a run, which are named alone.
KNOWN = {"recipe.json", "record.json", "metrics.jsonl", "model.safetensors", "plan.json"}


def spans(page: Path) -> set[str]:
    """Everything that stands in `code` outside of fenced blocks."""
    text = re.sub(r"^```.*?^```$", "", included(page), flags=re.MULTILINE | re.DOTALL)
    return set(CODE.findall(text))


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "changelog.md"], ids=name)
def test_paths_and_tests_that_are_named_exist(page) -> None:
    for span in spans(page):
        path, _, function = span.partition("::")
        if not re.fullmatch(r"(srat_fast|kernels|tests|benchmarks|examples|docs)/[\w./*-]+", path):
            continue
        found = list(ROOT.glob(path))
        assert found, f"{name(page)} names {span}"
        if function:
            tree = ast.parse(found[0].read_text(encoding="utf-8"))
            functions = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
            assert function.partition("[")[0] in functions, f"{name(page)} names {span}"


def test_files_that_the_code_names_exist() -> None:
    """In docstrings, comments and messages of the product, the kernels and the benchmarks."""
    named = re.compile(
        r"(?<![\w/.-])((?:srat_fast|kernels|benchmarks|tests|docs|examples)/[\w./-]+\.(?:py|md|toml))\b"
    )
    found = [
        (path, file)
        for folder in ("srat_fast", "kernels", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        for file in named.findall(path.read_text(encoding="utf-8"))
    ]
    assert len(found) > 10
    assert [(str(path), file) for path, file in found if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "changelog.md"], ids=name)
def test_fields_and_options_that_are_named_exist(page) -> None:
    sections = "|".join(SECTIONS)
    for span in spans(page):
        for field in re.findall(rf"(?<![\w./])((?:{sections})\.[a-z_]+)\b(?![/(.])", span):
            is_file = field.endswith((".py", ".json", ".safetensors", ".txt"))
            assert is_file or field in FIELDS, f"{name(page)} names the field {field}"


def test_quoted_messages_are_those_of_the_code() -> None:
    page = (ROOT / "docs/howto/troubleshooting.md").read_text(encoding="utf-8")
    code = " ".join(p.read_text(encoding="utf-8") for p in (ROOT / "srat_fast").rglob("*.py"))
    rows = re.findall(r"^\| (`.*?) \|", page.partition("## Messages")[2], re.MULTILINE)
    assert len(rows) > 5
    for quoted in (span for row in rows for span in CODE.findall(row)):
        assert quoted in code, f"no message contains {quoted!r}"


def test_pages_that_the_code_cites_exist() -> None:
    """Docstrings cite pages as method.md "Losses": the page is there, and has that heading."""
    headings = {
        page.name: [line.lstrip("# ").lower() for line in included(page).splitlines() if line.startswith("#")]
        for page in PAGES
    }
    cited = 0
    for folder in ("srat_fast", "kernels", "benchmarks", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            for file, heading in re.findall(r'([a-z]+\.md)\s+"([A-Za-z][^"\n]+)"', text):
                assert heading.lower() in headings.get(file, []), f"{path} cites {file}: {heading}"
                cited += 1
    assert cited > 5


def keys(tree: dict, depth: int = 0) -> set[str]:
    """Keys of a record, of the first two levels."""
    found = set(tree)
    if depth == 0:
        for inner in ("standard", "seconds", "best"):
            found |= keys(tree.get(inner, {}), 1)
    return found


def test_the_page_on_records_names_every_key_and_no_other(demo_run) -> None:
    page = (ROOT / "docs/reference/record.md").read_text(encoding="utf-8")
    record = json.loads((demo_run / "record.json").read_text())
    lines = [json.loads(line) for line in (demo_run / "metrics.jsonl").read_text().splitlines()]
    for section, there in (("metrics.jsonl", keys(lines[-1])), ("record.json", keys(record))):
        text = page.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
        for key in there:
            assert f"`{key}`" in text, f"{section} has {key}"
        first = [
            cell for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for cell in CODE.findall(row)
        ]
        optional = {
            "audit", "average", "ema", "evaluations", "failure", "feedback", "feedback_flops", "plugins", "problem",
            "resumed", "stage", "stages",
        }  # fmt: skip
        assert set(first) <= there | optional, set(first) - there - optional


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built strictly: an unknown link, anchor, page or symbol fails."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return out


class Assets(HTMLParser):
    """Collects what a page makes the browser load."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        attributes = dict(attrs)
        if tag in ("script", "img", "iframe"):
            self.loaded.append(attributes.get("src") or "")
        elif tag == "link" and "canonical" not in (attributes.get("rel") or ""):
            self.loaded.append(attributes.get("href") or "")


def test_the_site_needs_no_other_host(site) -> None:
    for page in site.rglob("*.html"):
        parser = Assets()
        parser.feed(page.read_text(encoding="utf-8"))
        assert len(parser.loaded) > 3
        for address in parser.loaded:
            assert not address.startswith(("http:", "https:", "//")), f"{page}: {address}"


def test_the_reference_is_complete(site) -> None:
    recipe = (site / "reference/recipe/index.html").read_text(encoding="utf-8")
    for field in FIELDS:
        assert f'<h3 id="{field.replace(".", "")}"' in recipe, field
    field = (site / "explanation/field/index.html").read_text(encoding="utf-8")
    for method in METHODS:
        assert f"<code>{html.escape(method)}</code>" in recipe + field, method
    commands = (site / "reference/commands/index.html").read_text(encoding="utf-8")
    for option in OPTION_FIELDS:
        assert f"<code>{option}</code>" in commands, option
    python = (site / "reference/python/index.html").read_text(encoding="utf-8")
    import srat_fast
    import srat_kernels

    for symbol in {*srat_fast.__all__, *srat_kernels.__all__}:
        assert re.search(rf'id="[\w.]*\.{symbol}"', python), f"{symbol} is not in the reference"


def test_an_unknown_mark_fails(tmp_path, site) -> None:
    """A generated part that is renamed does not leave a hole in a page."""
    sys.path.insert(0, str(ROOT / "docs/hooks"))
    try:
        import pages as hook
    finally:
        sys.path.pop(0)
    with pytest.raises(Exception, match="no generated part is called gone"):
        hook.on_page_markdown("<!-- generated: gone -->")
