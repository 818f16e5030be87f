"""Options that abbreviate recipe fields, and options that several commands have."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from srat_fast.errors import UserError
from srat_fast.recipe import DEFAULT_RECIPE, FIELDS, NAMED_RECIPES, Recipe, build_recipe, flatten

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
    "--protocol": "protocol",
    "--model": "model.name",
    "--seed": "seed",
    "--epochs": "optim.epochs",
    "--batch-size": "optim.batch_size",
    "--attack-bn": "attack.bn",
    "--threat": "attack.threat",
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


def of_field(option: str, help: str = "", *, field: str = "", default: str = "", **how: Any) -> Any:
    """An option that abbreviates a recipe field: meaning, choices and default are the field's unless told here."""
    name = field or OPTION_FIELDS[option]
    return typer.Option(option, help=help or _meaning(name), show_default=default or _default(name), **how)


def _meaning(field: str) -> str:
    """The field's line, with its choices where that does not name them."""
    spec = FIELDS[field][1]
    doc, names = spec.doc.replace("`", ""), spec.options()
    first = re.match(r"[\w-]+(?= )", doc)  # of a sentence; a name that is allowed is left as it is written
    sentence = doc[0].upper() + doc[1:] if first and first[0] not in names else doc
    if {*names} <= {*re.findall(r"[\w-]+", doc.lower())}:
        return f"{sentence}."
    listed = f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]
    return f"{sentence}: {listed}." if len(names) > 3 else f"{listed}: {doc}."


def _default(field: str) -> str:
    """The default, and those of the data sets that have a recipe of their own."""
    value = flatten(Recipe())[field]
    others = {
        dataset: NAMED_RECIPES[recipe][1].get(field, value) for dataset, recipe in DEFAULT_RECIPE.items()
    }
    differing = [
        f"{name} {_shown(field, other)}" for name, other in others.items() if other not in (value, name)
    ]
    return "; ".join([_shown(field, value), *differing])


def _shown(field: str, value: Any) -> str:
    if value is None:
        return FIELDS[field][1].auto
    return (
        ("off", "on")[value]
        if isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


#: Options of several commands.
Text = str | None
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="FIELD=VALUE", help="Any recipe field (--print-recipe lists them); repeatable."
    ),
]
Weights = Annotated[str, typer.Option("--weights", help="last, best (by validation) or ema.")]
RunDataRoot = Annotated[Text, of_field("--data-root", "Where the data set is.", default="the run's")]
#: Of the commands that judge a run or a weights file.
Judged = Annotated[
    Path, typer.Argument(help="A run directory, or a weights file: .safetensors, .pt, .pth.", metavar="RUN")
]
FileModel = Annotated[Text, of_field("--model", "Network of a weights file.", default="what the file says")]
FileDataset = Annotated[
    Text, of_field("--dataset", "Data set on whose test images a weights file is judged.")
]
Subset = Annotated[Text, of_field("--subset")]
Device = Annotated[str, of_field("--device")]
#: Of the commands that read a run.
PluginFiles = Annotated[
    list[Path] | None,
    of_field(
        "--plugin", "A plug-in that the run was made with; repeatable.", default="none", metavar="FILE.py"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def fields_given(options: dict[str, Any], fields: dict[str, str] | None = None) -> dict[str, Any]:
    """Field -> value of the options that were given (are not None); messages will name a field by its option."""
    fields = OPTION_FIELDS | (fields or {})
    given = {option: value for option, value in options.items() if value is not None}
    _given.update({fields[option]: option for option in given})
    return {fields[option]: value for option, value in given.items()}


def judged_fields(run: Path, given: dict[str, Any], dataset: str | None, **names: str) -> dict[str, Any]:
    """`fields_given` of a command that judges a run or a weights file: `--dataset` is for files only."""
    changes = fields_given(given, names)
    if os.path.isfile(run):
        return changes | fields_given({"--dataset": dataset})
    if dataset is not None:
        raise UserError("--dataset", "is for weights files; a run has its own", dataset)
    return changes


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
    recipe: str | None,
    values: Mapping[str, Any],
    settings: list[str] | None,
    fields: dict[str, str] | None = None,
) -> Recipe:
    """Named recipe or file < options < `--set`; `values` are a command's parameters, `fields` its own options'."""
    known = OPTION_FIELDS | (fields or {})
    options = {f"--{name.replace('_', '-')}": value for name, value in values.items()}
    given = {option: value for option, value in options.items() if option in known and value != []}
    changes = fields_given(given, fields) | parse_settings(settings or [])
    built = build_recipe(recipe, changes)
    if "data.ratio" in changes and built.data.imbalance == "none":
        raise UserError("data.ratio", "has no effect with --imbalance none: leave one out", built.data.ratio)
    return built
