"""Recipes by name and in files (TOML, JSON)."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srat_fast import plugins
from srat_fast.errors import UserError, did_you_mean
from srat_fast.methods import METHODS, require_effect
from srat_fast.recipe.fields import checked
from srat_fast.recipe.recipe import FIELDS, SECTIONS, Recipe, flatten
from srat_fast.recipe.sections import Attack
from srat_fast.record import RECIPE
from srat_fast.registry import threat

#: name -> (what it is for, fields that differ from the defaults of the sections).
NAMED_RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "paper": ("the authors' semantics at full size: 200 epochs, ResNet-18 of width 64", {}),
    "smoke": (
        "minutes on a CPU: narrow network, few epochs and images; shows that everything runs, not the paper's numbers",
        {
            "model.width": 16,
            "optim.epochs": 4,
            "optim.lr": 0.05,
            "optim.decay": 0.1,
            "optim.clip_norm": 1.0,
            "optim.batch_size": 64,
            "data.limit": 12500,
            "data.test_limit": 1000,
            "attack.steps": 5,
            "attack.step_size": 4 / 255,
        },
    ),
    "digits": (
        "scikit-learn's 8x8 digits: four batches an epoch, so a longer warm-up than the paper's and clipped gradients",
        {
            "data.name": "digits",
            "data.ratio": 10,
            "model.width": 16,
            "optim.epochs": 80,
            "optim.decay": 0.1,
            "optim.clip_norm": 1.0,
            "attack.epsilon": 0.1,
            "attack.step_size": 0.025,
            "eval_attack.step_size": 0.025,
        },
    ),
}

#: Recipe that `--dataset NAME` takes where no `--recipe` is given; the others take `paper`.
DEFAULT_RECIPE = {"digits": "digits"}


def named_fields(name: str) -> dict[str, Any]:
    """The dotted fields in which a named recipe differs from the defaults."""
    if name not in NAMED_RECIPES:
        of_run = Path(name) / RECIPE
        hint = f"; did you mean {of_run}?" if of_run.is_file() else did_you_mean(name, NAMED_RECIPES)
        problem = f"one of {', '.join(NAMED_RECIPES)}, or a file ending in .toml or .json{hint}"
        raise UserError("--recipe", problem, name)
    return dict(NAMED_RECIPES[name][1])


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


def load_fields(
    recipe: str | None, dataset: str | None = None, changes: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What `--recipe` stands for, as dotted fields, with `changes`, which win.

    A file's top-level key `base` names the recipe that it starts from (default: the data set's own).
    """
    named, own = _layers(recipe, dataset)
    asked = own | (changes or {})
    if "plugin" in asked:
        Recipe().replace({"plugin": asked["plugin"]})  # it may bring the threat model
    method = asked.get("method", named.get("method", Recipe.method))
    if asked.get("protocol") == "own" and isinstance(method, str) and method in METHODS:
        named = named | _own(METHODS[method].own, asked)
    return _in_its_ball(named, asked) | asked


def _in_its_ball(named: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """A named recipe where another threat model is asked for: its lengths, L-inf ones, mean nothing there."""
    ball = asked.get("attack.threat", Attack.threat)
    judged = asked.get("eval_attack.threat") or ball
    for section, of_section in (("attack.", ball), ("eval_attack.", judged)):
        if of_section != Attack.threat:
            named = {n: v for n, v in named.items() if n not in (section + "epsilon", section + "step_size")}
    # a plug-in's ball may leave it out; what is no name is refused later
    usual = getattr(threat[ball], "usual", None) if isinstance(ball, str) and ball in threat else None
    return named if ball == Attack.threat or usual is None else named | {"attack.epsilon": usual}


def _own(own: Mapping[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """The authors' settings; in other epochs than theirs milestones at the same share, and a warm-up that fits."""
    epochs, fields = int(own.get("optim.epochs", 1)), dict(own)
    annotation, spec = FIELDS["optim.epochs"]
    wanted = checked("optim.epochs", asked.get("optim.epochs", epochs), annotation, spec)
    if wanted == epochs:
        return fields
    for name in ("optim.milestones", "optim.awp_epoch", "optim.defer_epoch"):
        if name in own:
            at = own[name] if isinstance(own[name], tuple) else (own[name],)
            scaled = sorted(
                {m * wanted // epochs for m in at} - ({0} if name == "optim.milestones" else set())
            )
            fields[name] = tuple(scaled) if isinstance(own[name], tuple) else scaled[0]
    if "optim.warmup_epochs" in own:
        fields["optim.warmup_epochs"] = min(own["optim.warmup_epochs"], math.ceil(wanted / 4))
    return fields


def _layers(recipe: str | None, dataset: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of a named recipe, and those that a file adds."""
    if recipe is not None and Path(recipe).suffix in (".toml", ".json"):
        dotted = nested_to_dotted(_read(Path(recipe)))
        if "plugin" in dotted:
            dotted["plugin"] = plugins.beside(Path(recipe), dotted["plugin"])
        name = dataset or dotted.get("data.name")
        base = dotted.pop("base", DEFAULT_RECIPE.get(str(name), "paper"))
        return named_fields(str(base)), dotted
    return named_fields(recipe or DEFAULT_RECIPE.get(str(dataset), "paper")), {}


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
    require_effect(str(changes.get("method", "")))
    built = Recipe().replace(load_fields(recipe, changes.get("data.name"), changes))
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
