"""`srat-fast train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srat_fast.cli.options import Settings, Text, of_field, recipe_from_options
from srat_fast.cli.show import accuracy_table, per_class_table
from srat_fast.cli.streams import recorded
from srat_fast.errors import launched
from srat_fast.plugins import load_all
from srat_fast.recipe import NAMED_RECIPES, radius_title, to_toml
from srat_fast.record import MUST, RECIPE, WEIGHTS, RunDirectory, audit_verdict, weights_title
from srat_fast.training.stops import Stops

if TYPE_CHECKING:
    from srat_fast.console import Console


def train(
    dataset: Annotated[Text, of_field("--dataset")] = None,
    imbalance: Annotated[Text, of_field("--imbalance")] = None,
    ratio: Annotated[Text, of_field("--ratio")] = None,
    method: Annotated[Text, of_field("--method")] = None,
    protocol: Annotated[
        Text,
        of_field("--protocol", "Attack and schedule: srat, the paper's; own, the method's authors'."),
    ] = None,
    plugin: Annotated[
        list[Path] | None,
        of_field(
            "--plugin",
            "Your own file with a loss, a network or a method; it is run; repeatable.",
            default="none",
            metavar="FILE.py",
        ),
    ] = None,
    model: Annotated[Text, of_field("--model")] = None,
    seed: Annotated[Text, of_field("--seed")] = None,
    epochs: Annotated[
        Text, of_field("--epochs", "Epochs of training; schedule and deferral scale along.")
    ] = None,
    batch_size: Annotated[Text, of_field("--batch-size")] = None,
    engine: Annotated[Text, of_field("--engine")] = None,
    loader: Annotated[Text, of_field("--loader")] = None,
    attack_bn: Annotated[Text, of_field("--attack-bn")] = None,
    threat: Annotated[Text, of_field("--threat")] = None,
    precision: Annotated[Text, of_field("--precision", "bf16, fp32 or auto.")] = None,
    deterministic: Annotated[bool | None, of_field("--deterministic")] = None,
    no_compile: Annotated[
        bool | None, of_field("--no-compile", "Run eagerly: run.compile = off.", default="off")
    ] = None,
    profile: Annotated[bool | None, of_field("--profile")] = None,
    device: Annotated[Text, of_field("--device")] = None,
    data_root: Annotated[Text, of_field("--data-root")] = None,
    mirror: Annotated[Text, of_field("--mirror")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory.", show_default="runs/<what it is>")] = None,
    resume: Annotated[
        Text,
        typer.Option(
            metavar="[auto]",
            help="Continue the run in --out; auto: begin, continue or return at once, whichever fits.",
            show_default="off",
        ),
    ] = None,
    watchdog: Annotated[
        Text,
        of_field(
            "--watchdog", "End with code 124 when no step ends for so long.", default="off", metavar="SECONDS"
        ),
    ] = None,
    recipe: Annotated[
        Text,
        typer.Option(
            help=f"{', '.join(NAMED_RECIPES)}, or a FILE.toml; a run's recipe.json too.",
            show_default="paper; digits for digits",
        ),
    ] = None,
    settings: Settings = None,
    print_recipe: Annotated[
        bool, typer.Option("--print-recipe", help="Print the resolved recipe as TOML and stop.")
    ] = False,
) -> None:
    """Train one model, evaluate it and record the run."""
    if resume == MUST and recipe is None and dataset is None and out is not None and (out / RECIPE).is_file():
        load_all(plugin or ())
        RunDirectory(
            out
        ).read_recipe()  # a run directory runs no code by itself: refused without its plug-ins
        recipe = str(out / RECIPE)  # the run's own; what is given beside it is compared with it
    given = locals() | {"no_compile": "off" if no_compile else None}
    chosen = recipe_from_options(recipe, given, settings)
    if print_recipe:
        print(to_toml(chosen.filled()), end="")
        return

    with Stops() as stops:  # before torch is imported, which takes seconds in which a signal may come
        from srat_fast.console import Console
        from srat_fast.training.trainer import default_out
        from srat_fast.training.trainer import train as run

        console = Console()
        recorded()
        target = out if out is not None else default_out(chosen)
        record = run(chosen, target, console=console, resume=resume, stops=stops)
    if launched()[0] == 0:
        show_record(record, target, console)


def show_record(record: dict[str, Any], target: Path, console: Console) -> None:
    """The result of a finished run."""
    attack = record["recipe"]["eval_attack"]
    last = "last: " if "best" in record else ""
    rows = {
        f"{last}clean": record["standard"],
        f"{last}pgd-{attack['steps']} ({radius_title(attack)})": record["robust"],
    }
    for name in ("best", "ema"):
        if name in record:
            title = weights_title(record, name)
            if name == "best":
                title += f" (epoch {record[name]['epoch'] + 1})"
            rows[f"{title}: clean"], rows[f"{title}: robust"] = (
                record[name]["standard"],
                record[name]["robust"],
            )
    console.print(accuracy_table(rows))
    if len(record["classes"]) <= 20:
        console.print(per_class_table(rows, record["classes"], record["counts"]))
    console.say(f"audit: {audit_verdict(record)} (srat-fast audit {target})")
    ways = "try a lower optim.lr, a longer optim.warmup_epochs"
    if "separation" in record.get("terms", ()) and record["recipe"]["attack"]["bn"] == "batch":
        ways += ", or attack.bn = running"  # benchmarks/NOTES.md "The separation loss can be met by ..."
    for weights in WEIGHTS:
        part = record if weights == "last" else record.get(weights) or {}
        if part.get("collapsed") is not None:
            title = weights_title(record, weights)
            console.say(
                f"{title and title + ': '}collapsed: class {record['classes'][part['collapsed']]} takes more than 95 % "
                f"of the predictions; {ways}",
                style="bold red",
            )
    for warning in record.get("warnings", ()):
        console.say(warning, style="bold red")
    seconds = record["seconds"]
    console.say(
        f"{record['images_per_second']:,.0f} training images/s; {seconds['total']:.1f} s in all "
        f"(attack {seconds['attack']:.1f}, step {seconds['step']:.1f}, evaluation {seconds['evaluation']:.1f}); "
        f"{target}"
    )
