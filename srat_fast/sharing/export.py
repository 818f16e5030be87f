"""`srat-fast export`: a run's model in files for other programs, each checked, with a card; all of them or none."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from srat_fast.data.inmemory import arrays_from
from srat_fast.data.split import load_split
from srat_fast.errors import ExportFailure, UserError, path_errors
from srat_fast.hardware import neutral
from srat_fast.models.classifier import Classifier
from srat_fast.plugins import FOLDER, Plugins, copy_name, load_all, loaded
from srat_fast.recipe import Recipe, ResolvedRecipe, recipe_from_dict, to_toml
from srat_fast.record import RECORD, RunDirectory, write_atomically
from srat_fast.sharing.card import CARD, model_card
from srat_fast.sharing.formats import FORMATS, Format, Source, parse_formats
from srat_fast.sharing.load import load

#: Images of each batch that the files are compared on.
_BATCH = 16
#: Largest difference of a logit, absolute, or relative to the largest logit where that is above 1.
_TOLERANCE = 1e-5
#: The recipe beside the card: not recipe.json, by which a directory is known to be a run.
_RECIPE = "recipe.toml"
#: Where files are until all of them are checked.
_SCRATCH = ".export."
#: Names that an earlier export leaves, and a new one may replace.
_OURS = {CARD, _RECIPE, FOLDER, *(chosen.file for chosen in FORMATS.values())}


@neutral()
def export(
    run: str | Path,
    formats: str = "safetensors",
    *,
    weights: str = "last",
    out: str | Path | None = None,
    changes: dict[str, Any] | None = None,
    real_batch: bool = True,
    data: Any = None,
    plugin: Plugins = (),
) -> dict[str, Any]:
    """Write a run's model in one or several formats, read each file back and compare its logits with the run's.

    Args:
        run: a run directory.
        formats: as for `parse_formats`.
        weights: "last", "best" or "ema".
        out: directory of the export: new, empty, or an earlier export, which is replaced as a whole; None for
            RUN/export, or RUN/export-best and RUN/export-ema.
        changes: recipe fields to change, such as {"data.root": ...}.
        real_batch: compare on test images too, not on random ones only.
        data: the images of a run that was trained on images in memory, as `srat_fast.train` took them.
        plugin: file or files of plug-ins that the run was made with; others are refused, and none is run unless given.

    Returns:
        {"out", "weights", "files": [{"format", "title", "file", "bytes", "sha256", "difference", "snippet"}],
        "same_data": whether the test images have the run's checksum, None where they were not read}.

    Raises:
        UserError: not a finished run, a format that cannot hold the network, images missing, `out` in use.
        ExportFailure: a file does not give the run's logits; nothing is left behind.
    """
    chosen = parse_formats(formats)
    load_all(plugin)
    directory = RunDirectory.open(Path(run))
    record = directory.read_json(RECORD)
    stored = recipe_from_dict(directory.read_recipe()).resolve()
    model = load(directory.path, weights=weights)
    assert isinstance(model, Classifier)
    source = Source(model, stored.data.image_size, _metadata(stored, record, weights))
    for kind in chosen:
        kind.check(source)
    with path_errors("--out", Path(out or run)):
        target = _target(directory.path, out, weights)
    generator = torch.Generator().manual_seed(0)
    shape = (_BATCH, source.channels, source.image_size, source.image_size)
    batches, same_data = {"random": torch.rand(shape, generator=generator)}, None
    if real_batch:
        batches["real"], same_data = _real_batch(stored.replace(changes or {}), record, data)
    existed = target.exists()
    made = next(path for path in (target, *target.parents) if path.parent.exists())  # the topmost new one
    try:
        target.mkdir(parents=True, exist_ok=True)
        # beside the final files, so that they move by renaming
        scratch = Path(tempfile.mkdtemp(dir=target, prefix=_SCRATCH))
    except OSError as error:
        if not existed:
            shutil.rmtree(made, ignore_errors=True)
        raise UserError("--out", f"cannot be written: {error.strerror}", str(target)) from None
    try:
        files = [_write(kind, source, scratch, batches) for kind in chosen]
        card = model_card(
            record,
            weights=weights,
            files=files,
            image=(source.channels, source.image_size),
            normalised=model.normalize,
            checked_on=list(batches),
        )
        _store(scratch / CARD, card.encode())
        # where the images lay on this machine is nobody's business
        portable = stored.replace({"data.root": Recipe().data.root})
        _store(scratch / _RECIPE, to_toml(portable, copies=True).encode())
        for path in portable.plugin:
            (scratch / FOLDER).mkdir(exist_ok=True)
            _store(scratch / copy_name(path), loaded(path).content)
        _publish(scratch, target)
    except BaseException:
        shutil.rmtree(scratch if existed else made, ignore_errors=True)
        raise
    return {"out": str(target), "weights": weights, "files": files, "same_data": same_data}


def _metadata(recipe: Recipe, record: dict[str, Any], weights: str) -> dict[str, str]:
    """What the safetensors file says of itself, beside its tensors."""
    data = recipe.data
    return {
        "format": f"srat-fast {recipe.model.name}",
        "fingerprint": record["fingerprint"],
        "method": recipe.method,
        "data": data.name,
        "weights": weights,
        "classes": json.dumps(record["classes"]),
        "counts": json.dumps(record["counts"]),
        "input": f"[B, C, {data.image_size}, {data.image_size}] float32 in [0, 1]",
        "normalisation": "inside" if recipe.model.normalize != "none" else "none",
    }


def _target(run: Path, out: str | Path | None, weights: str) -> Path:
    """The export's directory; refused where it holds anything but an earlier export."""
    target = Path(out) if out is not None else run / ("export" if weights == "last" else f"export-{weights}")
    if target.exists() and not target.is_dir():
        raise UserError("--out", "is not a directory", str(target))
    held = {path.name for path in target.iterdir()} if target.exists() else set()
    held = {name for name in held if not name.startswith(_SCRATCH)}  # of an export that was killed
    if held and (CARD not in held or held - _OURS):
        raise UserError("--out", "is not empty and holds no earlier export; choose another", str(target))
    return target


def _real_batch(recipe: ResolvedRecipe, record: dict[str, Any], data: Any) -> tuple[Tensor, bool]:
    """Test images spread over the set, and whether the data are the run's own."""
    split = load_split(recipe, None if data is None else arrays_from(data, recipe.data.image_size))
    index = np.unique(np.linspace(0, len(split.test) - 1, _BATCH).round().astype(np.int64))
    pixels = torch.from_numpy(split.test.images[index])  # [B, H, W, C] uint8
    return pixels.permute(0, 3, 1, 2).float() / 255, split.checksum == record["data_checksum"]


def _write(kind: Format, source: Source, folder: Path, batches: dict[str, Tensor]) -> dict[str, Any]:
    """One file, written, read back and compared."""
    path = folder / kind.file
    content = kind.content(source)
    _store(path, content)
    difference = _largest_difference(kind.name, source.model, kind.read(source, path), batches)
    return {
        "format": kind.name,
        "title": kind.title,
        "file": kind.file,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "difference": difference,
        "snippet": kind.snippet(source),
    }


def _largest_difference(
    name: str, model: nn.Module, read: Callable[[Tensor], Tensor], batches: dict[str, Tensor]
) -> float:
    """How far a file's logits are from the run's, on every batch and on its first image alone."""
    worst = 0.0
    with torch.no_grad():
        for what, images in batches.items():
            for part in (images, images[:1]):
                expected, found = model(part), read(part)
                if found.shape != expected.shape:
                    raise ExportFailure(
                        f"{name}: logits of shape {list(found.shape)} where the run gives {list(expected.shape)} "
                        f"on a {what} batch"
                    )
                difference = (found - expected).abs().max().item()
                allowed = _TOLERANCE * max(1.0, expected.abs().max().item())
                if not difference <= allowed:  # NaN is not
                    raise ExportFailure(
                        f"{name}: logits differ from the run's by {difference:.3g} on a {what} batch, "
                        f"at most {allowed:.3g} is allowed; nothing was exported"
                    )
                worst = max(worst, difference)
    return worst


def _store(path: Path, content: bytes) -> None:
    """A file of the scratch directory."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UserError("--out", f"cannot be written: {error.strerror}", str(path.parent.parent)) from None


def _publish(scratch: Path, target: Path) -> None:
    """Move the files to their place; what an earlier export left and this one did not make anew goes."""
    new = {path.name for path in scratch.iterdir()}
    shutil.rmtree(target / FOLDER, ignore_errors=True)
    for name in _OURS - new - {FOLDER}:
        (target / name).unlink(missing_ok=True)
    for name in sorted(new):
        os.replace(scratch / name, target / name)
    for left in target.glob(f"{_SCRATCH}*"):
        shutil.rmtree(left, ignore_errors=True)
