"""`srat-fast reproduce`: tables and figures of the paper, in its form, and comparisons of the field's methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srat_fast.cli.sweep import (
    Address,
    CpuSlots,
    Engine,
    Gpus,
    OtherCode,
    SlotsPerGpu,
    print_table,
    run_spec,
)

if TYPE_CHECKING:
    from srat_fast.console import Console
    from srat_fast.report.figures.drawing import Drawing
    from srat_fast.sweep.directory import SweepDirectory
    from srat_fast.sweep.plan import Plan
    from srat_fast.sweep.reproduce import Item
    from srat_fast.sweep.spec import Spec
    from srat_fast.sweep.statements import Statement

#: Training images/s of PGD-10 at full width on one GPU that the estimate at paper scale assumes.
_ASSUMED = 10_000
#: The tables and figures together, as ITEM names them.
_ALL = "all"
#: Test images of a further attack that has a limit, at smoke scale: AutoAttack takes seconds an image.
_SMOKE_IMAGES = 10
_ON_DIGITS = "on digits, after a few epochs: these verdicts show that they are given, nothing else"


@dataclass(frozen=True)
class _Asked:
    """What the options say, of every item; `engine` is for `run_spec`."""

    scale: str
    seeds: int
    data_root: str | None
    folder: Path | None
    engine: dict[str, Any]

    def spec(self, item: Item) -> Spec:
        from srat_fast.errors import UserError
        from srat_fast.sweep.reproduce import item_spec

        spec = item_spec(item, self.scale, self.seeds, self.folder)
        if self.data_root is not None:
            if self.scale == "smoke":
                raise UserError(
                    "--data-root",
                    "has no effect: smoke scale runs on scikit-learn's digits",
                    self.data_root,
                )
            spec.base["data.root"] = self.data_root
        return spec


@dataclass(frozen=True)
class _Outcome:
    """How an item ended: exit code, runs, how many of them are other items', what was made, what the text says."""

    code: int
    runs: int = 0
    shared: int = 0
    made: str = ""
    statements: Sequence[Statement] = ()


def reproduce(
    item: Annotated[
        str | None,
        typer.Argument(
            help="table1 .. table10, fig1 .. fig16, all of them: all; or field-cifar10-lt50, field-cifar100-lt10.",
            metavar="ITEM",
            show_default=False,
        ),
    ] = None,
    show_all: Annotated[
        bool, typer.Option("--list", help="All items, with the cost of each at paper scale.")
    ] = False,
    seeds: Annotated[int, typer.Option(help="Runs of each cell.")] = 3,
    scale: Annotated[str, typer.Option(help="paper: the real thing; smoke: minutes on digits.")] = "paper",
    go: Annotated[
        bool, typer.Option("--run", help="Run the plan of paper scale; smoke scale always runs.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The sweep's directory; of all, a folder of sweeps.", show_default="reproduce/ITEM-SCALE"
        ),
    ] = None,
    data_root: Annotated[
        str | None, typer.Option(help="Where the data set is (or goes).", show_default="data")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="The same images as class folders below train/ and test/, such as JPEG copies.",
            show_default="the archive",
        ),
    ] = None,
    engine: Engine = "local",
    address: Address = None,
    gpus: Gpus = None,
    slots_per_gpu: SlotsPerGpu = None,
    cpu_slots: CpuSlots = None,
    images_per_second: Annotated[
        float | None,
        typer.Option(help="Speed of PGD-10 training at full width on your GPU, for the estimate."),
    ] = None,
    other_code: OtherCode = False,
) -> int:
    """A table or figure of the paper, or all of them. Each is one sweep and one table."""
    from srat_fast.cli.sweep_show import show_plan
    from srat_fast.console import Console
    from srat_fast.errors import UserError
    from srat_fast.sweep.plan import duration, make_plan
    from srat_fast.sweep.reproduce import field_names, item_names, load_item

    console = Console()
    if images_per_second is not None and not 0 < images_per_second < math.inf:
        raise UserError("--images-per-second", "a number > 0", images_per_second)
    if show_all:
        if item is not None:
            raise UserError("ITEM", "has no place beside --list, which names all", item)
        _list(console, seeds, images_per_second)
        return 0
    if item is None:
        known = ", ".join([*item_names(), *field_names()])
        raise UserError("ITEM", f"is missing: one of {known}, {_ALL}; --list shows them")
    if folder is not None and data_root is not None:
        raise UserError(
            "--folder", "the images are in it or below --data-root; give one of the two", str(folder)
        )
    asked = _Asked(
        scale, seeds, data_root, folder,
        {"engine": engine, "address": address, "gpus": gpus, "slots_per_gpu": slots_per_gpu, "cpu_slots": cpu_slots,
         "other_code": other_code},
    )  # fmt: skip
    directory = out if out is not None else Path("reproduce") / f"{item}-{scale}"
    if item == _ALL:
        if folder is not None:
            raise UserError("--folder", "has the images of one set; all items need three", str(folder))
        for name in item_names():
            asked.spec(load_item(name))  # bad options end it before anything is written
        if scale == "paper":
            _list(console, seeds, images_per_second, field=False)
            if not go:
                console.say("not run: --run does; --scale smoke tries everything in minutes")
                return 0
        return _all(asked, directory, console)
    found = load_item(item)
    spec = asked.spec(found)
    if found.note:
        console.say(f"note: {found.note}")
    if scale == "paper" and found.trains:
        plan = make_plan(spec, item)
        hours = _gpu_hours(plan, images_per_second or _ASSUMED)
        work = sum(trial.work for trial in plan.trials) / 1e18
        each = duration(hours * 3600 / len(plan.trials))
        line = (
            f"{len(plan.trials)} runs, {work:,.0f} EFLOP of training: about {hours:,.1f} GPU hours ({each} a run) "
            f"at {_at(images_per_second)}"
        )
        if not go:
            show_plan(console, plan, [], None, None)
            console.say(line)
            console.say("not run: --run does; --scale smoke tries everything in minutes")
            return 0
        console.say(line)
    outcome = _item(found, spec, directory, asked.engine, console, smoke=scale == "smoke")
    for statement in outcome.statements:
        console.say(statement.line())
    if outcome.statements and scale == "smoke":
        console.say(_ON_DIGITS)
    if outcome.made:
        console.say(f"in {directory}: {outcome.made}")
    return outcome.code


def _item(
    item: Item,
    spec: Spec,
    directory: Path,
    engine: dict[str, Any],
    console: Console,
    others: Sequence[Path] | None = None,
    smoke: bool = False,
) -> _Outcome:
    """Run an item, draw and judge it; among `others`, with runs of those that are there, and printing less."""
    from srat_fast.errors import UserError, path_errors
    from srat_fast.sweep.directory import SweepDirectory
    from srat_fast.sweep.reproduce import share_runs

    if not item.trains:
        return _Outcome(0, made=f"{_save(_counts(spec), item.name, directory)}; no run is needed for it")
    shared = 0

    def opened(sweep: SweepDirectory) -> None:
        nonlocal shared
        assert others is not None
        there = []
        for path in others:
            if path != directory and (path / "plan.json").exists():
                with suppress(UserError):  # one that is damaged is told of in its turn
                    there.append(SweepDirectory.open(path))
        with path_errors("--out", directory, "cannot be written"):
            shared = share_runs(sweep, there)

    code = run_spec(
        spec, item.name, directory, console, dry_run=False, collect=False, images_per_second=None, stall_timeout=None,
        min_free=100.0, opened=None if others is None else opened, **engine,
    )  # fmt: skip
    if code not in (0, 1):
        return _Outcome(code)
    files = [directory / f"table.{kind}" for kind in ("md", "csv", "tex")]
    sweep = SweepDirectory.open(directory)
    for attack, images in item.attacks.items():
        _attack(sweep, attack, min(images, _SMOKE_IMAGES) if smoke and images else images, console)
    print_table(sweep, None, 0.95, item.per_class, files, shown=others is None)
    with path_errors("--out", directory, "cannot be written"):
        made = ", ".join(path.name for path in files) + _reported(item.name, directory, console)
        statements = _statements(item.name, sweep, directory)
    if statements:
        made += ", statements.txt"
    if any((directory / "runs").glob("*/record.json")):
        from srat_fast.report.build import PAGE, build_report

        if item.name.startswith("fig"):
            made += _figure(item.name, directory, console)  # first: its analyses are in the report too
        report = build_report([directory / "runs"], directory / "report")
        made += f"; report/{PAGE} with {len(report.figures)} figures"
    return _Outcome(code, len(sweep.plan.trials), shared, made, statements)


def _attack(sweep: SweepDirectory, attack: str, images: int, console: Console) -> None:
    """A further attack on every finished run, on so many test images (0: all); a missing package is told and passed."""
    from srat_fast.console import Console as Plain
    from srat_fast.errors import MissingPackage
    from srat_fast.progress import Watch
    from srat_fast.sweep.judge import evaluate_sweep

    with Watch(Plain(stderr=True)) as watch:
        try:
            evaluate_sweep(sweep, [attack], limit=images or None, line=console.say, progress=watch)
        except MissingPackage as error:
            console.say(f"without {attack}: {error.line()}")


def _reported(item: str, directory: Path, console: Console) -> str:
    """The table of what others report of an item, printed and written; what was made, in words."""
    from srat_fast.published import field_reports
    from srat_fast.record import write_atomically
    from srat_fast.tables import Table

    reports = field_reports(item)
    if not reports:
        return ""
    attacks = list(dict.fromkeys(name for entry in reports for name in entry["numbers"]))
    table = Table(
        "method", "network", *attacks, "epoch", "source", right=range(2, 2 + len(attacks)), spare=("source",)
    )
    for entry in reports:
        numbers = [f"{entry['numbers'][name]:.2f}" if name in entry["numbers"] else "-" for name in attacks]
        epoch = "best on the test set" if entry["selected"] == "test" else entry["selected"]
        table.add(entry["method"], entry["network"], *numbers, epoch, entry["source"])
    console.say("published, each under its own protocol, in percent:")
    console.print(table)
    write_atomically(directory / "published.md", (table.markdown() + "\n").encode())
    return ", published.md"


def _all(asked: _Asked, directory: Path, console: Console) -> int:
    """Every item in a directory of its own, equal runs of several items trained once; 1 where one of them failed."""
    from srat_fast.errors import MissingPackage, UserError, path_errors
    from srat_fast.record import write_atomically
    from srat_fast.sweep.reproduce import item_names, load_item
    from srat_fast.tables import Table

    with path_errors("--out", directory, "cannot be written"):
        directory.mkdir(parents=True, exist_ok=True)
    names, failing = item_names(), []
    table = Table("item", "runs", "of other items", "result", "statements kept", right=(1, 2))
    for name in names:
        item = load_item(name)
        console.say(item.title + (f" (note: {item.note})" if item.note else ""))
        place = directory / name
        try:
            outcome = _item(
                item, asked.spec(item), place, asked.engine, console, [directory / other for other in names]
            )
        except UserError as error:
            if isinstance(error, MissingPackage) or (
                error.option.startswith("--") and error.option != "--out"
            ):
                raise  # it is the same for all
            outcome = _Outcome(2, made=error.line())
        if outcome.code not in (0, 1, 2):  # stopped or paused
            console.say(f"stopped in {name}: the same command goes on")
            return outcome.code
        lacks = "" if name.startswith("table") or (place / f"{name}.svg").exists() else "; no picture"
        result = {0: "done", 1: "a run failed", 2: outcome.made or "bad input"}[outcome.code] + lacks
        if result != "done":
            failing.append(name)
            console.say(f"{name}: {result}")
        table.add(name, str(outcome.runs), str(outcome.shared), result, _kept(outcome.statements))
    console.print(table)
    if asked.scale == "smoke":
        console.say(_ON_DIGITS)
    with path_errors("--out", directory, "cannot be written"):
        write_atomically(directory / "summary.md", (table.markdown() + "\n").encode())
    console.say(f"in {directory}: summary.md, and a directory for each item")
    if failing:
        console.say(
            f"not done: {', '.join(failing)}; the same command goes on, and tries a failed run again after "
            f"srat-fast sweep retry {quote(str(directory))}/ITEM"
        )
    return 1 if failing else 0


def _kept(statements: Sequence[Statement]) -> str:
    """How many of an item's statements are kept, such as "2 of 3"."""
    open_ones = sum(statement.kept is None for statement in statements)
    kept = f"{sum(statement.kept is True for statement in statements)} of {len(statements)}"
    return "-" if not statements else f"{kept}, {open_ones} not judged" if open_ones else kept


def _gpu_hours(plan: Plan, speed: float) -> float:
    return _hours(sum(trial.work for trial in plan.trials), speed)


def _hours(work: float, speed: float) -> float:
    """Hours of training on one GPU at a number of PGD-10 images/s."""
    from srat_fast.models.build import planned_flops
    from srat_fast.recipe import Recipe

    return work / (speed * planned_flops(Recipe())) / 3600


def _at(images_per_second: float | None) -> str:
    source = "as given" if images_per_second else "assumed, not measured; --images-per-second N for your GPU"
    return f"{images_per_second or _ASSUMED:,g} PGD-10 images/s a GPU ({source})"


def _list(console: Console, seeds: int, images_per_second: float | None, field: bool = True) -> None:
    """Runs and hours of all items at paper scale (without `field` of the paper's only), and of all of them together."""
    from srat_fast.sweep.plan import make_plan
    from srat_fast.sweep.reproduce import field_names, item_names, item_spec, load_item
    from srat_fast.tables import Table

    speed = images_per_second or _ASSUMED
    table = Table("item", "runs", "of items above", "GPU hours", "shows", right=(1, 2, 3))
    known: dict[str, float] = {}
    runs = 0
    for name in item_names():
        item = load_item(name)
        shows = item.title.partition(": ")[2]
        if not item.trains:
            table.add(name, "0", "0", "0", shows)
            continue
        plan = make_plan(item_spec(item, "paper", seeds), name)
        again = sum(trial.id in known for trial in plan.trials)
        table.add(name, str(len(plan.trials)), str(again), f"{_gpu_hours(plan, speed):,.1f}", shows)
        runs += len(plan.trials)
        known |= {trial.id: trial.work for trial in plan.trials}
    for name in field_names() if field else ():
        item = load_item(name)
        plan = make_plan(item_spec(item, "paper", seeds), name)
        again = sum(trial.id in known for trial in plan.trials)
        shows = f"{item.title.partition(': ')[2]} (not part of {_ALL})"
        table.add(name, str(len(plan.trials)), str(again), f"{_gpu_hours(plan, speed):,.1f}", shows)
    console.print(table)
    console.say(
        f"{seeds} seed(s), training at {_at(images_per_second)}; fig3 and fig4 analyse their runs too"
    )
    console.say(
        f"{_ALL}: {runs} runs, of which {runs - len(known)} are those of items above and trained once: about "
        f"{_hours(sum(known.values()), speed):,.1f} GPU hours"
    )
    console.say("at smoke scale, on digits, all of them take minutes on a CPU")


def _counts(spec: Spec) -> Drawing:
    """Figs. 13 and 14: the class counts of every cell of a spec."""
    from srat_fast.data.imbalance import split_by_frequency
    from srat_fast.data.plan import base_counts, planned_counts
    from srat_fast.figures.datasets import ClassCounts
    from srat_fast.report.figures.counts import counts_drawing, shape_title
    from srat_fast.sweep.plan import make_plan

    plan, shapes = make_plan(spec, spec.title), []
    for trial in plan.trials:
        if trial.seed == plan.trials[0].seed:
            recipe = plan.recipe(trial)
            base, classes = base_counts(recipe)
            counts = planned_counts(recipe, base)
            data = recipe.data
            title = shape_title(data.imbalance, data.ratio, data.imbalance_base)
            shapes.append(ClassCounts(title, classes, counts, split_by_frequency(counts)[1]))
    return counts_drawing(recipe.data.name, shapes)


#: Figure -> (images, t-SNE points at most) of the analysis that it draws: Fig. 3 takes all 5050 training images.
_ANALYSED = {"fig3": ("train", 6000), "fig4": ("test", 2000)}


def _figure(item: str, directory: Path, console: Console) -> str:
    """Draw the figure in the paper's form, of the runs that have finished; what was made, in words."""
    from srat_fast.report.collect import find_runs
    from srat_fast.report.figures.paper import paper_drawing
    from srat_fast.sweep.directory import SweepDirectory

    runs = [run for run in find_runs([directory / "runs"], []) if run.finished]
    if item in _ANALYSED:
        from srat_fast.evaluation.analyses import analyse, files_of
        from srat_fast.progress import Watch

        images, points = _ANALYSED[item]
        first = min((run.seed for run in runs), default=0)
        with Watch(console) as watch:
            for run in runs:
                if run.seed == first and not (run.path / files_of("last", images)[0]).exists():
                    analyse(run.path, images=images, points=points, progress=watch)
    drawing = paper_drawing(item, runs)
    if drawing is None:
        return f"; no {item} before more runs have finished"
    plan = SweepDirectory.open(directory).plan
    planned = dict.fromkeys(recipe.method for recipe in plan.cell_recipes().values())
    lacking = ", ".join(method for method in planned if method not in {run.method for run in runs})
    without = f" without {lacking}, which has no finished run" if lacking else ""
    return f"; {_save(drawing, item, directory)} in the paper's form{without}"


def _save(drawing: Drawing, name: str, directory: Path) -> str:
    """Write a drawing as SVG, PNG and PDF; the files' names."""
    from srat_fast.figures.canvas import save

    drawn = drawing.draw()
    for suffix in (".svg", ".png", ".pdf"):
        save(drawn, directory / f"{name}{suffix}", "--out")
    return f"{name}.svg, .png and .pdf"


def _statements(item: str, sweep: SweepDirectory, directory: Path) -> list[Statement]:
    """What the paper's text says of an item, held against the runs, and written beside its table."""
    from srat_fast.record import write_atomically
    from srat_fast.sweep.statements import statements

    said = statements(item, sweep)
    if said:
        lines = "".join(f"{statement.line()}\n" for statement in said)
        write_atomically(directory / "statements.txt", lines.encode())
    return said
