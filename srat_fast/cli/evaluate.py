"""`srat-fast evaluate RUN|FILE`: accuracies of a run, which join its record, or of a weights file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srat_fast.attacks import NAMES
from srat_fast.cli.options import (
    AsJson,
    Device,
    FileDataset,
    FileModel,
    Judged,
    PluginFiles,
    RunDataRoot,
    Subset,
    Weights,
    fields_given,
    judged_fields,
)
from srat_fast.cli.show import accuracy_table, per_class_table
from srat_fast.errors import Unrecorded
from srat_fast.registry import threat as THREATS
from srat_fast.tables import length

if TYPE_CHECKING:
    from srat_fast.console import Console


def evaluate(
    run: Judged,
    attack: Annotated[str, typer.Option(help=f"Comma-separated: {NAMES}.")] = "clean,pgd-20",
    eps: Annotated[
        str | None,
        typer.Option(
            "--eps",
            "--epsilon",
            help="Radius or radii, such as 2/255,4/255,8/255; steps scale along.",
            show_default="the run's",
        ),
    ] = None,
    threat: Annotated[
        str | None,
        typer.Option(
            help=f"Threat model: {', '.join(THREATS)}; another than the run's with --eps.",
            show_default="the run's",
        ),
    ] = None,
    model: FileModel = None,
    dataset: FileDataset = None,
    subset: Subset = None,
    weights: Weights = "last",
    batch_size: Annotated[
        str | None, typer.Option(help="Images a step; decides PGD's noise too.", show_default="the run's")
    ] = None,
    data_root: RunDataRoot = None,
    device: Device = "auto",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start anew where an evaluation was interrupted.")
    ] = False,
    plugin: PluginFiles = None,
    as_json: AsJson = False,
) -> None:
    """Accuracies of a saved model, clean and attacked. In fp32, eager, eval mode; overall, well, under and per class.

    RUN may be a weights file, somebody else's too: `evaluate FILE --model wrn-28-10 --dataset cifar10`. Nothing is
    recorded then.

    The row worst-case counts an image as right where every attack of the call leaves it right. An evaluation that was
    killed continues where it stopped when the same command is given again.
    """
    given = {"--subset": subset, "--data-root": data_root, "--batch-size": batch_size}
    changes = judged_fields(run, given, dataset, **{"--batch-size": "run.eval_batch_size"})
    # for messages: one radius or several are no change of the recipe
    fields_given({"--eps": eps, "--threat": threat}, {"--threat": "eval_attack.threat"})

    from srat_fast.console import Console
    from srat_fast.evaluation.runs import evaluate as judge
    from srat_fast.progress import Watch
    from srat_fast.record import RECORD, RunDirectory

    console = Console(stderr=True)
    unrecorded = None
    with Watch(console) as watch:
        try:
            results = judge(
                run,
                attack,
                epsilons=[] if eps is None else [part.strip() for part in eps.split(",")],
                threat=threat,
                model=model,
                weights=weights,
                changes=changes,
                device=device,
                fresh=fresh,
                plugin=plugin or (),
                progress=watch,
            )
            record = None if run.is_file() else RunDirectory(run).read_json(RECORD)
        except Unrecorded as failure:
            unrecorded, results, record = failure, failure.result, failure.record
    if as_json:
        print(json.dumps(results, indent=2))
    else:
        _print(results, record, weights, console, changes)
    if unrecorded is not None:
        raise unrecorded


def _print(
    results: dict[str, Any],
    record: dict[str, Any] | None,
    weights: str,
    console: Console,
    changes: dict[str, Any],
) -> None:
    """The rows, what an audit said of these weights, and the classes' accuracies."""
    from srat_fast.console import Console
    from srat_fast.data.plan import base_counts, planned_counts
    from srat_fast.recipe import build_recipe
    from srat_fast.record import audit_verdict

    out = Console()
    shown = {
        f"{name.split(' eps ')[0]} eps {length(row['epsilon'])}" if "epsilon" in row else name: row
        for name, row in results.items()
    }
    out.print(accuracy_table(shown))
    if record is None:
        recipe = build_recipe(None, changes)
        counts, classes = base_counts(recipe)
        if len(classes) <= 20:
            out.print(per_class_table(shown, classes, planned_counts(recipe, counts)))
        return
    last = record["evaluations"][-1]
    verdict = audit_verdict(record, weights, last["weights_checksum"])
    images = next(iter(results.values()))["images"]
    out.say(f"{images} of {record['test_images']} test images; audit of this run: {verdict}")
    if last["same_data"] is False:
        console.say("note: the images differ from those of the run (another data checksum)", style="bold red")
    if len(record["classes"]) <= 20:
        out.print(per_class_table(shown, record["classes"], record["counts"]))
