"""Sweep specs: base recipe, axes, zips, exceptions, seeds and [search] from TOML; every mistake is told at once."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from srat_fast import plugins
from srat_fast.errors import UserError, did_you_mean, one_of
from srat_fast.published import published_sets
from srat_fast.recipe import FIELDS, Recipe, nested_to_dotted, require_field

SAMPLERS = ("tpe", "random")
_SEARCH_KEYS = {"trials": 1, "sampler": "tpe", "seed": 0, "after": 0, "factor": 3, "space": {}}


@dataclass(frozen=True)
class Search:
    """A search over recipe fields."""

    trials: int  # how many runs
    sampler: str  # "tpe" (Optuna's tree-structured Parzen estimator) or "random"
    seed: int  # of the sampler
    after: int  # epochs before a trial may be stopped early; 0 never stops one
    factor: int  # of the trials at a rung, one in so many goes on
    space: dict[str, dict[str, Any]]  # dotted field -> {"low", "high", "log"} or {"choices"}


def is_integer(field: str) -> bool:
    """Whether a recipe field holds an integer."""
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
    """The [search] table; `names` spells field names out, `wrong` is told of every problem."""
    if not isinstance(table, dict):
        wrong("search", "a table [search] is needed", table)
        return None
    for key in table:
        if key not in _SEARCH_KEYS:
            wrong(f"search: {key}", one_of(_SEARCH_KEYS, key))
    values = {key: table.get(key, default) for key, default in _SEARCH_KEYS.items()}
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
    """Refuse a space that the recipe does not allow, and a search that would look at the test set."""
    if recipe.data.val_fraction <= 0:
        wrong(
            "data.val_fraction",
            "a number > 0: a search judges by validation images, never by the test set",
            0.0,
        )
    if search.after and search.after >= recipe.optim.epochs:
        wrong("search: after", f"less than optim.epochs = {recipe.optim.epochs}", search.after)
    for name in ("method", "protocol", "optim.epochs") if recipe.protocol == "own" else ("protocol",):
        if name in search.space:  # a suggestion replaces fields of one recipe
            problem = (
                "cannot be searched: the settings of protocol = own follow from it; take one search each"
            )
            wrong(f"search.space: {name}", problem, search.space[name])
    for name, entry in search.space.items():
        for value in entry.get("choices") or (entry["low"], entry["high"]):
            try:
                recipe.replace({name: value})
            except UserError as error:
                wrong(f"search.space: {name}", error.problem, value)


#: Names of command-line options that a spec may use for recipe fields (tests hold them against the options).
ABBREVIATIONS = {
    "dataset": "data.name",
    "imbalance": "data.imbalance",
    "ratio": "data.ratio",
    "data_root": "data.root",
    "loader": "data.loader",
    "epochs": "optim.epochs",
    "batch_size": "optim.batch_size",
    "attack_bn": "attack.bn",
    "threat": "attack.threat",
    "engine": "run.engine",
    "precision": "run.precision",
    "deterministic": "run.deterministic",
    "device": "run.device",
    "watchdog": "run.watchdog_seconds",
}
_KEYS = (
    "title",
    "recipe",
    "plugin",
    "seeds",
    "baseline",
    "published",
    "retries",
    "gpus_per_trial",
    "base",
    "axes",
    "zip",
    "runs",
    "include",
    "exclude",
    "search",
)

Cell = dict[str, Any]


class BadSpec(UserError):
    """Everything that is wrong with a spec."""

    def __init__(self, path: str, problems: list[str]) -> None:
        self.problems = [f"{path}: {problem}" for problem in problems]
        super().__init__("SPEC", f"{len(problems)} problem(s): " + "; ".join(problems), path)


@dataclass(frozen=True)
class Spec:
    """A sweep as it was written."""

    title: str  # in words
    #: the recipe that every run starts from: a name, a file, or None for the data set's own
    recipe: str | None
    base: dict[str, Any]  # dotted field -> value, of every run
    cells: list[Cell]  # dotted field -> value of each cell, in the order in which they will be run
    axes: list[str]  # fields in which cells differ, in the order of the file
    seeds: list[int]  # each cell is run once with each
    baseline: str | None = None  # method that the table compares with; None for none
    retries: int = 2  # how often a failed trial is tried again
    problems: list[str] = field(default_factory=list)  # what is wrong with it, one line each
    search: Search | None = None  # where a search chooses the cells; None for the cells above
    #: data set whose published numbers stand beside, where the runs have its images in another form
    published: str | None = None
    gpus_per_trial: int = 1  # processes of a run, a GPU each, or on a CPU some cores each


class _Reader:
    """Reads a spec and collects what is wrong with it."""

    def __init__(self, tree: dict[str, Any]) -> None:
        self.tree, self.problems = tree, []  # type: dict[str, Any], list[str]

    def wrong(self, where: str, problem: str, *value: Any) -> None:
        self.problems.append(UserError(where, problem, *value).line())

    def table(self, key: str) -> dict[str, Any]:
        value = self.tree.get(key, {})
        if not isinstance(value, dict):
            self.wrong(key, f"a table [{key}] is needed", value)
            return {}
        return self.dotted(key, value)

    def tables(self, key: str) -> list[dict[str, Any]]:
        value = self.tree.get(key, [])
        entries = [value] if isinstance(value, dict) else value
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            self.wrong(key, f"tables [[{key}]] are needed", value)
            return []
        for entry in entries:
            if not entry:
                self.wrong(key, "is empty")
        return [self.dotted(key, entry) for entry in entries if entry]

    def dotted(self, key: str, tree: dict[str, Any]) -> dict[str, Any]:
        """Field names in full; unknown ones and fields named twice are reported and left out."""
        found: dict[str, Any] = {}
        for name, value in nested_to_dotted(tree).items():
            full = ABBREVIATIONS.get(name.replace("-", "_"), name)
            if full not in FIELDS:
                try:
                    require_field(name, value, ABBREVIATIONS)
                except UserError as error:
                    self.wrong(f"{key}: {name}", error.problem, value)
            elif full in found:
                self.wrong(f"{key}: {full}", "is given twice", value)
            elif full == "plugin":
                self.wrong(f"{key}: plugin", "stands at the top, for all runs: plugin = [...]", value)
            elif full == "seed":
                self.wrong(f"{key}: seed", "seeds have a list of their own: seeds = [0, 1, 2]", value)
            else:
                found[full] = value
        return found

    def lists(self, key: str, table: dict[str, Any]) -> dict[str, list[Any]]:
        """The values of axes: non-empty lists without repetitions (which would be the same runs twice)."""
        good = {}
        for name, values in table.items():
            if not isinstance(values, list):
                self.wrong(
                    f"{key}: {name}", "a list of values is needed; a single one belongs in [base]", values
                )
            elif not values:
                self.wrong(f"{key}: {name}", "is empty: a list of at least one value is needed", values)
            elif any(values.count(value) > 1 for value in values) and key == "axes":
                self.wrong(f"{key}: {name}", "names a value twice", values)
            else:
                good[name] = values
        return good

    def integers(self, key: str, default: Any, low: int) -> Any:
        value = self.tree.get(key, default)
        items = value if isinstance(value, list) else [value]
        if not items:
            self.wrong(key, "is empty: a list of at least one is needed", value)
        elif not all(type(item) is int and item >= low for item in items):
            self.wrong(key, f"integers >= {low} are needed", value)
        elif len(set(items)) < len(items):
            self.wrong(key, "names one twice", value)
        else:
            return value
        return default

    def text(self, key: str) -> str | None:
        value = self.tree.get(key)
        if value is not None and not isinstance(value, str):
            self.wrong(key, "a text is needed", value)
            return None
        return value

    def read(self, directory: Path, default_title: str) -> Spec:
        for key in self.tree:
            if key not in _KEYS:
                hint = did_you_mean(key, _KEYS) or "; known are " + ", ".join(_KEYS)
                self.wrong(key, f"is not part of a sweep's spec{hint}")
        base, axes = self.table("base"), self.lists("axes", self.table("axes"))
        if "plugin" in self.tree:
            base["plugin"] = plugins.beside(directory / "spec", self.tree["plugin"])
        groups = [self.lists("zip", table) for table in self.tables("zip")]
        for group in groups:
            if len({len(values) for values in group.values()}) > 1:
                lengths = ", ".join(f"{name} has {len(values)}" for name, values in group.items())
                self.wrong("zip", f"lists of one length are needed: {lengths}")
        runs = self.tables("runs")
        self.contradictions(base, axes, groups)
        cells = list(_grid(axes, [g for g in groups if g])) if axes or groups or not runs else []
        names = [*axes, *(name for group in groups for name in group)]
        cells = self.exceptions(cells, names)
        for run in runs:
            cells.append(run)
            names += [name for name in run if name not in names]
        if not cells and not self.problems:
            self.wrong("exclude", "leaves no run")
        seeds = self.integers("seeds", [0], 0)
        if not isinstance(seeds, list):  # seeds = 3 means 0, 1, 2
            if seeds == 0:
                self.wrong("seeds", "at least one is needed", seeds)
            seeds = list(range(seeds))
        retries = self.integers("retries", 2, 0)
        if isinstance(retries, list):
            self.wrong("retries", "one integer is needed", retries)
            retries = 2
        per_trial = self.integers("gpus_per_trial", 1, 1)
        if isinstance(per_trial, list):
            self.wrong("gpus_per_trial", "one integer is needed", per_trial)
            per_trial = 1
        recipe = self.text("recipe")
        if recipe is not None and Path(recipe).suffix in (".toml", ".json"):
            recipe = str(directory / recipe)
        title = self.text("title") or default_title
        search = self.search(base, seeds)
        baseline = self.text("baseline")
        stands_for = self.text("published")
        if stands_for is not None and stands_for not in published_sets():
            known = ", ".join(published_sets()) + did_you_mean(stands_for, published_sets())
            self.wrong("published", f"numbers are known of {known}", stands_for)
        return Spec(
            title, recipe, base, cells, names, seeds, baseline, retries, self.problems, search, stands_for, per_trial
        )  # fmt: skip

    def search(self, base: dict[str, Any], seeds: list[int]) -> Search | None:
        if "search" not in self.tree:
            return None
        for key in ("axes", "zip", "runs", "include", "exclude", "baseline"):
            if key in self.tree:
                self.wrong(key, "has no place beside [search], which chooses the cells")
        if len(seeds) != 1:
            self.wrong("seeds", "a search runs each suggestion with one seed", seeds)
        found = read_search(self.tree["search"], self.dotted, self.wrong)
        for name in found.space if found is not None else ():
            if name in base:
                self.wrong(f"search.space: {name}", "is in [base] too; which of the two holds?")
        return found

    def contradictions(self, base: dict, axes: dict, groups: list[dict]) -> None:
        owners: dict[str, str] = {}
        for owner, names in [("base", base), ("axes", axes), *(("zip", group) for group in groups)]:
            for name in names:
                if name in owners:
                    self.wrong(f"{owner}: {name}", f"is in [{owners[name]}] too; which of the two holds?")
                owners[name] = owner

    def exceptions(self, cells: list[Cell], axes: list[str]) -> list[Cell]:
        """[[exclude]] removes the cells that it matches, [[include]] sets further fields in those that it matches."""
        for rule in self.tables("exclude"):
            kept = [cell for cell in cells if not _matches(cell, rule)]
            if len(kept) == len(cells):
                self.wrong("exclude", "matches no cell", rule)
            cells = kept
        for rule in self.tables("include"):
            when = {name: value for name, value in rule.items() if name in axes}
            then = {name: value for name, value in rule.items() if name not in when}
            hit = [cell for cell in cells if _matches(cell, when)]
            if not when or not hit:
                self.wrong("include", "matches no cell; a run outside the grid belongs in [[runs]]", rule)
            elif not then:
                self.wrong("include", "names axes only, so it would set nothing", rule)
            for cell in hit:
                cell.update(then)
        return cells


def _grid(axes: dict[str, list[Any]], groups: list[dict[str, list[Any]]]) -> Iterator[Cell]:
    """Every combination; a zipped group counts as one axis, whose lists advance together."""
    columns = [[{name: value} for value in values] for name, values in axes.items()]
    for group in groups:
        rows = zip(*group.values(), strict=False)  # unequal lengths have been reported
        columns.append([dict(zip(group, row, strict=True)) for row in rows])
    for parts in product(*columns):
        cell: Cell = {}
        for part in parts:
            cell |= part
        yield cell


def _matches(cell: Cell, rule: dict[str, Any]) -> bool:
    """Whether a cell has the values of a rule; a rule's list means any of its values."""
    for name, wanted in rule.items():
        if name not in cell or (
            cell[name] not in wanted if isinstance(wanted, list) else cell[name] != wanted
        ):
            return False
    return True


def spec_from_tree(tree: dict[str, Any], directory: Path, title: str) -> Spec:
    """The spec that a parsed TOML document describes."""
    return _Reader(copy.deepcopy(tree)).read(directory, title)


def read_tree(path: Path) -> dict[str, Any]:
    """The TOML document of a spec."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # with a byte order mark too
    except OSError as error:
        raise UserError("SPEC", f"cannot be read: {error.strerror}", str(path)) from None
    except ValueError as error:
        raise UserError("SPEC", f"is not valid TOML: {error}", str(path)) from None
