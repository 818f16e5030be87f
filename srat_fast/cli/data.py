"""`srat-fast data show`: a data set and an imbalance enter, class counts leave; nothing is downloaded."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from srat_fast.cli.options import recipe_from_options
from srat_fast.datasets import DATASETS

app = typer.Typer(help="Data sets: class counts under an imbalance.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Data sets: class counts under an imbalance."""


@app.command()
def show(
    dataset: Annotated[str, typer.Argument(help=f"One of {', '.join(DATASETS)}.", metavar="DATASET")],
    imbalance: Annotated[str | None, typer.Option(help="none, exp or step.", show_default="exp")] = None,
    ratio: Annotated[
        str | None, typer.Option(help="Largest / smallest class.", show_default="100; digits 10")
    ] = None,
    data_root: Annotated[str | None, typer.Option(help="For folder: holds train/ and test/.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Training images per class, with class-balanced weights and LDAM margins."""
    from srat_fast.data.imbalance import halves
    from srat_fast.data.plan import base_counts, planned_counts
    from srat_fast.losses.weighting import class_balanced_weights, ldam_margins

    options = {"--dataset": dataset, "--imbalance": imbalance, "--ratio": ratio, "--data-root": data_root}
    recipe = recipe_from_options(None, options, [])
    base, classes = base_counts(recipe)
    counts = planned_counts(recipe, base)
    if as_json:
        content = {
            "counts": counts,
            "classes": classes,
            "total": sum(counts),
            "imbalance": recipe.data.imbalance,
            "ratio": recipe.data.ratio,
        }
        typer.echo(json.dumps(content))
        return

    from rich import box
    from rich.console import Console
    from rich.table import Table

    _, under = halves(counts)
    table = Table("class", "images", "half", "CB weight", "LDAM margin", box=box.MARKDOWN)
    for column in (1, 3, 4):
        table.columns[column].justify = "right"
    rows = zip(classes, counts, class_balanced_weights(counts), ldam_margins(counts), strict=True)
    for label, (name, count, weight, margin) in enumerate(rows):
        half = "under" if label in under else "well"
        table.add_row(name, str(count), half, f"{weight:.2f}", f"{margin:.3f}")
    console = Console()
    console.print(table)
    shape = recipe.data.imbalance
    console.print(
        f"{sum(counts)} images, {shape}" + ("" if shape == "none" else f", ratio {recipe.data.ratio:g}")
    )
