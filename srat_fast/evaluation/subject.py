"""What is judged: the model and images of a run, or of a weights file, with their checksums."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from srat_fast.data.inmemory import arrays_from
from srat_fast.data.paths import exclusive
from srat_fast.data.plan import resolve_recipe
from srat_fast.data.split import DataSplit, load_split
from srat_fast.errors import Unrecorded, UserError, is_full, require_one_of
from srat_fast.evaluation.partial import FOLDER
from srat_fast.hardware import resolve_device, use_device
from srat_fast.models.classifier import Classifier
from srat_fast.models.files import model_from_bytes
from srat_fast.recipe import ResolvedRecipe, build_recipe, recipe_from_dict
from srat_fast.record import RECORD, WEIGHTS, RunDirectory
from srat_fast.sharing.load import load

#: What keeps weights of a kind.
_KEPT = {
    "last": "every run",
    "best": "data.val_fraction > 0",
    "ema": "optim.ema_decay > 0, and an epoch that optim.ema_gate lets in",
}


@dataclass(frozen=True)
class Judged:
    """A model and images, ready to be judged.

    Attributes:
        recipe: resolved, with the wished changes.
        device: where it runs.
        model: fp32, in eval mode, on the device.
        weights: "last", "best" or "ema".
        weights_checksum: SHA-256 of the weights' file.
        split: the images.
    """

    recipe: ResolvedRecipe
    device: torch.device
    model: Classifier
    weights: str
    weights_checksum: str
    split: DataSplit


@dataclass(frozen=True)
class Subject(Judged):
    """A finished run, ready to be judged.

    Attributes:
        directory: the run.
        same_data: whether the images are the run's own; None where a subset leaves that open.
    """

    directory: RunDirectory
    same_data: bool | None


def open_subject(
    run: str | Path, changes: dict[str, Any], *, weights: str, device: str, data: Any = None
) -> Subject:
    """Load a run's weights and images."""
    require_one_of("--weights", weights, WEIGHTS)
    directory = RunDirectory.open(Path(run))
    file = directory.path / WEIGHTS[weights]
    if not file.is_file():
        raise UserError("--weights", f"the run has no {file.name}; it is kept by {_KEPT[weights]}", weights)
    record = directory.read_json(RECORD)
    recipe = recipe_from_dict(directory.read_recipe()).replace(changes).resolve()
    place = resolve_device(device)
    use_device(place)
    content = directory.read_weights(weights)
    model = model_from_bytes(content, file).to(place)
    split = load_split(recipe, None if data is None else arrays_from(data, recipe.data.image_size))
    # a subset of the test images has a checksum of its own, which says nothing about the rest
    subset = recipe.data.test_limit != record["recipe"]["data"]["test_limit"]
    same = None if subset else split.checksum == record["data_checksum"]
    try:
        (directory.path / FOLDER).mkdir(exist_ok=True)
        with (directory.path / FOLDER / ".writable").open("w"):
            pass
        (directory.path / FOLDER / ".writable").unlink(missing_ok=True)
    except OSError as error:
        if not is_full(error):  # a full one may have room again by then, and the result is shown in any case
            raise UserError(
                "RUN", f"cannot be written, so its record could not be: {error.strerror}", str(run)
            ) from None
    checksum = hashlib.sha256(content).hexdigest()
    return Subject(recipe, place, model, weights, checksum, split, directory, same)


def is_file(run: Path, model: str | None, weights: str) -> bool:
    """Whether a weights file is to be judged, with what only a file or only a run may be given."""
    if os.path.isfile(run):  # False where even the question fails; the run's own check then says why
        if weights != "last":
            raise UserError("--weights", "is for run directories; a file holds one set of weights", weights)
        return True
    if model is not None:
        raise UserError("--model", "is for weights files; a run says what network it is", model)
    return False


def open_file(
    file: Path,
    changes: dict[str, Any],
    *,
    model: str | None,
    threat: str | None,
    device: str,
    data: Any = None,
) -> Judged:
    """Load the weights of a file, somebody else's maybe, and the images of the data set's recipe with `changes`."""
    fields = changes | ({} if threat is None else {"attack.threat": threat})
    fields |= {} if data is None else {"data.name": "arrays"}
    recipe = resolve_recipe(build_recipe(None, fields), None if data is None else arrays_from(data))
    place = resolve_device(device)
    use_device(place)
    network = load(file, device=str(place), model=model)
    assert isinstance(network, Classifier)  # programs are refused without `trusted`
    split = load_split(recipe, None if data is None else arrays_from(data, recipe.data.image_size))
    images, classes = split.test.images, len(split.classes)
    example = torch.zeros(1, images.shape[3], *images.shape[1:3], device=place)
    try:
        with torch.no_grad():
            found = network(example).shape
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            "RUN", f"its network does not take images of {recipe.data.name}: {reason}", str(file)
        ) from None
    if found != (1, classes):
        problem = f"its network has {found[-1]} classes, {recipe.data.name} has {classes}; --dataset NAME says another"
        raise UserError("RUN", problem, str(file))
    checksum = hashlib.sha256(file.read_bytes()).hexdigest()
    return Judged(recipe, place, network, "last", checksum, split)


def amend_record(
    directory: RunDirectory, change: Callable[[dict[str, Any]], dict[str, Any]], result: Any
) -> None:
    """Read, change and write record.json; of two processes that do so, each sees what the other wrote."""
    try:
        with exclusive(directory.path / FOLDER / "record", option=None):
            directory.write_json(RECORD, change(directory.read_json(RECORD)))
    except OSError as error:
        problem = (
            f"the result is not on record: {directory.path / RECORD} cannot be written: {error.strerror}"
        )
        raise Unrecorded(problem, result, change(directory.read_json(RECORD))) from None
