"""`srat-fast evaluate RUN`: a run directory enters, its accuracies are printed and join its record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from srat_fast.cli.options import OPTION_FIELDS
from srat_fast.cli.show import accuracy_table, per_class_table


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run directory.", metavar="RUN")],
    attack: Annotated[str, typer.Option(help="Comma-separated: clean, pgd-K.")] = "clean,pgd-20",
    epsilon: Annotated[
        str | None, typer.Option(help="Radius, such as 8/255.", show_default="the run's")
    ] = None,
    subset: Annotated[
        str | None,
        typer.Option(help="At most this many test images, evenly over the classes.", show_default="all"),
    ] = None,
    data_root: Annotated[
        str | None, typer.Option(help="Where the data set is.", show_default="the run's")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N or auto.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Accuracies of a run's saved model: fp32, eager, eval mode; overall, well, under and per class."""
    given = {"--epsilon": epsilon, "--subset": subset, "--data-root": data_root}
    changes = {OPTION_FIELDS[option]: value for option, value in given.items() if value is not None}

    from rich.console import Console

    from srat_fast.evaluation.runs import evaluate as judge

    console = Console(stderr=True)
    with console.status("evaluating") as status:
        results = judge(
            run,
            attack,
            changes=changes,
            device=device,
            progress=lambda name, done, total: status.update(f"{name}: {done}/{total}"),
        )
    if as_json:
        typer.echo(json.dumps(results, indent=2))
        return
    record = json.loads((run / "record.json").read_text(encoding="utf-8"))
    out = Console()
    out.print(accuracy_table(results))
    if record["evaluations"][-1]["same_data"] is False:
        console.print(
            "note: the images differ from those of the run (another data checksum)", style="bold red"
        )
    if len(record["classes"]) <= 20:
        out.print(per_class_table(results, record["classes"], record["counts"]))
