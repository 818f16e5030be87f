"""Resuming: which run a directory holds, and the state between two steps that goes on bit-exactly."""

from __future__ import annotations

import datetime
import io
import json
import pickle
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from srat_fast import plugins
from srat_fast.data.arrays import ImageArrays
from srat_fast.data.paths import expanded
from srat_fast.data.split import load_split
from srat_fast.datasets import DATASETS
from srat_fast.errors import UserError, path_errors
from srat_fast.models.files import model_bytes
from srat_fast.ranks import Ranks
from srat_fast.recipe import FIELDS, Recipe, ResolvedRecipe, flatten, recipe_from_dict
from srat_fast.record import (
    AUTO,
    BEST,
    CHECKPOINT,
    EMA,
    METRICS,
    MODEL,
    MUST,
    RECIPE,
    RECORD,
    RunDirectory,
    status_of,
    versions,
    write_atomically,
)
from srat_fast.seeds import seed_for
from srat_fast.training.checkpoint import Checkpoint, Checkpoints
from srat_fast.training.setup import Setup, resolve_hardware

if TYPE_CHECKING:
    from srat_fast.training.fit import EpochRunner

STATE = "state.pt"


def snapshot(
    setup: Setup,
    runner: EpochRunner,
    run: RunDirectory,
    history: dict[str, Any],
    label: dict[str, str],
    standing: tuple[dict[str, Any], list[dict[str, Any]]] | None = None,
) -> dict[str, bytes]:
    """Everything that the rest of the run depends on; waits for the device.

    `standing`: the runner's state and the random state of each process, where several have been asked.
    """
    position, (random, *others) = standing or (runner.state(), [random_state(setup.device)])
    state = {
        "position": position,
        "momentum": _momentum(setup.engine.optimizer),
        "noise": setup.engine.noise.get_state(),
        "noise_device": setup.device.type,
        "random": random,
        **({"other_random": others} if others else {}),
        "history": history,
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    files = {
        MODEL: model_bytes(setup.engine.model, label),
        STATE: buffer.getvalue(),
        METRICS: run.metrics(),
    }
    if runner.ema is not None:
        files[EMA] = model_bytes(runner.ema.module, label)
    if history.get("best") is not None:
        files[BEST] = (run.path / BEST).read_bytes()
    return files


def restore(setup: Setup, runner: EpochRunner, run: RunDirectory, files: dict[str, bytes]) -> dict[str, Any]:
    """Put a run back, in place: graphs and compiled code keep pointing at the same tensors."""
    state = _load(files[STATE])
    stage = state["position"].get("stage", 0)  # there is none in earlier versions' checkpoints
    if stage != setup.engine.stage.number:
        setup.engine.enter(stage)
    setup.engine.model.load_state_dict(safetensors.torch.load(files[MODEL]))
    if runner.ema is not None:
        runner.ema.module.load_state_dict(safetensors.torch.load(files[EMA]))
    _set_momentum(setup.engine.optimizer, state["momentum"])
    if state["noise_device"] == setup.device.type:
        setup.engine.noise.set_state(state["noise"])
    else:  # generators of different devices have states of different kinds: a new stream, of this position
        position = state["position"]
        seed = seed_for(setup.recipe.seed, "attack", position["epoch"], position["batch"])
        setup.engine.noise.manual_seed(seed)
    random = [state["random"], *state.get("other_random", ())]
    if len(random) == setup.ranks.size:  # of other processes there is no state to go on with
        _set_random_state(random[setup.ranks.rank], setup.device)
    runner.restore(state["position"])
    if not setup.ranks.first:
        return state["history"]
    run.set_metrics(files[METRICS])
    best = run.path / BEST
    if BEST not in files:
        best.unlink(missing_ok=True)
    elif not best.exists() or best.read_bytes() != files[BEST]:
        write_atomically(best, files[BEST])
    return state["history"]


def _load(content: bytes) -> dict[str, Any]:
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = str(error).partition("GLOBAL ")[2].split(" ")[0]
        problem = f"the checkpoint calls {found or 'code'}: refused, nothing was executed"
        raise UserError("--resume", problem, STATE) from None
    except Exception as error:
        # a damaged archive raises whatever the zip reader or the unpickler met first
        raise UserError("--resume", f"cannot be read ({type(error).__name__})", STATE) from None


def _momentum(optimizer: torch.optim.Optimizer) -> list[Tensor | None]:
    """Momentum in the parameters' order; None before the first step of an optimiser that makes it then."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    found = [optimizer.state[p].get("momentum_buffer") for p in parameters]
    return [None if buffer is None else buffer.detach().cpu() for buffer in found]


def _set_momentum(optimizer: torch.optim.Optimizer, saved: list[Tensor | None]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for parameter, old in zip(parameters, saved, strict=True):
        own = optimizer.state[parameter].get("momentum_buffer")
        if own is not None and old is not None:
            own.copy_(old)
        elif old is not None:
            optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(old)


def random_state(device: torch.device) -> dict[str, Any]:
    """The process's own generators: nothing here draws from them, but a library may."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [
            kind,
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            position,
            has_gauss,
            float(gauss),
        ],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def _set_random_state(saved: dict[str, Any], device: torch.device) -> None:
    version, internal, gauss = saved["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = saved["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(saved["torch"])
    if device.type == "cuda" and saved["cuda"] is not None:
        torch.cuda.set_rng_state(saved["cuda"], device)


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

    recipe: ResolvedRecipe
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


def begin_together(
    ranks: Ranks, recipe: ResolvedRecipe, path: Path, resume: str | None, arrays: ImageArrays | None = None
) -> Begin:
    """What the first process decides, in each of them; only the first one has the directory."""
    begun: list[Begin] = []

    def decide() -> tuple[Any, ...]:
        start = begin(recipe, path, resume, arrays, ranks.size)
        begun.append(start)
        return start.recipe, start.checkpoint, start.entries, start.finished

    chosen, checkpoint, entries, finished = ranks.on_first(decide)
    if begun:
        return begun[0]
    chosen = chosen.replace({"run.device": recipe.run.device})
    device = resolve_hardware(chosen, arrays, ranks.size)[1]
    checkpoints = Checkpoints(path / CHECKPOINT)
    return Begin(chosen, device, RunDirectory.beside(path), checkpoints, checkpoint, entries, finished)


def begin(
    recipe: ResolvedRecipe,
    path: Path,
    resume: str | None,
    arrays: ImageArrays | None = None,
    processes: int = 1,
) -> Begin:
    """Decide what is to be done with a run directory, and lock it."""
    if resume not in (None, MUST, AUTO):
        raise UserError("--resume", "give it without a value, or auto", resume)
    with path_errors("--out", path):
        begun = (path / RECIPE).is_file()
    if resume is None or (resume == AUTO and not begun):
        recipe, device = resolve_hardware(recipe, arrays, processes)
        run = RunDirectory.create(path)
        return Begin(recipe, device, run, Checkpoints(path / CHECKPOINT))
    if (record := _finished(path)) is not None:
        stored = recipe_from_dict(plugins.of_run(path, record["recipe"], record))
        recipe = _compared(recipe, stored, path)
        _check_finished(recipe, stored, record, arrays, path)
        return Begin(
            recipe, torch.device("cpu"), RunDirectory(path), Checkpoints(path / CHECKPOINT), finished=record
        )
    ended = status_of(path, _record(path))["status"]
    run = RunDirectory.reopen(path)
    try:
        stored = compared = recipe_from_dict(run.read_recipe())
        if processes > 1 and stored.run.compile == "on":  # one process has begun; several are not compiled
            off = {"run.compile": "off"}
            recipe, compared = recipe.replace(off), stored.replace(off)
        recipe = _compared(recipe, compared, path)
        recipe, device = resolve_hardware(recipe, arrays, processes)
        checkpoints = Checkpoints(path / CHECKPOINT)
        found, problems = checkpoints.newest()
        if found is not None:
            about = recipe_from_dict(plugins.of_run(path, found.about["recipe"], found.about))
            about = about.replace({"run.compile": recipe.run.compile})  # that of another number of processes
            _compared(recipe, about, checkpoints.directory / found.name)
        # whoever was at work is not, or the lock would not be ours; who ended in good order left a record
        after = "killed" if ended == "running" else ended
        entry = _entry(recipe, stored, found, problems, processes) | {"after": after}
        return Begin(recipe, device, run, checkpoints, found, [*_entries(checkpoints), entry])
    except BaseException:
        run.release()
        raise


def check_data(setup: Setup, checkpoint: Checkpoint) -> None:
    """Refuse to go on with other images."""
    if checkpoint.about["data_checksum"] != setup.split.checksum:
        raise UserError(
            "data.root",
            "its images are not those that the run began with (another checksum)",
            setup.recipe.data.root,
        )


def _check_finished(
    recipe: ResolvedRecipe, stored: Recipe, record: dict[str, Any], arrays: ImageArrays | None, path: Path
) -> None:
    """Refuse the record of other images: where a set of one's own lies is no part of a recipe's identity."""
    places = [expanded("data.root", one.data.root).resolve() for one in (recipe, stored)]
    if DATASETS[recipe.data.name].train_counts or (arrays is None and places[0] == places[1]):
        return
    if load_split(recipe, arrays).checksum != record["data_checksum"]:
        problem = f"its images are not those of the finished run in {path}; choose another --out"
        raise UserError("data.root", problem, recipe.data.root)


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


def _compared(recipe: ResolvedRecipe, stored: Recipe, where: Path) -> ResolvedRecipe:
    """`recipe` with the hardware's choices of the stored one where it leaves them open."""
    old = flatten(stored.filled())
    given = flatten(recipe)
    kept = {name: old[name] for name in _CHOSEN if given[name] == "auto" and old[name] != "auto"}
    recipe = recipe.replace(kept)
    old["plugin"] = plugins.digests(stored.plugin)
    differences = [
        f"{name} is {old[name]!r} there and {value!r} here"
        for name, value in (flatten(recipe) | {"plugin": plugins.digests(recipe.plugin)}).items()
        if FIELDS[name][1].identity and value != old[name]
    ]
    if differences:
        raise UserError("--resume", f"it is a run of another recipe: {'; '.join(differences)}", str(where))
    return recipe


def _entry(
    recipe: Recipe, stored: Recipe, found: Checkpoint | None, problems: list[str], processes: int
) -> dict[str, Any]:
    """What the record says of this time that the run is taken up."""
    old, new = flatten(stored.filled()), flatten(recipe)
    entry: dict[str, Any] = {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "from": None if found is None else found.name,
        "epoch": 0 if found is None else found.about["epoch"],
        "step": 0 if found is None else found.about["step"],
    }
    if problems:
        entry["fallback"] = problems
    if changes := {
        name: [old[name], new[name]] for name in new if old[name] != new[name] and name != "plugin"
    }:
        entry["changes"] = changes
    if found is not None:
        before, now = found.about["versions"], versions()
        changed = {n: [before.get(n), now.get(n)] for n in {*before, *now} if before.get(n) != now.get(n)}
        if changed:
            entry["versions"] = changed
        if (were := found.about.get("processes", 1)) != processes:
            entry["processes"] = [were, processes]
    return entry


def _entries(checkpoints: Checkpoints) -> list[dict[str, Any]]:
    try:
        entries = json.loads((checkpoints.directory / _ENTRIES).read_bytes())
    except (OSError, ValueError):
        return []  # a history of interruptions is not worth refusing a run for
    return entries if isinstance(entries, list) else []
