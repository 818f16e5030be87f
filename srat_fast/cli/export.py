"""`srat-fast export RUN`: checked model files and a model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from srat_fast.cli.options import AsJson, PluginFiles, RunDataRoot, Weights, fields_given
from srat_fast.tables import Table


def export(
    run: Annotated[Path, typer.Argument(help="A run directory.", metavar="RUN")],
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            help="Comma-separated: robustbench, safetensors, torch-export, onnx; or all.",
        ),
    ] = "safetensors",
    weights: Weights = "last",
    out: Annotated[
        Path | None, typer.Option(help="Directory of the export.", show_default="RUN/export")
    ] = None,
    data_root: RunDataRoot = None,
    real_batch: Annotated[
        bool,
        typer.Option(
            "--real-batch/--no-real-batch", help="Compare logits on test images too, not on random ones only."
        ),
    ] = True,
    plugin: PluginFiles = None,
    as_json: AsJson = False,
) -> None:
    """Files of a run's model for other programs. Each is read back and its logits compared with the run's."""
    changes = fields_given({"--data-root": data_root})

    from srat_fast.console import Console
    from srat_fast.sharing.export import export as write

    result = write(
        run, formats, weights=weights, out=out, changes=changes, real_batch=real_batch, plugin=plugin or ()
    )
    if as_json:
        print(json.dumps(result, indent=2))
        return
    table = Table("file", "format", "bytes", "largest difference of a logit", right=(2, 3))
    for file in result["files"]:
        table.add(file["file"], file["format"], str(file["bytes"]), f"{file['difference']:.2g}")
    console = Console()
    console.print(table)
    console.say(f"{result['out']}: with MODEL_CARD.md")
    if result["same_data"] is False:
        Console(stderr=True).say(
            "note: the images differ from those of the run (another data checksum)", style="bold red"
        )
