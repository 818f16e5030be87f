"""Options that abbreviate recipe fields: option values enter, a recipe leaves; and the way back, for messages."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from srat_fast.errors import UserError
from srat_fast.recipe import Recipe, build_recipe

#: Of the commands that read a run.
PluginFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        help="A plug-in that the run was made with; repeatable.",
        show_default="none",
    ),
]
#: option -> recipe field (docs/reference/commands.md).
OPTION_FIELDS = {
    "--dataset": "data.name",
    "--imbalance": "data.imbalance",
    "--ratio": "data.ratio",
    "--data-root": "data.root",
    "--mirror": "data.mirror",
    "--loader": "data.loader",
    "--plugin": "plugin",
    "--method": "method",
    "--seed": "seed",
    "--epochs": "optim.epochs",
    "--batch-size": "optim.batch_size",
    "--attack-bn": "attack.bn",
    "--engine": "run.engine",
    "--precision": "run.precision",
    "--deterministic": "run.deterministic",
    "--no-compile": "run.compile",
    "--profile": "run.profile",
    "--device": "run.device",
    "--watchdog": "run.watchdog_seconds",
    "--eps": "eval_attack.epsilon",
    "--subset": "data.test_limit",
}
#: Options of some commands only: a message to another command does not name them.
_OF_SOME = ("--subset", "--eps", "--no-compile")
_FIELD_OPTIONS = {field: option for option, field in OPTION_FIELDS.items() if option not in _OF_SOME}
#: field -> the option by which this command was given it.
_given: dict[str, str] = {}


def fields_given(options: dict[str, Any], fields: dict[str, str] | None = None) -> dict[str, Any]:
    """Field -> value of the options that were given (are not None); messages will name a field by its option."""
    fields = OPTION_FIELDS | (fields or {})
    given = {option: value for option, value in options.items() if value is not None}
    _given.update({fields[option]: option for option in given})
    return {fields[option]: value for option, value in given.items()}


def forget_given() -> None:
    """Another command begins in this process."""
    _given.clear()


def named_as_option(field: str) -> str:
    """How a message calls a field: "--epochs (optim.epochs)" where it was given by an option, or has one."""
    option = _given.get(field) or _FIELD_OPTIONS.get(field)
    if option is None:
        return field
    # an option that means another field in another command is told before the field
    return f"{option} ({field})" if OPTION_FIELDS.get(option) == field else f"{option}: {field}"


def spelled_out(arguments: list[str]) -> list[str]:
    """Arguments as typer can take them: `--resume` with its value, and `~` of every path as the home directory.

    Args:
        arguments: of the command line.

    Returns:
        The same with `--resume` as `--resume=must`, unless "auto" follows or a value is joined by "="; and with `~/x`,
        `--out=~/x` and `data.root=~/x` expanded, which no shell does within quotes or behind "=".
    """
    spelled = []
    for argument, following in itertools.pairwise([*arguments, ""]):
        spelled.append(
            "--resume=must" if argument == "--resume" and following != "auto" else _from_home(argument)
        )
    return spelled


def _from_home(argument: str) -> str:
    home = re.match(r"(?:[\w.-]+=)?(~[\w.-]*)(?=/|$)", argument)
    return (
        argument
        if home is None
        else argument[: home.start(1)] + os.path.expanduser(argument[home.start(1) :])
    )


def parse_settings(settings: list[str]) -> dict[str, str]:
    """`--set section.field=value`, several times.

    Args:
        settings: the raw texts.

    Returns:
        Dotted name -> text.

    Raises:
        UserError: a text without "=".
    """
    parsed = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UserError("--set", "section.field=value is needed, such as optim.lr=0.05", text)
        parsed[name.strip()] = value.strip()
    return parsed


def recipe_from_options(
    recipe: str | None, options: dict[str, Any], settings: list[str], fields: dict[str, str] | None = None
) -> Recipe:
    """Named recipe or file < options (`fields` has those that only this command has) < `--set`."""
    return build_recipe(recipe, fields_given(options, fields) | parse_settings(settings))
