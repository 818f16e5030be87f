"""`srat-fast data prepare`: a data set and an imbalance enter; files that training reads, with checksums, leave."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from srat_fast.cli.options import recipe_from_options
from srat_fast.datasets import DATASETS
from srat_fast.recipe import Recipe
from srat_fast.tables import Table

_Text = str | None
#: Options of this command only -> recipe field.
_FIELDS = {
    "--storage": "data.storage",
    "--image-size": "data.image_size",
    "--max-side": "data.max_side",
    "--jpeg-quality": "data.jpeg_quality",
    "--out": "data.prepared",
}


def prepare(
    dataset: Annotated[
        _Text, typer.Option(help=f"One of {', '.join(DATASETS)}.", show_default="cifar10")
    ] = None,
    imbalance: Annotated[_Text, typer.Option(help="none, exp or step.", show_default="exp")] = None,
    ratio: Annotated[
        _Text, typer.Option(help="Largest / smallest class.", show_default="100; digits 10")
    ] = None,
    seed: Annotated[
        _Text, typer.Option(help="Of the run; the subset is drawn by it.", show_default="0")
    ] = None,
    loader: Annotated[
        str, typer.Option(help="ffcv: write .beton files; memory: only download, check and decode.")
    ] = "ffcv",
    storage: Annotated[
        _Text, typer.Option(help="raw pixels, or jpeg for large folder images.", show_default="raw")
    ] = None,
    image_size: Annotated[
        _Text, typer.Option(help="For folder: pixels of training.", show_default="32")
    ] = None,
    max_side: Annotated[
        _Text, typer.Option(help="Longer side of a stored JPEG.", show_default="twice the image size")
    ] = None,
    jpeg_quality: Annotated[
        _Text, typer.Option(help="Of a stored JPEG, 1 to 100.", show_default="90")
    ] = None,
    data_root: Annotated[
        _Text,
        typer.Option(
            help="Where the data set is (or goes); for folder: holds train/ and test/.", show_default="data"
        ),
    ] = None,
    mirror: Annotated[
        _Text,
        typer.Option(
            help="Base URL where archives are looked for first.", show_default="$SRAT_FAST_MIRROR, publisher"
        ),
    ] = None,
    out: Annotated[
        _Text,
        typer.Option(
            help="Directory of the .beton files; train with --set data.prepared=DIR.",
            show_default="the cache",
        ),
    ] = None,
    recipe: Annotated[
        _Text, typer.Option(help="A named recipe or a FILE.toml.", show_default="as train")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Any recipe field; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Download, check and decode the images of a run; write .beton files for --loader ffcv, each with its SHA-256."""
    chosen = recipe_from_options(
        recipe,
        {
            "--dataset": dataset,
            "--imbalance": imbalance,
            "--ratio": ratio,
            "--seed": seed,
            "--loader": loader,
            "--data-root": data_root,
            "--mirror": mirror,
            "--storage": storage,
            "--image-size": image_size,
            "--max-side": max_side,
            "--jpeg-quality": jpeg_quality,
            "--out": out,
        },
        settings or [],
        _FIELDS,
    )
    content = _prepared(chosen)
    if as_json:
        print(json.dumps(content, indent=2))
        return

    from srat_fast.console import Console

    table = Table("part", "images", "MB", "SHA-256", right=(1, 2))
    for file in content["files"]:
        table.add(file["part"], str(file["images"]), f"{file['bytes'] / 1e6:.1f}", file["sha256"])
    console = Console()
    console.print(table)
    for path in dict.fromkeys(file["path"] for file in content["files"] if file["path"]):
        console.say(path)


def _prepared(recipe: Recipe) -> dict[str, Any]:
    """Everything that `--json` prints; the work is done here."""
    from srat_fast.data.arrays import checksum
    from srat_fast.data.loaders import require_loader
    from srat_fast.data.notices import bar
    from srat_fast.data.plan import resolve_recipe
    from srat_fast.data.split import load_split
    from srat_fast.data.verify import expanded

    require_loader(recipe)
    recipe = resolve_recipe(recipe)
    split = load_split(recipe)
    files = []
    for part, images in (("train", split.train), ("test", split.test)):
        if recipe.data.loader == "ffcv":
            from srat_fast.data.beton import prepare_beton

            with bar(f"writing {part}", len(images)) as advance:
                made = prepare_beton(part, images, recipe, advance)
            path, size, digest = str(made.path), made.bytes, made.sha256
        else:  # the images are where they were found; what is checked is their content
            path = "" if recipe.data.name == "digits" else str(expanded("data.root", recipe.data.root))
            size, digest = images.images.nbytes + images.labels.nbytes, checksum(images)
        files.append({"part": part, "images": len(images), "path": path, "bytes": size, "sha256": digest})
    data = recipe.data
    return {
        "files": files,
        "loader": data.loader,
        "storage": data.storage,
        "counts": split.counts,
        "classes": list(split.classes),
        "total": sum(split.counts),
        "imbalance": data.imbalance,
        "ratio": data.ratio,
        "imbalance_base": data.imbalance_base,
        "data_checksum": split.checksum,
    }
