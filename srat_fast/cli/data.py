"""`srat-fast data show`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srat_fast.cli import prepare
from srat_fast.cli.options import AsJson, Settings, Text, of_field, recipe_from_options
from srat_fast.datasets import DATASETS, imbalance_title
from srat_fast.tables import Table

if TYPE_CHECKING:
    from srat_fast.recipe import Recipe

app = typer.Typer(help="Class counts under an imbalance, prepared files.", no_args_is_help=True)

#: Characters of the longest bar.
_BAR = 16


@app.callback()
def _group() -> None:
    """Class counts under an imbalance, prepared files."""


app.command()(prepare.prepare)


@app.command()
def show(
    dataset: Annotated[str, typer.Argument(help=f"One of {', '.join(DATASETS)}.", metavar="DATASET")],
    imbalance: Annotated[Text, of_field("--imbalance")] = None,
    ratio: Annotated[Text, of_field("--ratio")] = None,
    data_root: Annotated[Text, of_field("--data-root")] = None,
    mirror: Annotated[Text, of_field("--mirror")] = None,
    settings: Settings = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw the class counts: FILE.svg, .png or .pdf.", metavar="FILE")
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option(help="Draw some training images of each class; loads the images.", metavar="FILE"),
    ] = None,
    per_class: Annotated[int, typer.Option(min=1, max=100, help="Images of each class in --samples.")] = 8,
    as_json: AsJson = False,
) -> None:
    """Training images, loss weight and LDAM margin per class. Only --samples needs the images."""
    recipe = recipe_from_options(None, locals(), settings)

    from srat_fast.console import Console
    from srat_fast.data.imbalance import split_by_frequency
    from srat_fast.data.plan import base_counts, planned_counts

    base, classes = base_counts(recipe, tell=True)
    counts = planned_counts(recipe, base)
    _, under = split_by_frequency(counts)
    _draw(recipe, classes, counts, under, figure, samples, per_class)
    if as_json:
        content = {
            "counts": counts,
            "classes": classes,
            "total": sum(counts),
            "imbalance": recipe.data.imbalance,
            "ratio": recipe.data.ratio,
            "imbalance_base": recipe.data.imbalance_base,
        }
        print(json.dumps(content))
        return
    _print(recipe, classes, counts, under)
    uneven = recipe.data.imbalance != "none" and len(set(base)) > 1
    if uneven:
        own = recipe.data.imbalance_base == "own"
        said = (
            "of its own count, as the paper's text; the other is data.imbalance_base = smallest, which keeps K exact"
            if own
            else f"of the smallest class's {min(base)}, so that K is exact; the other is data.imbalance_base = own, "
            "the paper's text"
        )
        Console().say(f"data.imbalance_base = {recipe.data.imbalance_base}: each class has its share {said}")


def _title(recipe: Recipe, counts: list[int]) -> str:
    data = recipe.data
    return f"{sum(counts)} images, {imbalance_title(data.imbalance, data.ratio, data.imbalance_base)}"


def _draw(
    recipe: Recipe,
    classes: list[str],
    counts: list[int],
    under: list[int],
    figure: Path | None,
    samples: Path | None,
    per_class: int,
) -> None:
    """The pictures that were asked for; their names are judged before any work is done."""
    if figure is None and samples is None:
        return
    from srat_fast.console import Console
    from srat_fast.data.plan import resolve_recipe
    from srat_fast.data.split import load_split
    from srat_fast.figures.canvas import save, suffix_of
    from srat_fast.figures.datasets import class_bars, sample_page

    say = Console(stderr=True).say
    title = f"{recipe.data.name}: {_title(recipe, counts)}"
    for path, option in ((figure, "--figure"), (samples, "--samples")):
        if path is not None:
            suffix_of(path, option)
    if figure is not None:
        say(f"wrote {save(class_bars(classes, counts, under, title), figure)}")
    if samples is not None:
        split = load_split(resolve_recipe(recipe))
        page = sample_page(split.train.images, split.train.labels, classes, per_class, title)
        say(f"wrote {save(page, samples, '--samples')}")


def _print(recipe: Recipe, classes: list[str], counts: list[int], under: list[int]) -> None:
    from srat_fast.console import Console
    from srat_fast.losses.weighting import class_balanced_weights, ldam_margins

    table = Table("class", "images", "half", "CB weight", "LDAM margin", "bar", right=(1, 3, 4))
    rows = zip(classes, counts, class_balanced_weights(counts), ldam_margins(counts), strict=True)
    for label, (name, count, weight, margin) in enumerate(rows):
        half = "under" if label in under else "well"
        bar = "█" * max(1, round(_BAR * count / max(counts)))
        table.add(name, str(count), half, f"{weight:.2f}", f"{margin:.3f}", bar)
    console = Console()
    console.print(table)
    console.say(_title(recipe, counts))
