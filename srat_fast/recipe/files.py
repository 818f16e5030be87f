"""Recipes as files: TOML or JSON text enters, a `Recipe` leaves, and back."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from srat_fast import plugins
from srat_fast.errors import UserError
from srat_fast.recipe.named import DEFAULT_RECIPE, named_fields
from srat_fast.recipe.recipe import SECTIONS, Recipe, flatten


def nested_to_dotted(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optim": {"epochs": 10}} -> {"optim.epochs": 10}; dotted keys may already be there."""
    dotted: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            dotted |= nested_to_dotted(value, f"{prefix}{key}.")
        else:
            dotted[prefix + key] = value
    return dotted


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin a file with a byte order mark
        return tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise UserError("--recipe", f"cannot be read: {error.strerror}", str(path)) from None
    except ValueError as error:  # TOMLDecodeError, JSONDecodeError and UnicodeDecodeError all are
        raise UserError("--recipe", f"is not valid {path.suffix[1:]}: {error}", str(path)) from None


def load_fields(recipe: str | None, dataset: str | None = None) -> dict[str, Any]:
    """What `--recipe` stands for, as dotted fields.

    A file's top-level key `base` names the recipe that it starts from (default: the data set's own).
    """
    if recipe is not None and Path(recipe).suffix in (".toml", ".json"):
        dotted = nested_to_dotted(_read(Path(recipe)))
        if "plugin" in dotted:
            dotted["plugin"] = plugins.beside(Path(recipe), dotted["plugin"])
        name = dataset or dotted.get("data.name")
        base = dotted.pop("base", DEFAULT_RECIPE.get(str(name), "paper"))
        return named_fields(str(base)) | dotted
    return named_fields(recipe or DEFAULT_RECIPE.get(str(dataset), "paper"))


def build_recipe(recipe: str | None = None, changes: dict[str, Any] | None = None) -> Recipe:
    """A recipe from a named recipe or file and the fields that differ from it.

    Args:
        recipe: as for `load_fields`.
        changes: dotted name -> value; they win.

    Returns:
        The checked (not yet resolved) recipe.

    Raises:
        UserError: anything wrong with either.
    """
    changes = changes or {}
    fields = load_fields(recipe, changes.get("data.name")) | changes
    built = Recipe().replace(fields)
    plugins.load_all(built.plugin)  # refused where they have changed since
    return built


def recipe_from_dict(tree: dict[str, Any]) -> Recipe:
    """The recipe that `Recipe.to_dict` wrote."""
    return Recipe().replace(nested_to_dotted(tree))


def to_toml(recipe: Recipe, *, copies: bool = False) -> str:
    """The recipe as TOML that `build_recipe` reads back to an equal recipe; fields on "auto" are left out.

    `copies`: names plug-ins as the copies beside the file that it is for.
    """
    lines: list[str] = ['base = "paper"']
    values = flatten(recipe)
    if copies:
        values["plugin"] = [plugins.copy_name(path) for path in recipe.plugin]
    for section in ("", *SECTIONS):
        if section:
            lines.append(f"\n[{section}]")
        for name, value in values.items():
            owner, _, leaf = name.rpartition(".")
            if owner == section and value is not None:
                # JSON's strings, numbers, booleans and lists of these are TOML's too
                lines.append(f"{leaf} = {json.dumps(list(value) if isinstance(value, tuple) else value)}")
    return "\n".join(lines) + "\n"
