"""Options that abbreviate recipe fields: option values enter, a recipe leaves; and the way back, for messages."""

from __future__ import annotations

import itertools
import os
import re
from typing import Any

from srat_fast.errors import UserError
from srat_fast.recipe import Recipe, build_recipe

#: option -> recipe field (docs/reference/commands.md).
OPTION_FIELDS = {
    "--dataset": "data.name",
    "--imbalance": "data.imbalance",
    "--ratio": "data.ratio",
    "--data-root": "data.root",
    "--mirror": "data.mirror",
    "--loader": "data.loader",
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
_FIELD_OPTIONS = {field: option for option, field in OPTION_FIELDS.items()}


def named_as_option(field: str) -> str:
    """How a message calls a field: by its option where it has one.

    Args:
        field: dotted name, or an option.

    Returns:
        Such as "--epochs (optim.epochs)".
    """
    option = _FIELD_OPTIONS.get(field)
    return f"{option} ({field})" if option else field


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


def recipe_from_options(recipe: str | None, options: dict[str, Any], settings: list[str]) -> Recipe:
    """Named recipe or file < options < `--set`.

    Args:
        recipe: as given to `--recipe`.
        options: option -> value; None where it was not given.
        settings: `--set` texts.

    Returns:
        The checked recipe.

    Raises:
        UserError: anything wrong with them.
    """
    changes = {OPTION_FIELDS[option]: value for option, value in options.items() if value is not None}
    return build_recipe(recipe, changes | parse_settings(settings))
