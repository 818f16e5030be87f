"""`srat-fast analyse RUN...`: separability, confusion and figures of runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from srat_fast.cli.options import AsJson, Device, PluginFiles, RunDataRoot, Subset, Weights, fields_given
from srat_fast.cli.show import rows_table
from srat_fast.record import worst_class
from srat_fast.tables import Table, percent


def analyse(
    runs: Annotated[list[Path], typer.Argument(help="Run directories.", metavar="RUN...")],
    weights: Weights = "last",
    images: Annotated[
        str, typer.Option(help="test, or train: the imbalanced training images, as in the paper's Fig. 3.")
    ] = "test",
    subset: Subset = None,
    data_root: RunDataRoot = None,
    device: Device = "auto",
    points: Annotated[int, typer.Option(help="Points of the t-SNE, at most; 0 leaves it out.")] = 1000,
    together: Annotated[
        Path | None,
        typer.Option(
            help="Also draw the t-SNE of all runs side by side: a .svg, .png or .pdf file.", metavar="FILE"
        ),
    ] = None,
    plugin: PluginFiles = None,
    as_json: AsJson = False,
) -> None:
    """Separability of a run's classes, clean and attacked. Features, t-SNE, confusion, accuracy against count."""
    changes = fields_given({"--subset": subset, "--data-root": data_root})

    from srat_fast.console import Console
    from srat_fast.errors import UserError
    from srat_fast.evaluation.analyses import analyse as study
    from srat_fast.evaluation.analyses import files_of
    from srat_fast.figures.analysis import draw_panels, panel, read_analysis
    from srat_fast.figures.canvas import save, suffix_of
    from srat_fast.progress import Watch
    from srat_fast.record import RunDirectory

    if images == "train" and subset is not None:
        raise UserError("--subset", "chooses test images; --images train takes all", subset)
    if together is not None:
        suffix_of(together, "--together")
        if points == 0:
            raise UserError("--points", "t-SNE is left out, so there is nothing to draw --together", points)
    for run in runs:  # all are runs, before hours go into the first
        RunDirectory.open(run)
    console = Console(stderr=True)
    results: dict[str, dict[str, Any]] = {}
    with Watch(console) as watch:
        for run in runs:
            results[str(run)] = study(
                run,
                weights=weights,
                images=images,
                changes=changes,
                device=device,
                points=points,
                plugin=plugin or (),
                progress=watch,
            )
        if together is not None:
            methods = [str(result["method"]) for result in results.values()]
            distinct = len(set(methods)) == len(methods)
            panels = []
            for run, method in zip(runs, methods, strict=True):
                analysis, arrays = read_analysis(run, weights, images)
                panels.append(panel(analysis, arrays, "clean", method if distinct else run.resolve().name))
            save(draw_panels(panels), together, "--together")
    if as_json:
        from srat_fast.record import plain_json

        print(json.dumps(plain_json(results), indent=2, allow_nan=False))
        return
    out, (analysis_file, features, figures) = Console(), files_of(weights, images)
    out.print(_table(results))
    out.say(
        f"in {', '.join(results)}: {analysis_file}, {features}, {figures}/"
        + (f"; {together}" if together else "")
    )
    for name, result in results.items():
        if result["same_data"] is False:
            console.say(
                f"note: the images differ from those of {name} (another data checksum)", style="bold red"
            )


def _table(results: dict[str, dict[str, Any]]) -> Table:
    """One line for each run and view."""

    def number(value: float | None) -> str:
        return "-" if value is None or value != value else f"{value:.3g}"

    def separability(of: dict[str, Any]) -> dict[str, str]:
        names = {
            "silhouette": "silhouette",
            "cosine silhouette": "silhouette_cosine",
            "scatter ratio": "scatter_ratio",
        }
        return {heading: number(of[name]) for heading, name in names.items()}

    rows: list[dict[str, Any]] = []
    for run, result in results.items():
        rows += [
            {
                "run": run,
                "view": view,
                "accuracy, %": percent(result[view]["accuracy"]["overall"]),
                "under, %": percent(result[view]["accuracy"]["under"]),
                "worst class, %": percent(worst_class(result[view]["accuracy"])),
                "under taken for well, %": percent(result[view]["under_taken_by_well"]),
                **separability(result[view]),
                "Spearman of accuracy and count": number(result[view]["count_correlation"]["spearman"]),
            }
            for view in ("clean", "attacked")
        ]
        leak = {"run": run, "view": "attacked by drawn labels"} | separability(result["leak"])
        rows.append(dict.fromkeys(rows[0], "-") | leak)
    return rows_table(rows)
