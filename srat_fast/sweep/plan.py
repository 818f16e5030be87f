"""From a spec to its runs: cells and seeds enter; trials with an id, a name and an amount of work leave."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from srat_fast.data.plan import base_counts, planned_counts
from srat_fast.data.verify import expanded
from srat_fast.datasets import DATASETS
from srat_fast.errors import UserError
from srat_fast.methods import METHODS
from srat_fast.recipe import FIELDS, Recipe, load_fields
from srat_fast.sweep.identity import code_version, run_identity
from srat_fast.sweep.space import check_search
from srat_fast.sweep.spec import BadSpec, Spec

#: Fields that a run's name says in its own way.
_NAMED = ("method", "data.name", "data.imbalance", "data.ratio", "data.root")


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
        index: position in the plan, from 0; it never changes.
        id: fingerprint of recipe, data and code.
        name: of its directory: what it is in words, then the id.
        cell: which cell of the plan.
        seed: of the run.
        work: training work in FLOP, as `srat_fast.sweep.estimate` counts it.
        images: training images over all epochs.
    """

    index: int
    id: str
    name: str
    cell: int
    seed: int
    work: float
    images: int


@dataclass(frozen=True)
class Plan:
    """All runs of a sweep.

    Attributes:
        title: in words.
        code: version of the code that the ids were made with.
        axes: fields in which cells differ.
        cells: dotted fields of each cell as the spec has them.
        recipes: dotted fields of each cell's recipe, complete but for the seed.
        trials: the runs.
        baseline: method that the table compares with.
        retries: how often a failed trial is tried again.
        notes: lines for the user.
        search: settings of a search, whose trials are appended as it goes; None for a plan that is whole.
        published: data set whose published numbers stand beside; None for the runs' own.
    """

    title: str
    code: str
    axes: list[str]
    cells: list[dict[str, Any]]
    recipes: list[dict[str, Any]]
    trials: list[Trial]
    baseline: str | None
    retries: int
    notes: list[str]
    search: dict[str, Any] | None = None
    published: str | None = None

    def recipe(self, trial: Trial) -> Recipe:
        """The recipe of a run.

        Args:
            trial: of this plan.

        Returns:
            Checked, not resolved.

        Raises:
            UserError: the plan was made by other code, which knew other fields.
        """
        return Recipe().replace(self.recipes[trial.cell] | {"seed": trial.seed})


def work_of(recipe: Recipe, images: int) -> float:
    """Training work of a run: a forward pass counts 1.11 GFLOP at width 64 and 32 pixels, a gradient as much again.

    Args:
        recipe: any.
        images: training images an epoch.

    Returns:
        FLOP over all epochs.
    """
    size = recipe.data.image_size or DATASETS[recipe.data.name].image_size or 32
    forward = 1.11e9 * (recipe.model.width / 64) ** 2 * (size / 32) ** 2
    passes = 3 + (2 * recipe.attack.steps if recipe.row.adversarial else 0)
    return forward * passes * images * recipe.optim.epochs


def _readable(recipe: Recipe, cell: dict[str, Any]) -> str:
    data = recipe.data
    shape = data.imbalance if data.imbalance == "none" else f"{data.imbalance}-{data.ratio:g}"
    parts = [data.name, shape, recipe.method]
    for name, value in cell.items():
        if name not in _NAMED:
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            parts.append(f"{name.rpartition('.')[2]}={text}")
    return re.sub(r"[^A-Za-z0-9._=+-]+", "_", "-".join(parts))[:100]


class _Planner:
    """Turns cells into trials and collects every cell's problems."""

    def __init__(self, spec: Spec, code: str) -> None:
        self.spec, self.code = spec, code
        self.problems: dict[str, list[str]] = {}
        self.bases: dict[str | None, dict[str, Any]] = {}
        self.starts: dict[str, Recipe | None] = {}
        self.counts: dict[tuple, int | UserError] = {}

    def wrong(self, line: str, where: str) -> None:
        self.problems.setdefault(line, []).append(where)

    def start(self, cell: dict[str, Any]) -> tuple[dict[str, Any], Recipe | None]:
        """What a cell of this data set starts from: fields, and a recipe unless they are valid with the cell only."""
        dataset = cell.get("data.name", self.spec.base.get("data.name"))
        key = str(dataset)
        if key not in self.bases:
            self.bases[key] = load_fields(self.spec.recipe, dataset) | self.spec.base
            root = expanded("data.root", str(self.bases[key].get("data.root", "data")))
            self.bases[key]["data.root"] = str(root.absolute())  # trials run elsewhere
            try:
                self.starts[key] = Recipe().replace(self.bases[key])
            except UserError:
                self.starts[key] = None
        return self.bases[key], self.starts[key]

    def images(self, recipe: Recipe) -> int:
        """Training images of a run; the same for all seeds and methods, so counted once a shape."""
        data = recipe.data
        identity = {
            name: getattr(data, name.partition(".")[2]) for name in FIELDS if name.startswith("data.")
        }
        identity.pop("data.subset_seed")
        key = tuple(identity.values())
        if key not in self.counts:
            try:
                self.counts[key] = sum(planned_counts(recipe, base_counts(recipe)[0]))
            except UserError as error:
                self.counts[key] = error
        found = self.counts[key]
        if isinstance(found, UserError):
            raise found
        return found

    def cell(self, cell: dict[str, Any]) -> tuple[dict[str, Any], Recipe, int] | None:
        """Fields, recipe and training images of a cell, or None where something is wrong with it."""
        where = ", ".join(f"{name} = {value}" for name, value in cell.items()) or "[base]"
        try:
            base, start = self.start(cell)
            if "data.root" in cell:
                cell = cell | {"data.root": str(expanded("data.root", str(cell["data.root"])).absolute())}
            fields = base | cell
            recipe = start.replace(cell) if start is not None else Recipe().replace(fields)
            if recipe.run.device.startswith("cuda:"):
                raise UserError(
                    "run.device", "a sweep's slots choose the GPU; auto, cuda or cpu", recipe.run.device
                )
            return fields, recipe, self.images(recipe)
        except UserError as error:
            self.wrong(error.line(), where)
            return None


def make_plan(spec: Spec, source: str, code: str | None = None) -> Plan:
    """Check every cell of a spec and name its runs.

    Args:
        spec: as read, with whatever problems.
        source: the spec's path, for messages.
        code: version that enters the ids; None for that of the running code.

    Returns:
        The plan.

    Raises:
        BadSpec: with all problems of the spec and of its cells.
    """
    planner = _Planner(spec, code or code_version())
    if spec.baseline is not None and spec.baseline not in METHODS:
        planner.wrong(UserError("baseline", f"one of {', '.join(METHODS)}", spec.baseline).line(), "")
    cells, recipes, checks, trials, seen, twice = [], [], [], [], {}, 0  # type: ignore[var-annotated]
    for cell in spec.cells:
        checked = planner.cell(cell)
        if checked is None:
            continue
        fields, recipe, images = checked
        cells.append(cell)
        recipes.append(fields)
        checks.append((recipe, images))
    for (
        seed
    ) in spec.seeds:  # seeds outermost: a sweep that is stopped early has compared all cells on some seeds
        for k, (recipe, images) in enumerate(checks):
            identity = run_identity(recipe.replace({"seed": seed}), planner.code)
            if identity in seen:
                twice += 1
                continue
            seen[identity] = True
            name = f"{_readable(recipe, cells[k])}-seed{seed}-{identity}"
            work, total = work_of(recipe, images), images * recipe.optim.epochs
            trials.append(Trial(len(trials), identity, name, k, seed, work, total))
    search = _planned_search(spec, planner) if spec.search is not None else None
    if search is not None:
        cells, recipes, trials = [], [], []
    if spec.baseline is not None and not planner.problems:
        methods = {str(fields.get("method", "srat-ldam")) for fields in recipes}
        if spec.baseline not in methods:
            line = UserError(
                "baseline", f"this sweep runs {', '.join(sorted(methods))}", spec.baseline
            ).line()
            planner.wrong(line, "")
    problems = spec.problems + [_located(line, where) for line, where in planner.problems.items()]
    if problems:
        raise BadSpec(source, problems)
    notes = [f"{twice} run(s) of the spec are the same as others and are run once"] if twice else []
    axes = spec.axes if search is None else list(search["space"])
    return Plan(
        spec.title, planner.code, axes, cells, recipes, trials, spec.baseline, spec.retries, notes, search,
        spec.published,
    )  # fmt: skip


def _planned_search(spec: Spec, planner: _Planner) -> dict[str, Any]:
    """The settings of a search, checked against the recipe that its runs start from."""
    assert spec.search is not None
    base: dict[str, Any] = {}
    checked = planner.cell({})
    if checked is not None:
        base = checked[0] | {"seed": spec.seeds[0]}
        check_search(spec.search, checked[1], lambda *what: planner.wrong(UserError(*what).line(), ""))
    return dataclasses.asdict(spec.search) | {"base": base}


def suggested(plan: Plan, values: dict[str, Any]) -> tuple[dict[str, Any], Trial]:
    """The trial of a search's suggestion.

    Args:
        plan: of the search.
        values: dotted field -> value.

    Returns:
        (fields of its recipe, the trial, numbered as the plan's next).

    Raises:
        UserError: the values contradict each other, or leave a class empty.
    """
    assert plan.search is not None
    fields = plan.search["base"] | values
    recipe = Recipe().replace(fields)
    images = sum(planned_counts(recipe, base_counts(recipe)[0]))
    identity = run_identity(recipe, plan.code)
    name = f"{_readable(recipe, values)}-seed{recipe.seed}-{identity}"
    work, total = work_of(recipe, images), images * recipe.optim.epochs
    return fields, Trial(len(plan.trials), identity, name, len(plan.cells), recipe.seed, work, total)


def _located(line: str, where: list[str]) -> str:
    cells = [text for text in where if text]
    if not cells:
        return line
    more = f" and {len(cells) - 1} more cell(s)" if len(cells) > 1 else ""
    return f"{line} (in the cell {cells[0]}{more})"
