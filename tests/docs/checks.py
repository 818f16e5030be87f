"""Check commands that are shown but not run: every option, field, target and file that they name exists."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import typer

from srat_fast.cli.app import app
from srat_fast.cli.options import parse_settings, spelled_out
from srat_fast.recipe import FIELDS, NAMED_RECIPES

ROOT = Path(__file__).resolve().parents[2]
#: Programs of others, whose arguments are theirs.
FOREIGN = {
    "cd",
    "cp",
    "echo",
    "export",
    "git",
    "kill",
    "ls",
    "mkdir",
    "ray",
    "scancel",
    "squeue",
    "tensorboard",
    "watch",
}


def lines(text: str) -> list[str]:
    """Commands of a block: continued lines joined, comments and empty lines left out."""
    joined = text.replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def parsed(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """What typer makes of `srat-fast` arguments, without running anything.

    Args:
        arguments: words after the program's name.

    Returns:
        (the command's path, its parameters).
    """
    command: Any = typer.main.get_command(app)
    context = command.make_context("srat-fast", spelled_out(arguments))
    while hasattr(command, "commands"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
    return context.command_path, context.params


def check(line: str) -> None:
    """Refuse a line that names an option, field, target, extra or file that does not exist.

    Args:
        line: one command.
    """
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    if words[0] == "torchrun":  # its own options, then a module or a file as python takes them
        (start,) = [k for k, word in enumerate(words) if word == "-m" or word.endswith(".py")]
        words = ["python", *words[start:]]
    program, arguments = words[0], words[1:]
    if program == "srat-fast" or words[1:3] == ["-m", "srat_fast"]:
        _, parameters = parsed(arguments if program == "srat-fast" else words[3:])
        for field in parse_settings(list(parameters.get("settings") or [])):
            assert field in FIELDS, field
        recipe = parameters.get("recipe")
        assert recipe is None or recipe in NAMED_RECIPES or recipe.endswith((".toml", ".json")), recipe
    elif program == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        for target in arguments:
            assert target in targets or "=" in target, target
    elif program == "pip":
        metadata = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for extra in re.findall(r"\[([a-z,]+)\]", line):
            for name in extra.split(","):
                assert name in metadata["optional-dependencies"], name
    elif program in ("python", "sbatch"):
        for path in (word for word in arguments if word.endswith((".py", ".sbatch"))):
            assert (ROOT / path).is_file(), path
    else:
        assert program in FOREIGN, f"nothing is known of the program {program}"
