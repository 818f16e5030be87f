"""The text of a sweep: a TOML file enters; its fields, cells and seeds leave, or every mistake in it at once."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from srat_fast.errors import UserError, did_you_mean, one_of
from srat_fast.published import published_sets
from srat_fast.recipe import FIELDS, nested_to_dotted, require_field
from srat_fast.sweep.space import Search, read_search

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
    "seeds",
    "baseline",
    "published",
    "retries",
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
    """Everything that is wrong with a spec.

    Args:
        path: the spec's file.
        problems: one line each.
    """

    def __init__(self, path: str, problems: list[str]) -> None:
        self.problems = [f"{path}: {problem}" for problem in problems]
        super().__init__("SPEC", f"{len(problems)} problem(s): " + "; ".join(problems), path)


@dataclass(frozen=True)
class Spec:
    """A sweep as it was written.

    Attributes:
        title: in words.
        recipe: the recipe that every run starts from: a name, a file, or None for the data set's own.
        base: dotted field -> value, of every run.
        cells: dotted field -> value of each cell, in the order in which they will be run.
        axes: fields in which cells differ, in the order of the file.
        seeds: each cell is run once with each.
        baseline: method that the table compares with; None for none.
        retries: how often a failed trial is tried again.
        problems: what is wrong with it, one line each.
        search: where a search chooses the cells; None for the cells above.
        published: data set whose published numbers stand beside, for the same images in another form; None for the
            runs' own.
    """

    title: str
    recipe: str | None
    base: dict[str, Any]
    cells: list[Cell]
    axes: list[str]
    seeds: list[int]
    baseline: str | None = None
    retries: int = 2
    problems: list[str] = field(default_factory=list)
    search: Search | None = None
    published: str | None = None


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
        recipe = self.text("recipe")
        if recipe is not None and Path(recipe).suffix in (".toml", ".json"):
            recipe = str(directory / recipe)
        title = self.text("title") or default_title
        search = self.search(base, seeds)
        baseline = self.text("baseline")
        stands_for = self.text("published")
        if stands_for is not None and stands_for not in published_sets():
            self.wrong("published", "numbers are known: " + one_of(published_sets(), stands_for), stands_for)
        return Spec(
            title, recipe, base, cells, names, seeds, baseline, retries, self.problems, search, stands_for
        )

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
    """The spec that a parsed TOML document describes.

    Args:
        tree: as tomllib gives it.
        directory: against which a recipe file's path is read.
        title: for a document without one.

    Returns:
        The spec; `problems` lists what is wrong with it, and only without any it is whole.
    """
    return _Reader(copy.deepcopy(tree)).read(directory, title)


def read_tree(path: Path) -> dict[str, Any]:
    """The TOML document of a spec.

    Args:
        path: its file.

    Returns:
        As tomllib gives it.

    Raises:
        UserError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # with a byte order mark too
    except OSError as error:
        raise UserError("SPEC", f"cannot be read: {error.strerror}", str(path)) from None
    except ValueError as error:
        raise UserError("SPEC", f"is not valid TOML: {error}", str(path)) from None
