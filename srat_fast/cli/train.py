"""`srat-fast train`: options enter, a run directory and printed accuracies leave."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srat_fast.cli.options import recipe_from_options
from srat_fast.cli.show import accuracy_table, per_class_table
from srat_fast.cli.streams import recorded
from srat_fast.datasets import DATASETS
from srat_fast.methods import METHODS
from srat_fast.plugins import load_all
from srat_fast.recipe import NAMED_RECIPES, to_toml
from srat_fast.record import MUST, RECIPE, RunDirectory, audit_verdict
from srat_fast.training.stops import Stops

if TYPE_CHECKING:
    from srat_fast.console import Console

_Text = str | None


def train(
    dataset: Annotated[
        _Text, typer.Option(help=f"One of {', '.join(DATASETS)}.", show_default="cifar10")
    ] = None,
    imbalance: Annotated[_Text, typer.Option(help="none, exp or step.", show_default="exp")] = None,
    ratio: Annotated[
        _Text, typer.Option(help="Largest / smallest class.", show_default="100; digits 10")
    ] = None,
    method: Annotated[
        _Text, typer.Option(help=f"One of {', '.join(METHODS)}.", show_default="srat-ldam")
    ] = None,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE.py",
            help="Your own file with a loss, a network or a method; repeatable. It is run.",
            show_default="none",
        ),
    ] = None,
    seed: Annotated[
        _Text, typer.Option(help="Of weights, order, augmentation, noise.", show_default="0")
    ] = None,
    epochs: Annotated[
        _Text, typer.Option(help="Schedule and deferral scale along.", show_default="200")
    ] = None,
    batch_size: Annotated[_Text, typer.Option(help="Images a step.", show_default="128")] = None,
    engine: Annotated[_Text, typer.Option(help="fast, or the slow reference.", show_default="fast")] = None,
    loader: Annotated[
        _Text,
        typer.Option(help="memory: all images on the device; ffcv: read from a file.", show_default="memory"),
    ] = None,
    attack_bn: Annotated[
        _Text, typer.Option(help="batch or running statistics in the attack.", show_default="batch")
    ] = None,
    precision: Annotated[_Text, typer.Option(help="bf16, fp32 or auto.", show_default="auto")] = None,
    deterministic: Annotated[
        bool | None,
        typer.Option("--deterministic", help="Bit-equal weights for equal seeds.", show_default="off"),
    ] = None,
    no_compile: Annotated[
        bool, typer.Option("--no-compile", help="Run eagerly: run.compile = off.", show_default="off")
    ] = False,
    profile: Annotated[
        bool | None,
        typer.Option(
            "--profile", help="Profile a few steps: trace and table in the run directory.", show_default="off"
        ),
    ] = None,
    device: Annotated[_Text, typer.Option(help="cpu, cuda, cuda:N or auto.", show_default="auto")] = None,
    data_root: Annotated[
        _Text,
        typer.Option(
            help="Where the data set is (or goes); for folder: holds train/ and test/; for npz: the file.",
            show_default="data",
        ),
    ] = None,
    mirror: Annotated[
        _Text,
        typer.Option(
            help="Base URL where archives are looked for first.", show_default="$SRAT_FAST_MIRROR, publisher"
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory.", show_default="runs/<what it is>")] = None,
    resume: Annotated[
        _Text,
        typer.Option(
            metavar="[auto]",
            help="Continue the run in --out; auto: begin, continue or return at once, whichever fits.",
            show_default="off",
        ),
    ] = None,
    watchdog: Annotated[
        _Text,
        typer.Option(
            metavar="SECONDS", help="End with code 124 when no step ends for so long.", show_default="off"
        ),
    ] = None,
    recipe: Annotated[
        _Text,
        typer.Option(
            help=f"{', '.join(NAMED_RECIPES)} or a FILE.toml.", show_default="paper; digits for digits"
        ),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Any recipe field; repeatable.")
    ] = None,
    print_recipe: Annotated[
        bool, typer.Option("--print-recipe", help="Print the resolved recipe as TOML and stop.")
    ] = False,
) -> None:
    """Train one model by SRAT or a baseline, evaluate it and record the run."""
    if resume == MUST and recipe is None and dataset is None and out is not None and (out / RECIPE).is_file():
        load_all(plugin or ())
        RunDirectory(
            out
        ).read_recipe()  # refused without the run's plug-ins: a run directory runs no code by itself
        recipe = str(out / RECIPE)  # the run's own; what is given beside it is compared with it
    chosen = recipe_from_options(
        recipe,
        {
            "--dataset": dataset,
            "--imbalance": imbalance,
            "--ratio": ratio,
            "--plugin": plugin or None,
            "--method": method,
            "--seed": seed,
            "--epochs": epochs,
            "--batch-size": batch_size,
            "--engine": engine,
            "--loader": loader,
            "--attack-bn": attack_bn,
            "--precision": precision,
            "--deterministic": deterministic,
            "--no-compile": "off" if no_compile else None,
            "--profile": profile,
            "--device": device,
            "--data-root": data_root,
            "--mirror": mirror,
            "--watchdog": watchdog,
        },
        settings or [],
    )
    if print_recipe:
        print(to_toml(chosen.resolve()), end="")
        return

    with Stops() as stops:  # before torch is imported, which takes seconds in which a signal may come
        from srat_fast.console import Console
        from srat_fast.training.trainer import default_out
        from srat_fast.training.trainer import train as run

        console = Console()
        recorded()
        target = out if out is not None else default_out(chosen)
        record = run(chosen, target, console=console, resume=resume, stops=stops)
    show_record(record, target, console)


def show_record(record: dict[str, Any], target: Path, console: Console) -> None:
    """The result of a finished run."""
    attack = record["recipe"]["eval_attack"]
    last = "last: " if "best" in record else ""
    rows = {
        f"{last}clean": record["standard"],
        f"{last}pgd-{attack['steps']} (eps {attack['epsilon']:.4g})": record["robust"],
    }
    for name in ("best", "ema"):
        if name in record:
            title = f"best (epoch {record[name]['epoch'] + 1})" if name == "best" else name
            rows[f"{title}: clean"], rows[f"{title}: robust"] = (
                record[name]["standard"],
                record[name]["robust"],
            )
    console.print(accuracy_table(rows))
    if len(record["classes"]) <= 20:
        console.print(per_class_table(rows, record["classes"], record["counts"]))
    console.say(f"audit: {audit_verdict(record)} (srat-fast audit {target})")
    if record["collapsed"] is not None:
        console.say(
            f"collapsed: class {record['classes'][record['collapsed']]} takes more than 95 % of the predictions; "
            "try a lower optim.lr or a longer optim.warmup_epochs",
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
