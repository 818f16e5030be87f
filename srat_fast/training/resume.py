"""Where a run begins: directory, recipe and `--resume` enter; a new run, a checkpoint or a finished record leaves."""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from srat_fast.data.arrays import ImageArrays
from srat_fast.errors import UserError, path_errors
from srat_fast.recipe import FIELDS, Recipe, flatten, recipe_from_dict
from srat_fast.record import (
    AUTO,
    CHECKPOINT,
    MUST,
    RECIPE,
    RECORD,
    RunDirectory,
    status_of,
    versions,
    write_atomically,
)
from srat_fast.training.checkpoint import Checkpoint, Checkpoints
from srat_fast.training.setup import Setup, resolve_hardware

#: Choices that "auto" leaves to the hardware: a run that goes on keeps those that were made when it began.
_CHOSEN = ("run.precision", "run.compile", "run.capture")
_ENTRIES = "resumed.json"


@dataclass
class Begin:
    """A run that is about to begin or to go on.

    Attributes:
        recipe: with hardware's choices.
        device: where it will run.
        run: its directory, locked.
        checkpoints: its checkpoints.
        checkpoint: to go on from; None to begin.
        entries: one for each time that the run was taken up again, this one included.
        finished: the record, where there is nothing left to do.
    """

    recipe: Recipe
    device: torch.device
    run: RunDirectory
    checkpoints: Checkpoints
    checkpoint: Checkpoint | None = None
    entries: list[dict[str, Any]] = field(default_factory=list)
    finished: dict[str, Any] | None = None

    def note(self) -> None:
        """Put on disk that the run was taken up again, so that a kill does not lose it."""
        if self.entries:
            self.checkpoints.directory.mkdir(exist_ok=True)
            write_atomically(
                self.checkpoints.directory / _ENTRIES, json.dumps(self.entries, indent=1).encode()
            )


def begin(recipe: Recipe, path: Path, resume: str | None, arrays: ImageArrays | None = None) -> Begin:
    """Decide what is to be done with a run directory, and lock it.

    Args:
        recipe: what to compute.
        path: of the run.
        resume: None for a new run, "must" to continue one, "auto" for whichever fits.
        arrays: the images, where they are in memory already.

    Returns:
        The run, ready to be prepared; `finished` is set where it already is, and nothing is locked then.

    Raises:
        UserError: nothing to resume, a run that is in the way or at work, another recipe, or damaged files.
    """
    if resume not in (None, MUST, AUTO):
        raise UserError("--resume", "give it without a value, or auto", resume)
    with path_errors("--out", path):
        begun = (path / RECIPE).is_file()
    if resume is None or (resume == AUTO and not begun):
        recipe, device = resolve_hardware(recipe, arrays)
        run = RunDirectory.create(path)
        return Begin(recipe, device, run, Checkpoints(path / CHECKPOINT))
    if (record := _finished(path)) is not None:
        recipe = _compared(recipe, recipe_from_dict(record["recipe"]), path)
        return Begin(
            recipe, torch.device("cpu"), RunDirectory(path), Checkpoints(path / CHECKPOINT), finished=record
        )
    ended = status_of(path, _record(path))["status"]
    run = RunDirectory.reopen(path)
    try:
        stored = recipe_from_dict(run.read_json(RECIPE))
        recipe = _compared(recipe, stored, path)
        recipe, device = resolve_hardware(recipe, arrays)
        checkpoints = Checkpoints(path / CHECKPOINT)
        found, problems = checkpoints.newest()
        if found is not None:
            _compared(recipe, recipe_from_dict(found.about["recipe"]), checkpoints.directory / found.name)
        # whoever was at work is not, or the lock would not be ours; who ended in good order left a record
        after = "killed" if ended == "running" else ended
        entry = _entry(recipe, stored, found, problems) | {"after": after}
        return Begin(recipe, device, run, checkpoints, found, [*_entries(checkpoints), entry])
    except BaseException:
        run.release()
        raise


def check_data(setup: Setup, checkpoint: Checkpoint) -> None:
    """Refuse to go on with other images.

    Args:
        setup: the run as prepared now.
        checkpoint: of the run as it was.

    Raises:
        UserError: the checksums differ.
    """
    if checkpoint.about["data_checksum"] != setup.split.checksum:
        raise UserError(
            "data.root",
            "its images are not those that the run began with (another checksum)",
            setup.recipe.data.root,
        )


def _finished(path: Path) -> dict[str, Any] | None:
    record = _record(path)
    return record if record is not None and record.get("status") == "finished" else None


def _record(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    except OSError as error:  # it may be a finished run's, which must not be trained over
        raise UserError("--out", f"its {RECORD} cannot be read: {error.strerror}", str(path)) from None
    return record if isinstance(record, dict) else None


def _compared(recipe: Recipe, stored: Recipe, where: Path) -> Recipe:
    """`recipe`, resolved, with the hardware's choices of the stored one where it leaves them open.

    Raises:
        UserError: they differ in what is computed.
    """
    old = flatten(stored)
    given = flatten(recipe)
    kept = {name: old[name] for name in _CHOSEN if given[name] == "auto" and old[name] != "auto"}
    recipe = recipe.replace(kept).resolve()
    differences = [
        f"{name} is {old[name]!r} there and {value!r} here"
        for name, value in flatten(recipe).items()
        if FIELDS[name][1].identity and value != old[name]
    ]
    if differences:
        raise UserError("--resume", f"it is a run of another recipe: {'; '.join(differences)}", str(where))
    return recipe


def _entry(recipe: Recipe, stored: Recipe, found: Checkpoint | None, problems: list[str]) -> dict[str, Any]:
    """What the record says of this time that the run is taken up."""
    old, new = flatten(stored), flatten(recipe)
    entry: dict[str, Any] = {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "from": None if found is None else found.name,
        "epoch": 0 if found is None else found.about["epoch"],
        "step": 0 if found is None else found.about["step"],
    }
    if problems:
        entry["fallback"] = problems
    if changes := {name: [old[name], new[name]] for name in new if old[name] != new[name]}:
        entry["changes"] = changes
    if found is not None:
        before, now = found.about["versions"], versions()
        changed = {n: [before.get(n), now.get(n)] for n in {*before, *now} if before.get(n) != now.get(n)}
        if changed:
            entry["versions"] = changed
    return entry


def _entries(checkpoints: Checkpoints) -> list[dict[str, Any]]:
    try:
        entries = json.loads((checkpoints.directory / _ENTRIES).read_bytes())
    except (OSError, ValueError):
        return []  # a history of interruptions is not worth refusing a run for
    return entries if isinstance(entries, list) else []
