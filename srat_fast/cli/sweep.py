"""`srat-fast sweep`: run a spec, or plan it; status, retry, table and single trials of a sweep's directory."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
import time
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from srat_fast.attacks import NAMES
from srat_fast.cli.audit import SUSPICIOUS, AutoAttack, images
from srat_fast.cli.audit import Subset as AuditSubset
from srat_fast.cli.options import AsJson, Device, RunDataRoot, Subset, fields_given
from srat_fast.cli.streams import recorded
from srat_fast.errors import UserError, did_you_mean, is_full, require_one_of
from srat_fast.tables import visible

if TYPE_CHECKING:
    from srat_fast.sweep.judge import Judged
    from srat_fast.sweep.local import Slot
    from srat_fast.sweep.plan import Plan

ENGINES = ("local", "ray")


class _SpecOrCommand(TyperGroup):
    """`sweep SPEC.toml` is `sweep run SPEC.toml`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            if re.fullmatch(r"[a-z][a-z-]*", args[0]) and not Path(args[0]).exists():
                problem = "is neither a spec nor a command of sweep" + did_you_mean(args[0], self.commands)
                raise UserError("SPEC", problem, args[0])
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_SpecOrCommand,
    no_args_is_help=True,
    help="Many runs from one spec: `srat-fast sweep SPEC.toml`. It plans them, runs them and goes on where it "
    "stopped; its options are those of `sweep run`.",
)

#: Options that `reproduce` has too.
Engine = Annotated[str, typer.Option(help="local, or ray for a cluster.")]
Address = Annotated[
    str | None, typer.Option(help="Address of a running Ray cluster, HOST:PORT or auto.", show_default="auto")
]
Gpus = Annotated[
    str | None, typer.Option(help="GPUs to use, such as 0,2; none for the CPU.", show_default="all visible")
]
SlotsPerGpu = Annotated[int | None, typer.Option(help="Trials at a time on each GPU.", show_default="1")]
CpuSlots = Annotated[int | None, typer.Option(help="Trials at a time on the CPU.", show_default="one a core")]
OtherCode = Annotated[
    bool, typer.Option("--other-code", help="Go on with a plan that another version of the code made.")
]

_Directory = Annotated[Path, typer.Argument(help="A sweep's directory.", metavar="DIR")]


@app.callback()
def _group() -> None:
    """Many runs from one spec."""


@app.command()
def run(
    spec: Annotated[Path, typer.Argument(help="The spec: base recipe, axes, seeds.", metavar="SPEC.toml")],
    out: Annotated[
        Path | None, typer.Option(help="The sweep's directory.", show_default="sweeps/<spec's name>")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and stop; nothing is written.")
    ] = False,
    search: Annotated[
        str | None,
        typer.Option(help="Sampler of the spec's search table: tpe or random.", show_default="the spec's"),
    ] = None,
    engine: Engine = "local",
    address: Address = None,
    collect: Annotated[
        bool, typer.Option("--collect", help="With ray and no shared disk: bring run directories back.")
    ] = False,
    gpus: Gpus = None,
    slots_per_gpu: SlotsPerGpu = None,
    cpu_slots: CpuSlots = None,
    images_per_second: Annotated[
        float | None, typer.Option(help="Training speed of a trial, for the first estimate.")
    ] = None,
    stall_timeout: Annotated[
        float | None,
        typer.Option(
            help="Seconds without progress after which a trial is ended and tried again.",
            show_default="never",
        ),
    ] = None,
    min_free: Annotated[
        float, typer.Option(help="MiB of disk that stay free; below, the sweep pauses.")
    ] = 100.0,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="End before so many minutes are over: trials save, and the same command goes on (exit code 3).",
            show_default="no limit",
        ),
    ] = None,
    other_code: OtherCode = False,
) -> int:
    """Plan a spec's runs and run them. Finished ones are skipped, interrupted ones resumed, failed ones tried again."""
    from srat_fast.console import Console
    from srat_fast.sweep.spec import SAMPLERS, read_tree, spec_from_tree

    parsed = spec_from_tree(read_tree(spec), spec.parent, spec.stem)
    if search is not None:
        require_one_of("--search", search, SAMPLERS)
        if parsed.search is None:
            raise UserError("--search", "the spec has no [search] table that says what is searched", search)
        parsed = dataclasses.replace(parsed, search=dataclasses.replace(parsed.search, sampler=search))
    return run_spec(
        parsed, str(spec), out if out is not None else Path("sweeps") / spec.stem, Console(), dry_run=dry_run,
        engine=engine, address=address, collect=collect, gpus=gpus, slots_per_gpu=slots_per_gpu, cpu_slots=cpu_slots,
        images_per_second=images_per_second, stall_timeout=stall_timeout, min_free=min_free, minutes=minutes,
        other_code=other_code,
    )  # fmt: skip


def run_spec(
    spec: Any, source: str, out: Path, console: Any, *, dry_run: bool, engine: str, address: str | None, collect: bool,
    gpus: str | None, slots_per_gpu: int | None, cpu_slots: int | None, images_per_second: float | None,
    stall_timeout: float | None, min_free: float, other_code: bool, minutes: float | None = None, opened: Any = None,
) -> int:  # fmt: skip
    """Run a spec, as the options of `srat-fast sweep` say; `reproduce` does so too, and may have `opened` called with
    the sweep's directory before its first run, in place of the printed plan."""
    from srat_fast.cli import sweep_show
    from srat_fast.sweep.directory import SweepDirectory
    from srat_fast.sweep.driver import PAUSED, SAVING, STARTING, Options
    from srat_fast.sweep.local import LocalEngine, make_slots, mps_is_running
    from srat_fast.sweep.plan import memory
    from srat_fast.sweep.process import cache_data
    from srat_fast.sweep.spec import BadSpec
    from srat_fast.sweep.status import SweepView, read_status

    began = time.monotonic()
    require_one_of("--engine", engine, ENGINES)
    for option, value in (("--images-per-second", images_per_second), ("--stall-timeout", stall_timeout)):
        if value is not None and not 0 < value < math.inf:
            raise UserError(option, "a number > 0", value)
    least = (SAVING + STARTING) / 60
    if minutes is not None and not minutes > least:
        raise UserError("--minutes", f"a number > {least:g}: to start and to save takes so long", minutes)
    if not 0 <= min_free * 2**20 < math.inf:
        raise UserError("--min-free", "a number >= 0", min_free)
    for option, given in (("--address", address is not None), ("--collect", collect)):
        if given and engine != "ray":
            raise UserError(option, "has an effect with --engine ray only")
    slots: list[Slot] = []

    def find_slots(plan: Plan) -> None:
        recipes = plan.recipes if plan.search is None else [plan.search["base"]]
        devices = {str(recipe.get("run.device", "auto")) for recipe in recipes}
        if plan.search is not None and engine != "local":
            raise UserError("--engine", "a search runs on one machine: local", engine)
        if engine == "ray":
            from srat_fast.sweep.cluster import cluster_slots

            if gpus is not None:
                raise UserError("--gpus", "the cluster's nodes say what they have", gpus)
            found = cluster_slots(address or "auto", devices, slots_per_gpu, cpu_slots, plan.gpus_per_trial)
        else:
            found = make_slots(
                devices, gpus, slots_per_gpu, cpu_slots,
                memory=memory(plan, "cpu")[0], per_trial=plan.gpus_per_trial,
            )  # fmt: skip
        slots.extend(found)

    try:
        sweep = SweepDirectory.create(out, spec, source, other_code=other_code, dry=dry_run, check=find_slots)
    except BadSpec as error:
        return _all_of(error)
    if opened is not None:
        opened(sweep)
    status = read_status(sweep)
    if opened is None:
        sweep_show.show_plan(console, sweep.plan, slots, images_per_second, status)
    if dry_run:
        return 0
    if any(slot.gpu is not None and slot.share > 1 for slot in slots):
        console.say(
            "MPS runs on this machine and is shared by the trials"
            if mps_is_running()
            else "MPS does not run here: trials on one GPU take turns"
        )
    until = math.inf if minutes is None else began + 60 * minutes
    options = Options(stall_timeout, int(min_free * 2**20), images_per_second, until)
    recorded()
    with SweepView(sweep.plan.title, console) as view:
        try:
            if engine == "ray":
                from srat_fast.sweep.cluster import RayEngine

                return RayEngine(sweep, slots, view, options, collect=collect).run()
            if not cache_data(sweep, status.left(), view.line, until - SAVING / 5):
                view.line("time is up (--minutes) before the images were prepared: the same command goes on")
                return PAUSED
            driver = None
            if sweep.plan.search is not None:
                from srat_fast.sweep.search import SearchDriver

                driver = SearchDriver(sweep, view, options)
            code = LocalEngine(sweep, slots, view, options, driver=driver).run()
        except OSError as error:
            if not is_full(error):
                raise
            view.line(f"paused: the disk of {out} is full; free some space, then run the same command again")
            return PAUSED
    if code == 1:
        place = quote(str(out))
        console.say(f"reasons: srat-fast sweep status {place}; again: srat-fast sweep retry {place}")
    return code


@app.command()
def plan(
    spec: Annotated[Path, typer.Argument(help="The spec: base recipe, axes, seeds.", metavar="SPEC.toml")],
    out: Annotated[
        Path | None, typer.Option(help="The sweep's directory.", show_default="sweeps/<spec's name>")
    ] = None,
    other_code: OtherCode = False,
) -> int:
    """Write the plan and run nothing. For `run-one` in a batch system."""
    from srat_fast.cli import sweep_show
    from srat_fast.console import Console
    from srat_fast.sweep.directory import SweepDirectory
    from srat_fast.sweep.spec import BadSpec, read_tree, spec_from_tree

    directory = out if out is not None else Path("sweeps") / spec.stem
    try:
        parsed = spec_from_tree(read_tree(spec), spec.parent, spec.stem)
        sweep = SweepDirectory.create(directory, parsed, str(spec), other_code=other_code)
    except BadSpec as error:
        return _all_of(error)
    console = Console()
    sweep_show.show_plan(console, sweep.plan, [], None, None)
    if sweep.plan.trials:  # of a search there are none yet
        command = f"srat-fast sweep run-one {quote(str(directory))} INDEX"
        console.say(f"trials 0 to {len(sweep.plan.trials) - 1}: {command}")
    return 0


def _all_of(error: Any) -> int:
    for line in error.problems:
        print(f"error: {visible(line)}", file=sys.stderr)
    return 2


@app.command()
def status(
    directory: _Directory,
    as_json: AsJson = False,
    every: Annotated[bool, typer.Option("--all", help="A line for every trial.")] = False,
) -> None:
    """Counts, running trials, and why others failed."""
    from srat_fast.cli import sweep_show
    from srat_fast.console import Console
    from srat_fast.sweep.directory import SweepDirectory
    from srat_fast.sweep.status import read_status

    sweep = SweepDirectory.open(directory)
    found = read_status(sweep)
    if as_json:
        print(json.dumps(sweep_show.status_json(sweep, found)))
        return
    sweep_show.show_status(Console(), sweep, found, every)


@app.command()
def retry(
    directory: _Directory,
    trials: Annotated[
        list[str] | None,
        typer.Argument(help="Ids or indices; without, every failed one.", metavar="TRIAL..."),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Start again from the first epoch: the run directory is moved aside."),
    ] = False,
) -> None:
    """Put failed trials back in the queue. The next `sweep` runs them."""
    from srat_fast.sweep.directory import requeue

    for line in requeue(directory, trials or [], fresh):
        print(visible(line))


@app.command("run-one")
def run_one(
    directory: _Directory,
    index: Annotated[
        int, typer.Argument(help="Number of the trial, from 0 (sweep status --all).", metavar="INDEX")
    ],
    other_code: OtherCode = False,
) -> int:
    """Run a single trial here. Such as one task of a batch system's array job."""
    from srat_fast.console import Console
    from srat_fast.sweep.directory import SweepDirectory, require_code
    from srat_fast.sweep.local import run_one as run_trial
    from srat_fast.sweep.status import SweepView

    sweep = SweepDirectory.open(directory)
    if not other_code:
        require_code(sweep.plan, "DIR", directory)
    recorded()
    with SweepView(sweep.plan.title, Console()) as view:
        return run_trial(sweep, index, view)


@app.command()
def table(
    directory: _Directory,
    baseline: Annotated[
        str | None, typer.Option(help="Method to compare with, seed by seed.", show_default="the spec's")
    ] = None,
    confidence: Annotated[float, typer.Option(help="Level of the bootstrap intervals.")] = 0.95,
    per_class: Annotated[bool, typer.Option("--per-class", help="Each class's accuracy too.")] = False,
    sort: Annotated[
        str | None,
        typer.Option(
            help='From the best down: "robust under", "standard worst" ...', show_default="by method"
        ),
    ] = None,
    out: Annotated[
        list[Path] | None, typer.Option(help="Also a file: .md, .csv, .parquet or .tex; repeatable.")
    ] = None,
) -> None:
    """The paper's table of a sweep. Mean and deviation over seeds, intervals, a paired test, the paper's numbers."""
    from srat_fast.sweep.directory import SweepDirectory

    print_table(SweepDirectory.open(directory), baseline, confidence, per_class, out or [], sort=sort)


@app.command("evaluate")
def evaluate_runs(
    directory: _Directory,
    attack: Annotated[str, typer.Option(help=f"Comma-separated: {NAMES}.")] = "cw-20,autoattack",
    subset: Subset = None,
    data_root: RunDataRoot = None,
    device: Device = "auto",
) -> int:
    """Attack every finished run of a sweep. An attack that a run has met on these images is not repeated.

    Exit code 1 where a run could not be judged.
    """
    from srat_fast.console import Console
    from srat_fast.progress import Watch
    from srat_fast.recipe import Recipe
    from srat_fast.sweep.directory import SweepDirectory
    from srat_fast.sweep.judge import evaluate_sweep

    changes = fields_given({"--subset": subset, "--data-root": data_root})
    limit = Recipe().replace(changes).data.test_limit  # checked before any run is
    names = [name.strip().lower() for name in attack.split(",") if name.strip()]
    if not names:
        raise UserError("--attack", f"comma-separated: {NAMES}", attack)
    console = Console()
    recorded()
    with Watch(Console(stderr=True)) as watch:
        done = evaluate_sweep(
            SweepDirectory.open(directory), names, limit=limit, changes=changes, device=device, line=console.say,
            progress=watch,
        )  # fmt: skip
    console.say(f"{_counts(done, 'judged')}; srat-fast sweep table {quote(str(directory))} shows them")
    return 1 if done.failed else 0


@app.command("audit")
def audit_runs(
    directory: _Directory,
    subset: AuditSubset = "200",
    autoattack: AutoAttack = 64,
    data_root: RunDataRoot = None,
    device: Device = "auto",
) -> int:
    """Audit every finished run of a sweep that has no audit yet.

    Exit code 3 where one is suspicious, 1 where one could not be audited.
    """
    from srat_fast.console import Console
    from srat_fast.progress import Watch
    from srat_fast.sweep.directory import SweepDirectory
    from srat_fast.sweep.judge import audit_sweep

    limit, changes = images(subset), fields_given({"--data-root": data_root})
    console = Console()
    recorded()
    with Watch(Console(stderr=True)) as watch:
        done = audit_sweep(
            SweepDirectory.open(directory), subset=limit, autoattack=autoattack, changes=changes, device=device,
            line=console.say, progress=watch,
        )  # fmt: skip
    console.say(_counts(done, "audited"))
    for name, checks in done.suspicious.items():
        console.say(f"suspicious: {name}: {', '.join(checks)}")
    return SUSPICIOUS if done.suspicious else 1 if done.failed else 0


def _counts(done: Judged, word: str) -> str:
    elsewhere = f", {done.elsewhere} under way in other processes" if done.elsewhere else ""
    failed = f", {len(done.failed)} could not be" if done.failed else ""
    return f"{done.judged} run(s) {word}, {done.had} had been{elsewhere}{failed}"


@app.command("pack")
def pack_sweep(
    directory: _Directory,
    out: Annotated[Path | None, typer.Option(help="The file.", show_default="DIR.zip")] = None,
) -> None:
    """Pack a sweep into one file. Plan, states, recipes, metrics and records, without weights and checkpoints."""
    from srat_fast.sweep.pack import pack

    path, runs, size = pack(directory, out)
    print(visible(f"{path}: {runs} run(s), {size / 2**20:.2f} MiB"))


@app.command("unpack")
def unpack_sweep(
    file: Annotated[Path, typer.Argument(help="Made by `sweep pack`.", metavar="FILE")],
    directory: Annotated[Path, typer.Argument(help="New, or with runs of the same sweep.", metavar="DIR")],
) -> None:
    """Unpack a packed sweep into a directory. It is verified; runs that are there stay."""
    from srat_fast.sweep.pack import unpack

    added, there = unpack(file, directory)
    print(visible(f"{directory}: {added} run(s) from {file}" + (f", {there} were there" if there else "")))


def print_table(
    sweep: Any,
    baseline: str | None,
    confidence: float,
    per_class: bool,
    out: list[Path],
    *,
    shown: bool = True,
    sort: str | None = None,
) -> None:
    """Print a sweep's table and write it to files; `reproduce` does so too, or writes it only."""
    from srat_fast.console import Console
    from srat_fast.sweep.table import build_table, to_markdown, to_parts, write_table

    methods = sorted({recipe.method for recipe in sweep.plan.cell_recipes().values()})
    if baseline is not None and baseline not in methods:
        raise UserError(
            "--baseline", f"this sweep runs {', '.join(methods)}{did_you_mean(baseline, methods)}", baseline
        )
    if not 0 < confidence < 1:
        raise UserError("--confidence", "a number > 0 and < 1", confidence)
    content = build_table(sweep, baseline, confidence=confidence, per_class=per_class, sort=sort)
    for path in out:
        write_table(content, path)
    if not shown:
        return
    console = Console()
    if not console.is_terminal:
        print(to_markdown(content), end="")  # as in a file
        return
    for part in to_parts(content):
        console.print(part, soft_wrap=isinstance(part, str))
