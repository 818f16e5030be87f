"""What a search varies: the [search] table of a spec enters; its checked settings leave, or what is wrong with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from srat_fast.errors import UserError, one_of
from srat_fast.recipe import FIELDS, Recipe

SAMPLERS = ("tpe", "random")
_KEYS = {"trials": 1, "sampler": "tpe", "seed": 0, "after": 0, "factor": 3, "space": {}}


@dataclass(frozen=True)
class Search:
    """A search over recipe fields.

    Attributes:
        trials: how many runs.
        sampler: "tpe" (Optuna's tree-structured Parzen estimator) or "random".
        seed: of the sampler.
        after: epochs before a trial may be stopped early; 0 never stops one.
        factor: of the trials at a rung, one in so many goes on.
        space: dotted field -> {"low", "high", "log"} or {"choices"}.
        base: dotted fields of every run.
    """

    trials: int
    sampler: str
    seed: int
    after: int
    factor: int
    space: dict[str, dict[str, Any]]
    base: dict[str, Any] = dataclasses.field(default_factory=dict)


def is_integer(field: str) -> bool:
    """Whether a recipe field holds an integer.

    Args:
        field: dotted name.

    Returns:
        True for integers, also optional ones.
    """
    return "int" in str(FIELDS[field][0]) and "tuple" not in str(FIELDS[field][0])


def _range(name: str, entry: Any, wrong: Callable[..., None]) -> dict[str, Any] | None:
    where = f"search.space: {name}"
    if isinstance(entry, list):
        entry = {"choices": entry}
    if not isinstance(entry, dict) or not (
        set(entry) == {"choices"} or {"low", "high"} <= set(entry) <= {"low", "high", "log"}
    ):
        wrong(where, "{ low = .., high = .., log = false } or a list of choices is needed", entry)
        return None
    if "choices" in entry:
        if not isinstance(entry["choices"], list) or len(entry["choices"]) < 2:
            wrong(where, "at least two choices are needed", entry["choices"])
            return None
        return entry
    low, high, log = entry["low"], entry["high"], entry.get("log", False)
    numbers = all(isinstance(bound, (int, float)) and not isinstance(bound, bool) for bound in (low, high))
    if not numbers or not isinstance(log, bool) or not low < high or (log and low <= 0):
        wrong(where, "numbers low < high are needed (low > 0 with log = true)", entry)
        return None
    return {"low": low, "high": high, "log": log}


def read_search(table: Any, names: Callable[[str, dict], dict], wrong: Callable[..., None]) -> Search | None:
    """The [search] table.

    Args:
        table: as TOML gives it.
        names: spells field names out, and reports unknown ones.
        wrong: told of every problem.

    Returns:
        The search, or None where too much is wrong with it.
    """
    if not isinstance(table, dict):
        wrong("search", "a table [search] is needed", table)
        return None
    for key in table:
        if key not in _KEYS:
            wrong(f"search: {key}", one_of(_KEYS, key))
    values = {key: table.get(key, default) for key, default in _KEYS.items()}
    for key, low in (("trials", 1), ("seed", 0), ("after", 0), ("factor", 2)):
        if type(values[key]) is not int or values[key] < low:
            wrong(f"search: {key}", f"an integer >= {low}", values[key])
    if "trials" not in table:
        wrong("search: trials", "is missing: how many runs?")
    if values["sampler"] not in SAMPLERS:
        wrong("search: sampler", one_of(SAMPLERS, values["sampler"]), values["sampler"])
    space = values.pop("space")
    if not isinstance(space, dict) or not space:
        wrong("search: space", "a table [search.space] of fields is needed", space)
        return None
    # { low = .., high = .. } must not be taken for the fields x.low and x.high: ranges travel as one-element lists
    wrapped = names("search.space", _wrapped(space))
    ranges = {name: _range(name, entry[0], wrong) for name, entry in wrapped.items()}
    return Search(**values, space={name: entry for name, entry in ranges.items() if entry is not None})


def _wrapped(tree: dict[str, Any]) -> dict[str, Any]:
    leaves = ("low", "high", "log", "choices")
    return {
        key: _wrapped(value) if isinstance(value, dict) and not any(k in leaves for k in value) else [value]
        for key, value in tree.items()
    }


def check_search(search: Search, recipe: Recipe, wrong: Callable[..., None]) -> None:
    """Refuse a space that the recipe does not allow, and a search that would look at the test set.

    Args:
        search: as read.
        recipe: that every run starts from.
        wrong: told of every problem.
    """
    if recipe.data.val_fraction <= 0:
        wrong(
            "data.val_fraction",
            "a number > 0: a search judges by validation images, never by the test set",
            0.0,
        )
    if search.after and search.after >= recipe.optim.epochs:
        wrong("search: after", f"less than optim.epochs = {recipe.optim.epochs}", search.after)
    for name, entry in search.space.items():
        for value in entry.get("choices") or (entry["low"], entry["high"]):
            try:
                recipe.replace({name: value})
            except UserError as error:
                wrong(f"search.space: {name}", error.problem, value)
