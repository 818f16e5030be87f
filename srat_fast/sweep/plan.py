"""Plan of a sweep: every cell of a spec checked, its trials with their identities, work and expected time."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
import time
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import srat_fast
from srat_fast import plugins
from srat_fast.data.paths import expanded
from srat_fast.data.plan import base_counts, planned_counts
from srat_fast.datasets import imbalance_label
from srat_fast.errors import UserError, one_of
from srat_fast.methods import METHODS, Method, require_effect
from srat_fast.recipe import FIELDS, Recipe, build_recipe, load_fields, require_together
from srat_fast.sweep.spec import BadSpec, Spec, check_search

#: Fields that a run's name says in its own way.
_NAMED = ("method", "data.name", "data.imbalance", "data.ratio", "data.root")
#: Rooms of the package whose code decides no number of a run.
_SILENT = ("cli", "sweep", "report", "figures", "sharing", "theory", "published.py")
_DIGITS = 12


@functools.cache
def code_version() -> str:
    """Package version and a hash over the sources that decide a run's numbers."""
    package = Path(srat_fast.__file__).parent
    places = (package.parent / "srat_kernels", package.parent / "kernels" / "srat_kernels")
    kernels = [directory for directory in places if directory.is_dir()]
    digest = hashlib.sha256()
    for root in (package, *kernels):
        for path in sorted(root.rglob("*.py")):
            relative = path.relative_to(root)
            if root is not package or relative.parts[0] not in _SILENT:
                digest.update(f"{relative}\0".encode() + path.read_bytes())
    return f"{srat_fast.__version__}+{digest.hexdigest()[:8]}"


@functools.cache
def data_identity(name: str, root: str) -> str:
    """Fingerprint of one's own images, "" for sets with a fixed content: their files' names and sizes; of arrays the
    checksums that an .npz file has, as those of one shape agree in both.
    """
    path = expanded("data.root", root)
    if name == "folder":
        files = [p for p in path.rglob("*") if p.is_file()]
        listing = [f"{p.relative_to(path.parent)}\0{p.stat().st_size}" for p in files]
    elif name == "npz":
        listing = []
        for file in sorted(path.glob("*.npz")) if path.is_dir() else [path]:
            with zipfile.ZipFile(file) as arrays:
                listing += [f"{file.name}\0{a.filename}\0{a.file_size}\0{a.CRC}" for a in arrays.infolist()]
    else:
        return ""
    content = "\n".join(sorted(listing)).encode(errors="surrogateescape")  # names are bytes
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


def run_identity(recipe: Recipe, code: str) -> str:
    """The id of a run: 12 hex digits over recipe, data and code."""
    text = f"{recipe.fingerprint()}\0{data_identity(recipe.data.name, recipe.data.root)}\0{code}"
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


@dataclass(frozen=True)
class Trial:
    """One run of a sweep."""

    index: int  # position in the plan, from 0; it never changes
    id: str  # fingerprint of recipe, data and code
    name: str  # of its directory: what it is in words, then the id
    cell: int  # which cell of the plan
    seed: int  # of the run
    work: float  # training work in FLOP, as `work_of` counts it
    images: int  # training images over all epochs


@dataclass(frozen=True)
class Plan:
    """All runs of a sweep."""

    title: str  # in words
    code: str  # version of the code that the ids were made with
    axes: list[str]  # fields in which cells differ
    cells: list[dict[str, Any]]  # dotted fields of each cell as the spec has them
    recipes: list[dict[str, Any]]  # dotted fields of each cell's recipe, complete but for the seed
    trials: list[Trial]  # the runs
    baseline: str | None  # method that the table compares with
    retries: int  # how often a failed trial is tried again
    notes: list[str]  # lines for the user
    #: settings of a search, whose trials are appended as it goes; None for a plan that is whole
    search: dict[str, Any] | None = None
    published: str | None = None  # data set whose published numbers stand beside; None for the runs' own
    #: the runs' plug-ins with their text, which is written beside a trial's recipe, and the rows of their methods
    plugins: list[dict[str, Any]] = field(default_factory=list)
    gpus_per_trial: int = 1  # processes of a run

    def recipe(self, trial: Trial) -> Recipe:
        """The recipe of a run, checked but not resolved; its plug-ins need not have been run here."""
        for entry in self.plugins:
            plugins.describe(entry, {name: Method(**row) for name, row in entry["methods"].items()})
        return Recipe().replace(self.recipes[trial.cell] | {"seed": trial.seed})

    def cell_recipes(self) -> dict[int, Recipe]:
        """Cell -> recipe of its first run: thousands of runs differ in few of them."""
        first: dict[int, Trial] = {}
        for trial in self.trials:
            first.setdefault(trial.cell, trial)
        return {cell: self.recipe(trial) for cell, trial in first.items()}


def work_of(recipe: Recipe, counts: Sequence[int]) -> float:
    """Training work of a run in FLOP over all epochs, on so many images a class; measurements of classes included."""
    from srat_fast.models.build import (
        planned_feedback_flops,
        planned_flops,
    )  # with torch, which takes seconds

    return float(planned_flops(recipe)) * sum(counts) * recipe.optim.epochs + planned_feedback_flops(
        recipe, counts
    )


def memory(plan: Plan, device: str) -> tuple[int, Recipe]:
    """(Bytes that the largest run of a plan holds on a "cpu", in all its processes, or on each "cuda", its recipe)."""
    from srat_fast.models.build import planned_memory  # with torch, which takes seconds

    def held(recipe: Recipe, images: int) -> int:
        share = -(-recipe.optim.batch_size // plan.gpus_per_trial)
        return planned_memory(
            recipe.replace({"optim.batch_size": share}), images // recipe.optim.epochs, device
        )

    images = {trial.cell: trial.images for trial in plan.trials}
    found = [(recipe, images[cell]) for cell, recipe in plan.cell_recipes().items()]
    if plan.search is not None:
        base = Recipe().replace(plan.search["base"])
        found.append((base, sum(planned_counts(base, base_counts(base)[0])) * base.optim.epochs))
    sizes = [held(recipe, images) for recipe, images in found]
    largest = max(range(len(sizes)), key=sizes.__getitem__)
    return sizes[largest] * (plan.gpus_per_trial if device == "cpu" else 1), found[largest][0]


def _readable(recipe: Recipe, cell: dict[str, Any]) -> str:
    data = recipe.data
    shape = imbalance_label(data.imbalance, data.ratio)
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
        self.counts: dict[tuple, list[int] | UserError] = {}

    def wrong(self, line: str, where: str) -> None:
        self.problems.setdefault(line, []).append(where)

    def start(self, cell: dict[str, Any]) -> tuple[dict[str, Any], Recipe | None]:
        """What a cell of this data set starts from: fields, and a recipe unless they are valid with the cell only."""
        dataset = cell.get("data.name", self.spec.base.get("data.name"))
        key = str(dataset)
        if key not in self.bases:
            self.bases[key] = load_fields(self.spec.recipe, dataset, self.spec.base)
            root = expanded("data.root", str(self.bases[key].get("data.root", "data")))
            self.bases[key]["data.root"] = str(root.absolute())  # trials run elsewhere
            try:
                self.starts[key] = self.built({"data.root": self.bases[key]["data.root"]}, dataset)
            except UserError:
                self.starts[key] = None
        return self.bases[key], self.starts[key]

    def built(self, fields: dict[str, Any], dataset: str | None) -> Recipe:
        """The spec's recipe with its `[base]` and further fields: lengths of another threat model are noticed."""
        chosen = {} if dataset is None else {"data.name": dataset}
        return build_recipe(self.spec.recipe, chosen | self.spec.base | fields)

    def without_effect(self, method: str, cell: dict[str, Any]) -> bool:
        """Whether a method has a prefix that changes nothing, which is wrong of a run that is new."""
        try:
            require_effect(method)
        except UserError as error:
            self.wrong(error.line(), _where(cell))
            return True
        return False

    def images(self, recipe: Recipe) -> list[int]:
        """Training images of a run by class; the same for all seeds and methods, so counted once a shape."""
        data = recipe.data
        identity = {
            name: getattr(data, name.partition(".")[2]) for name in FIELDS if name.startswith("data.")
        }
        identity.pop("data.subset_seed")
        key = tuple(identity.values())
        if key not in self.counts:
            try:
                self.counts[key] = planned_counts(recipe, base_counts(recipe)[0])
            except UserError as error:
                self.counts[key] = error
        found = self.counts[key]
        if isinstance(found, UserError):
            raise found
        return found

    def cell(self, cell: dict[str, Any]) -> tuple[dict[str, Any], Recipe, list[int]] | None:
        """Fields, recipe and training images by class of a cell, or None where something is wrong with it."""
        where = _where(cell)
        try:
            base, start = self.start(cell)
            if "data.root" in cell:
                cell = cell | {"data.root": str(expanded("data.root", str(cell["data.root"])).absolute())}
            asked = self.spec.base | cell
            if start is not None and asked.get("protocol") != "own":  # whose settings are the method's
                fields, recipe = base | cell, start.replace(cell)
            else:
                own = {"data.root": base["data.root"]} | cell
                fields = load_fields(self.spec.recipe, (base | cell).get("data.name"), self.spec.base | own)
                recipe = Recipe().replace(fields)
            if recipe.run.device.startswith("cuda:"):
                raise UserError(
                    "run.device", "a sweep's slots choose the GPU; auto, cuda or cpu", recipe.run.device
                )
            require_together(recipe, self.spec.gpus_per_trial)
            return fields, recipe, self.images(recipe)
        except UserError as error:
            self.wrong(error.line(), where)
            return None


def _where(cell: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in cell.items()) or "[base]"


def make_plan(spec: Spec, source: str, code: str | None = None, old: Plan | None = None) -> Plan:
    """Check every cell of a spec and name its runs; `BadSpec` has the problems of all of them.

    What is refused since the `old` plan of the same sweep was made is refused of further runs only.
    """
    planner = _Planner(spec, code or code_version())
    cells: list[dict[str, Any]] = []
    recipes: list[dict[str, Any]] = []
    checks: list[tuple[Recipe, list[int]]] = []
    trials: list[Trial] = []
    seen, twice = set[str](), 0
    known, refused = {trial.id for trial in old.trials} if old is not None else set(), set[int]()
    for cell in spec.cells:
        checked = planner.cell(cell)
        if checked is None:
            continue
        fields, recipe, images = checked
        cells.append(cell)
        recipes.append(fields)
        checks.append((recipe, images))
    for seed in spec.seeds:  # outermost: stopped early, a sweep has compared all cells on some seeds
        for k, (recipe, images) in enumerate(checks):
            identity = run_identity(recipe.replace({"seed": seed}), planner.code)
            if identity in seen:
                twice += 1
                continue
            seen.add(identity)
            if identity not in known and k not in refused and planner.without_effect(recipe.method, cells[k]):
                refused.add(k)
            name = f"{_readable(recipe, cells[k])}-seed{seed}-{identity}"
            work, total = work_of(recipe, images), sum(images) * recipe.optim.epochs
            trials.append(Trial(len(trials), identity, name, k, seed, work, total))
    search = _planned_search(spec, planner) if spec.search is not None else None
    if search is not None and (old is None or old.search is None):
        for method in search["space"].get("method", {}).get("choices", ()):
            planner.without_effect(str(method), {})
    if spec.baseline is not None and spec.baseline not in METHODS:  # those of plug-ins are known by now
        planner.wrong(UserError("baseline", one_of(METHODS, spec.baseline), spec.baseline).line(), "")
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
        spec.published, _described([*recipes, *([] if search is None else [search["base"]])]),
        spec.gpus_per_trial,
    )  # fmt: skip


def _described(recipes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The plug-ins of recipes, so that they travel with the plan."""
    entries = []
    for path in dict.fromkeys(path for fields in recipes for path in fields.get("plugin", ())):
        entry = plugins.description(path)
        rows = {name: dataclasses.asdict(METHODS[name]) for kind, name in entry["names"] if kind == "method"}
        entries.append(entry | {"methods": rows})
    return entries


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
    """(recipe fields, trial) of a search's suggestion; the trial is numbered as the plan's next."""
    assert plan.search is not None
    fields = plan.search["base"] | values
    recipe = Recipe().replace(fields)
    images = planned_counts(recipe, base_counts(recipe)[0])
    identity = run_identity(recipe, plan.code)
    name = f"{_readable(recipe, values)}-seed{recipe.seed}-{identity}"
    work, total = work_of(recipe, images), sum(images) * recipe.optim.epochs
    return fields, Trial(len(plan.trials), identity, name, len(plan.cells), recipe.seed, work, total)


def _located(line: str, where: list[str]) -> str:
    cells = [text for text in where if text]
    if not cells:
        return line
    more = f" and {len(cells) - 1} more cell(s)" if len(cells) > 1 else ""
    return f"{line} (in the cell {cells[0]}{more})"


@dataclass(frozen=True)
class Estimate:
    """A time and its source."""

    seconds: float | None  # of wall time with all slots; None where nothing is known
    source: str  # what it rests on, in words


@dataclass(frozen=True)
class Progress:
    """How far a running trial is."""

    trial: Trial
    epoch: int = 0  # epochs done
    epochs: int = 1  # in all
    speed: float = 0.0  # training images/s in its last epoch; 0 before the first one is done

    @property
    def share(self) -> float:
        """Of its training that is done."""
        return self.epoch / self.epochs


@dataclass(frozen=True)
class Finished:
    """What a finished trial took."""

    trial: Trial
    seconds: float
    speed: float | None = None  # training images/s; None in sweeps of earlier versions


def estimate(
    waiting: Iterable[Trial],
    slots: int,
    finished: Iterable[Finished] = (),
    images_per_second: float | None = None,
    running: Iterable[Progress] = (),
) -> Estimate:
    """The time until all is done: by work at the speed that running trials have now, else at the rate of finished
    ones, else by images at a stated speed.

    What a run takes beside training (start, compilation, evaluation) is that of finished ones.
    """
    under_way = list(running)
    moving = [progress for progress in under_way if progress.speed]
    done = [run for run in finished if run.seconds]
    per_image = 0.0  # seconds; of the stated speed
    if moving:
        mean = sum(progress.speed for progress in moving) / len(moving)
        rate = sum(p.speed * p.trial.work / p.trial.images for p in moving) / len(moving)
        source = f"at the {mean:,.3g} training images/s of a running trial"
        known = [run for run in done if run.speed]
        if known:
            trained = sum(run.trial.images / run.speed for run in known if run.speed)
            rate *= min(1.0, trained / sum(run.seconds for run in known))
            source += f"; evaluation as in {len(known)} finished run(s)"
        else:
            source += ", evaluation not counted"
    elif done:
        rate = sum(run.trial.work for run in done) / sum(run.seconds for run in done)
        source = f"from {len(done)} finished run(s) of this sweep"
    elif images_per_second:
        per_image = 1.0 / images_per_second
        source = f"at the given {images_per_second:,g} training images/s a trial, evaluation not counted"
    else:
        return Estimate(
            None,
            "unknown until a run of this sweep has trained an epoch; --images-per-second N gives an estimate",
        )
    left = [*((trial, 1.0) for trial in waiting), *((p.trial, 1.0 - p.share) for p in under_way)]
    each = [share * (trial.images * per_image if per_image else trial.work / rate) for trial, share in left]
    return Estimate(max(sum(each) / max(1, min(slots, len(each))), max(each, default=0.0)), source)


def duration(seconds: float | None) -> str:
    """Seconds in words, such as "2 h 05 min"."""
    if seconds is None:
        return "unknown"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours / 24:.1f} days"


def clock(seconds: float | None) -> str:
    """When something that takes `seconds` from now ends, such as "Mon 14:05"."""
    return "" if seconds is None else time.strftime("%a %H:%M", time.localtime(time.time() + seconds))
