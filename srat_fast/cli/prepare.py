"""`srat-fast data prepare`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from srat_fast.cli.options import AsJson, Settings, Text, of_field, recipe_from_options
from srat_fast.recipe import Recipe
from srat_fast.tables import Table

#: Options of this command only -> recipe field.
_FIELDS = {
    "--storage": "data.storage",
    "--image-size": "data.image_size",
    "--max-side": "data.max_side",
    "--jpeg-quality": "data.jpeg_quality",
    "--out": "data.prepared",
}


def prepare(
    dataset: Annotated[Text, of_field("--dataset")] = None,
    imbalance: Annotated[Text, of_field("--imbalance")] = None,
    ratio: Annotated[Text, of_field("--ratio")] = None,
    seed: Annotated[Text, of_field("--seed", "Seed of the run; the subset is drawn by it.")] = None,
    loader: Annotated[
        str, typer.Option(help="ffcv: write .beton files; memory: only download, check and decode.")
    ] = "ffcv",
    storage: Annotated[Text, of_field("--storage", field="data.storage")] = None,
    image_size: Annotated[Text, of_field("--image-size", field="data.image_size")] = None,
    max_side: Annotated[Text, of_field("--max-side", field="data.max_side")] = None,
    jpeg_quality: Annotated[Text, of_field("--jpeg-quality", field="data.jpeg_quality")] = None,
    data_root: Annotated[Text, of_field("--data-root")] = None,
    mirror: Annotated[Text, of_field("--mirror")] = None,
    out: Annotated[
        Text,
        of_field(
            "--out",
            "Directory of the .beton files; train with --set data.prepared=DIR.",
            field="data.prepared",
        ),
    ] = None,
    recipe: Annotated[
        Text, typer.Option(help="A named recipe or a FILE.toml.", show_default="as train")
    ] = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Download, check and decode the images of a run. Writes .beton files for --loader ffcv, each with its SHA-256."""
    chosen = recipe_from_options(recipe, locals(), settings, _FIELDS)
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
    from srat_fast.data.paths import expanded
    from srat_fast.data.plan import resolve_recipe
    from srat_fast.data.split import load_split

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
