"""Every command of the documentation works: pages are followed from top to bottom, what is not run is checked."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.checks import check, lines
from tests.docs.pages import PAGES, Block, blocks, name

LANGUAGES = ("bash", "python", "toml", "text", "json", "ini", "tex")
WITH_COMMANDS = [page for page in PAGES if any(b.language in ("bash", "python") for b in blocks(page))]


def prepare(page: Path, directory: Path, demo_run: Path) -> None:
    """Put there what the page says it needs."""
    for what in re.findall(r"^<!-- setup: (.+) -->$", page.read_text(encoding="utf-8"), re.MULTILINE):
        assert what == "runs/demo", f"{name(page)} asks for {what}, which nothing provides"
        shutil.copytree(demo_run, directory / what)


def follow(block: Block, directory: Path, environment: dict[str, str]) -> None:
    """Do what a block says."""
    if block.title is not None:
        (directory / block.title).parent.mkdir(parents=True, exist_ok=True)
        (directory / block.title).write_text(block.text)
    elif block.left_out:
        if block.language == "bash":
            for line in lines(block.text):
                check(line)
        else:
            compile(block.text, "block", "exec")
    elif block.language == "bash":
        done = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", block.text], cwd=directory, env=environment,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    elif block.language == "python":
        with contextlib.chdir(directory):
            exec(compile(block.text, "block", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name)
def test_a_page_can_be_followed(page, tmp_path, shell_environment, demo_run, monkeypatch) -> None:
    monkeypatch.setenv("SRAT_FAST_CACHE", shell_environment["SRAT_FAST_CACHE"])
    prepare(page, tmp_path, demo_run)
    for block in blocks(page):
        try:
            follow(block, tmp_path, shell_environment)
        except (Exception, SystemExit) as error:
            raise AssertionError(f"{name(page)}:{block.line}\n{block.text}\n{error}") from error


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_say_what_they_are(page) -> None:
    for block in blocks(page):
        assert block.language in LANGUAGES, (
            f"{name(page)}:{block.line}: no command may hide in a block without a language"
        )


@pytest.mark.parametrize(
    "line",
    ["srat-fast trian", "srat-fast train --epohcs 3", "srat-fast train --set optim.epohcs=3", "make everything",
     "pip install 'srat-fast[everything]'", "python benchmarks/gone.py", "frobnicate"],
)  # fmt: skip
def test_a_wrong_command_is_noticed(line) -> None:
    with pytest.raises(Exception, match=r"."):
        check(line)
