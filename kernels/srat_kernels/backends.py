"""Which implementation of an op runs, and which one did."""

from __future__ import annotations

import importlib.util
import os
from collections import Counter

import torch

#: Names accepted as ``backend=``. "auto" takes the fastest one that runs on the tensor's device.
BACKENDS = ("auto", "triton", "torch")

_last: dict[str, str] = {}
_launches: Counter[str] = Counter()
_HAS_TRITON = importlib.util.find_spec("triton") is not None  # looks for it, does not import it


def interpreting() -> bool:
    """Whether TRITON_INTERPRET=1 asks for triton's interpreter."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def available_backends(device: torch.device | str) -> tuple[str, ...]:
    """Backends able to run on `device`, the one that "auto" takes first.

    On the CPU "triton" is there only with TRITON_INTERPRET=1 in the environment, and never first: the interpreter
    checks kernels, it is no way to run them.

    Args:
        device: where the tensors live.

    Returns:
        Names that may be passed as ``backend=`` for tensors on that device.
    """
    kind = torch.device(device).type  # an unknown device name is an error here, not a later surprise
    if kind == "cuda" and _HAS_TRITON:
        return ("triton", "torch")
    if kind == "cpu" and interpreting() and _HAS_TRITON:
        return ("torch", "triton")
    return ("torch",)


def resolve_backend(backend: str, device: torch.device | str) -> str:
    """The backend that `backend` stands for on `device`; what an op will run, before it runs.

    Args:
        backend: one of `BACKENDS`.
        device: where the tensors live.

    Returns:
        "triton" or "torch". (Under "auto" the ops take "torch" for float64 tensors, which no kernel computes in.)

    Raises:
        ValueError: `backend` is not a known name, or cannot run on `device`.
    """
    able = available_backends(device)
    if backend == "auto":
        return able[0]
    if backend not in able:
        raise ValueError(
            f"backend = {backend!r}: on {torch.device(device).type} allowed are auto, {', '.join(able)}"
        )
    return backend


def choose_backend(
    op: str,
    backend: str,
    device: torch.device,
    dtypes: dict[str, torch.dtype],
    supported: tuple[torch.dtype, ...],
) -> str:
    """`resolve_backend` for the tensors at hand, remembered for `last_backend`."""
    chosen = resolve_backend(backend, device)
    if chosen == "triton":
        for name, dtype in dtypes.items():
            if dtype in supported:
                continue
            if backend == "triton":
                allowed = ", ".join(str(each).removeprefix("torch.") for each in supported)
                raise TypeError(
                    f'{name}: {dtype} cannot run on backend = "triton", which takes {allowed}; use "torch"'
                )
            chosen = "torch"
    if not torch.compiler.is_compiling():  # in a compiled graph Python does not run at every call
        _last[op] = chosen
    return chosen


def last_backend(op: str) -> str | None:
    """The backend that ran at the last call of `op` outside of compiled graphs.

    Args:
        op: "srat_loss", "separation_loss", "margin_loss" or "linf_step".

    Returns:
        "triton", "torch", or None before the first call.
    """
    return _last.get(op)


def kernel_launches() -> dict[str, int]:
    """Launches of each kernel so far in this process, those issued from compiled graphs included.

    Replays of a captured CUDA graph are not counted: no Python runs there.

    Returns:
        Number of launches by kernel name.
    """
    return dict(_launches)


def count_launch(kernel: str) -> None:
    """Count one launch; called by the launchers."""
    _launches[kernel] += 1
