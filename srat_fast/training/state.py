"""The state of a run between two steps: setup and runner enter, the files of a checkpoint leave; and back, in place.

Weights are safetensors; the rest is plain values and tensors, which torch's restricted unpickler reads.
"""

from __future__ import annotations

import io
import pickle
import random
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from srat_fast.errors import UserError
from srat_fast.models.files import weights_bytes
from srat_fast.record import BEST, EMA, METRICS, MODEL, RunDirectory, write_atomically
from srat_fast.seeds import seed_for
from srat_fast.training.epochs import EpochRunner
from srat_fast.training.setup import Setup

STATE = "state.pt"


def capture(
    setup: Setup, runner: EpochRunner, run: RunDirectory, history: dict[str, Any], label: dict[str, str]
) -> dict[str, bytes]:
    """Everything that the rest of the run depends on; waits for the device.

    Args:
        setup: the run.
        runner: between two steps.
        run: its metrics and its best weights so far are part of the state.
        history: plain values that the caller wants back.
        label: what the weights files say of themselves.

    Returns:
        File name -> content.
    """
    state = {
        "position": runner.state(),
        "momentum": _momentum(setup.engine.optimizer),
        "noise": setup.engine.noise.get_state(),
        "noise_device": setup.device.type,
        "random": _random_state(setup.device),
        "history": history,
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    files = {
        MODEL: weights_bytes(setup.engine.model.state_dict(), label),
        STATE: buffer.getvalue(),
        METRICS: run.metrics(),
    }
    if runner.ema is not None:
        files[EMA] = weights_bytes(runner.ema.module.state_dict(), label)
    if history.get("best") is not None:
        files[BEST] = (run.path / BEST).read_bytes()
    return files


def restore(setup: Setup, runner: EpochRunner, run: RunDirectory, files: dict[str, bytes]) -> dict[str, Any]:
    """Put a run back, in place: graphs and compiled code keep pointing at the same tensors.

    Args:
        setup: of the same recipe, freshly prepared.
        runner: new.
        run: its metrics and best weights become those of the checkpoint.
        files: as `capture` gave them.

    Returns:
        The caller's `history`.

    Raises:
        UserError: the state is not one of ours; nothing in it was executed.
    """
    state = _load(files[STATE])
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
    _set_random_state(state["random"], setup.device)
    runner.restore(state["position"])
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


def _random_state(device: torch.device) -> dict[str, Any]:
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
