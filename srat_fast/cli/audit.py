"""`srat-fast audit RUN|FILE`: checks and one verdict, which join a run's record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from srat_fast.cli.options import (
    AsJson,
    Device,
    FileDataset,
    FileModel,
    Judged,
    PluginFiles,
    RunDataRoot,
    Weights,
    fields_given,
    judged_fields,
)
from srat_fast.errors import Unrecorded, UserError
from srat_fast.registry import threat as THREATS

#: Exit code of an audit that found something.
SUSPICIOUS = 3
Subset = Annotated[str, typer.Option(help="At most this many test images, evenly over the classes, or all.")]
AutoAttack = Annotated[
    int, typer.Option(min=0, help="Images for AutoAttack (pip install 'srat-fast[audit]'); 0 leaves it out.")
]


def images(subset: str) -> int | None:
    """The number that --subset says; None for all."""
    if subset == "all":
        return None
    if not subset.isdecimal() or int(subset) < 1:
        raise UserError("--subset", "an integer >= 1, or all", subset)
    return int(subset)


def audit(
    run: Judged,
    subset: Subset = "200",
    threat: Annotated[
        str | None,
        typer.Option(
            help=f"Threat model of a weights file: {', '.join(THREATS)}.",
            show_default="the data set's recipe's",
        ),
    ] = None,
    model: FileModel = None,
    dataset: FileDataset = None,
    weights: Weights = "last",
    surrogate: Annotated[
        Path | None,
        typer.Option(
            help="Another run, to transfer attacks from.", show_default="a small network, trained now"
        ),
    ] = None,
    autoattack: AutoAttack = 64,
    queries: Annotated[
        int, typer.Option(min=1, help="Queries of the black-box attack (Square), for each image.")
    ] = 500,
    data_root: RunDataRoot = None,
    device: Device = "auto",
    plugin: PluginFiles = None,
    as_json: AsJson = False,
) -> int:
    """Check if a robust accuracy is to be believed. Exit code 0: reliable, 3: suspicious.

    Fifteen or so checks, each with its figure, threshold and verdict; the verdict is stored in record.json and shown
    wherever the run's accuracies are.

    RUN may be a weights file, somebody else's too: `audit FILE --model wrn-28-10 --dataset cifar10 --threat l2`.
    Nothing is recorded then.
    """
    limit = images(subset)
    changes = judged_fields(run, {"--data-root": data_root}, dataset)
    fields_given({"--subset": limit, "--threat": threat}, {"--threat": "attack.threat"})

    from srat_fast.cli.show import accuracy_table, audit_table
    from srat_fast.console import Console
    from srat_fast.evaluation.audit import audit_run, summary
    from srat_fast.progress import Watch

    unrecorded = None
    with Watch(Console(stderr=True)) as watch:
        try:
            report = audit_run(
                run,
                subset=limit,
                weights=weights,
                surrogate=surrogate,
                autoattack=autoattack,
                queries=queries,
                threat=threat,
                model=model,
                changes=changes,
                device=device,
                plugin=plugin or (),
                progress=watch,
            )
        except Unrecorded as failure:
            unrecorded, report = failure, failure.result
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        out = Console()
        out.print(audit_table(report))
        if report["accuracy"]:
            out.print(
                accuracy_table(
                    {
                        kind: {"overall": found["overall"], "worst": found["worst"]}
                        | {"intervals": {"overall": found["interval"], "worst": found["worst_interval"]}}
                        for kind, found in report["accuracy"].items()
                    }
                )
            )
        out.say(summary(report))
    if unrecorded is not None:
        raise unrecorded
    return 0 if report["verdict"] == "reliable" else SUSPICIOUS
