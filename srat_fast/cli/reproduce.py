"""`srat-fast reproduce`: a table or figure of the paper as a sweep, its table, and the figure in the paper's form."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    from srat_fast.sweep.spec import Spec

#: Training images/s of PGD-10 at full width on one GPU that the estimate at paper scale assumes.
_ASSUMED = 10_000


def reproduce(
    item: Annotated[
        str | None,
        typer.Argument(help="table1 .. table10, fig1 .. fig16.", metavar="ITEM", show_default=False),
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
        Path | None, typer.Option(help="The sweep's directory.", show_default="reproduce/ITEM-SCALE")
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
        float | None, typer.Option(help="Of PGD-10 at full width on your GPU, for the estimate.")
    ] = None,
    other_code: OtherCode = False,
) -> int:
    """Reproduce a table or figure of the paper as one sweep and one table."""
    from srat_fast.cli.sweep_show import show_plan
    from srat_fast.console import Console
    from srat_fast.errors import UserError
    from srat_fast.sweep.directory import SweepDirectory
    from srat_fast.sweep.plan import duration, make_plan
    from srat_fast.sweep.reproduce import item_names, item_spec, load_item

    console = Console()
    if images_per_second is not None and images_per_second <= 0:
        raise UserError("--images-per-second", "a number > 0", images_per_second)
    if show_all:
        if item is not None:
            raise UserError("ITEM", "has no place beside --list, which names all", item)
        _list(console, seeds, images_per_second)
        return 0
    if item is None:
        raise UserError("ITEM", f"is missing: one of {', '.join(item_names())}; --list shows them")
    found = load_item(item)
    if folder is not None and data_root is not None:
        raise UserError(
            "--folder", "the images are in it or below --data-root; give one of the two", str(folder)
        )
    spec = item_spec(found, scale, seeds, folder)
    if data_root is not None:
        if scale == "smoke":
            raise UserError(
                "--data-root", "has no effect: smoke scale runs on scikit-learn's digits", data_root
            )
        spec.base["data.root"] = data_root
    directory = out if out is not None else Path("reproduce") / f"{item}-{scale}"
    if found.note:
        console.say(f"note: {found.note}")
    if not found.trains:
        console.say(f"in {directory}: {_save(_counts(spec), item, directory)}; no run is needed for it")
        return 0
    if scale == "paper":
        plan = make_plan(spec, item)
        speed = images_per_second or _ASSUMED
        hours = _gpu_hours(plan, speed)
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
    code = run_spec(
        spec, item, directory, console, dry_run=False, engine=engine, address=address, collect=False, gpus=gpus,
        slots_per_gpu=slots_per_gpu, cpu_slots=cpu_slots, images_per_second=None, stall_timeout=None, min_free=100.0,
        other_code=other_code,
    )  # fmt: skip
    if code in (0, 1):
        files = [directory / f"table.{kind}" for kind in ("md", "csv", "tex")]
        sweep = SweepDirectory.open(directory)
        print_table(sweep, None, 0.95, found.per_class, files)
        made = ", ".join(path.name for path in files)
        made += _statements(item, sweep, directory, scale, console)
        if any((directory / "runs").glob("*/record.json")):
            from srat_fast.report.build import PAGE, build_report

            if item.startswith("fig"):
                made += _figure(item, directory, console)  # first: its analyses are in the report too
            report = build_report([directory / "runs"], directory / "report")
            made += f"; report/{PAGE} with {len(report.figures)} figures"
        console.say(f"in {directory}: {made}")
    return code


def _gpu_hours(plan: Plan, speed: float) -> float:
    """Hours of training on one GPU at a number of PGD-10 images/s."""
    return sum(trial.work for trial in plan.trials) / (speed * 1.11e9 * 23) / 3600


def _at(images_per_second: float | None) -> str:
    source = "as given" if images_per_second else "assumed, not measured; --images-per-second N for your GPU"
    return f"{images_per_second or _ASSUMED:,g} PGD-10 images/s a GPU ({source})"


def _list(console: Console, seeds: int, images_per_second: float | None) -> None:
    """All items with the runs and the hours that each takes at paper scale."""
    from srat_fast.sweep.plan import make_plan
    from srat_fast.sweep.reproduce import item_names, item_spec, load_item
    from srat_fast.tables import Table

    table = Table("item", "runs", "GPU hours", "shows", right=(1, 2))
    for name in item_names():
        item = load_item(name)
        shows = item.title.partition(": ")[2]
        if not item.trains:
            table.add(name, "0", "0", shows)
            continue
        plan = make_plan(item_spec(item, "paper", seeds), name)
        hours = _gpu_hours(plan, images_per_second or _ASSUMED)
        table.add(name, str(len(plan.trials)), f"{hours:,.1f}", shows)
    console.print(table)
    console.say(
        f"{seeds} seed(s), training at {_at(images_per_second)}; fig3 and fig4 analyse their runs too"
    )
    console.say("at smoke scale, on digits, each takes minutes on a CPU")


def _counts(spec: Spec) -> Drawing:
    """Figs. 13 and 14: the class counts of every cell of a spec."""
    from srat_fast.data.imbalance import halves
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
            shapes.append(ClassCounts(title, classes, counts, halves(counts)[1]))
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
        from srat_fast.cli.watch import Watch
        from srat_fast.evaluation.analyses import analyse, files_of

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
    planned = dict.fromkeys(plan.recipe(trial).method for trial in plan.trials)
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


def _statements(item: str, sweep: SweepDirectory, directory: Path, scale: str, console: Console) -> str:
    """What the paper's text says of an item, held against the runs: printed and written; the file's name."""
    from srat_fast.record import write_atomically
    from srat_fast.sweep.statements import statements

    said = [statement.line() for statement in statements(item, sweep)]
    if not said:
        return ""
    for line in said:
        console.say(line)
    if scale == "smoke":
        console.say("on digits, after a few epochs: these verdicts show that they are given, nothing else")
    write_atomically(directory / "statements.txt", "".join(f"{line}\n" for line in said).encode())
    return ", statements.txt"
