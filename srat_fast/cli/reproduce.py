"""`srat-fast reproduce`: the name of a table or figure of the paper enters; its sweep and its table leave."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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

#: Training images/s of PGD-10 at full width on one GPU that the estimate at paper scale assumes.
_ASSUMED = 10_000


def reproduce(
    item: Annotated[
        str,
        typer.Argument(help="table1 .. table10, fig1, fig2, fig5 .. fig12, fig15, fig16.", metavar="ITEM"),
    ],
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
    from srat_fast.sweep.estimate import duration
    from srat_fast.sweep.plan import make_plan
    from srat_fast.sweep.reproduce import item_spec, load_item

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
    console = Console()
    if images_per_second is not None and images_per_second <= 0:
        raise UserError("--images-per-second", "a number > 0", images_per_second)
    if found.note:
        console.say(f"note: {found.note}")
    if scale == "paper":
        plan = make_plan(spec, item)
        speed = images_per_second or _ASSUMED
        hours = sum(trial.work for trial in plan.trials) / (speed * 1.11e9 * 23) / 3600
        source = (
            "as given" if images_per_second else "assumed, not measured; --images-per-second N for your GPU"
        )
        work = sum(trial.work for trial in plan.trials) / 1e18
        each = duration(hours * 3600 / len(plan.trials))
        line = (
            f"{len(plan.trials)} runs, {work:,.0f} EFLOP of training: about {hours:,.1f} GPU hours ({each} a run) "
            f"at {speed:,g} PGD-10 images/s a GPU ({source})"
        )
        if not go:
            show_plan(console, plan, [], None, None)
            console.say(line)
            console.say("not run: --run does; --scale smoke tries everything in minutes")
            return 0
        console.say(line)
    directory = out if out is not None else Path("reproduce") / f"{item}-{scale}"
    code = run_spec(
        spec, item, directory, console, dry_run=False, engine=engine, address=address, collect=False, gpus=gpus,
        slots_per_gpu=slots_per_gpu, cpu_slots=cpu_slots, images_per_second=None, stall_timeout=None, min_free=100.0,
        other_code=other_code,
    )  # fmt: skip
    if code in (0, 1):
        files = [directory / f"table.{kind}" for kind in ("md", "csv", "tex")]
        print_table(SweepDirectory.open(directory), None, 0.95, found.per_class, files)
        made = ", ".join(path.name for path in files)
        if any((directory / "runs").glob("*/record.json")):
            from srat_fast.report.build import PAGE, build_report

            report = build_report([directory / "runs"], directory / "report")
            made += f" and report/{PAGE} with {len(report.figures)} figures"
        console.say(f"in {directory}: {made}")
    return code
