"""README.md says what is so: its tables come from committed results, its commands and names exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from srat_fast.cli.app import app
from srat_fast.datasets import DATASETS
from srat_fast.methods import PAPER, rows
from srat_fast.recipe import FIELDS, NAMED_RECIPES

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_result_tables_come_from_committed_results() -> None:
    assert "<!-- results:" in TEXT
    script = [sys.executable, str(ROOT / "benchmarks" / "readme.py"), "--check"]
    assert subprocess.run(script, check=False).returncode == 0, "run python benchmarks/readme.py"


def test_every_method_data_set_and_recipe_is_described() -> None:
    for name in (*(row.name for row in rows() if row.family == PAPER), *DATASETS, *NAMED_RECIPES):
        assert f"`{name}`" in TEXT, name


def test_commands_and_fields_that_are_shown_exist() -> None:
    commands = {c.callback.__name__ for c in app.registered_commands} | {
        g.name for g in app.registered_groups
    }
    for command in re.findall(r"srat-fast ([a-z]+(?:-[a-z]+)?)", TEXT):
        assert command.replace("-", "_") in commands, command
    for field in re.findall(r"--set ([a-z_]+\.[a-z_]+)=", TEXT):
        assert field in FIELDS, field


def test_files_on_the_reading_path_exist() -> None:
    for path in re.findall(r"\]\(((?:srat_fast|kernels|benchmarks|tests|docs|examples)/[^)#]*)\)", TEXT):
        assert (ROOT / path).exists(), path
