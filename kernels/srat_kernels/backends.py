"""Which implementation of an op runs: enters the caller's wish, leaves the name of the backend."""

from __future__ import annotations

import torch

#: Names accepted as ``backend=``. "auto" takes the fastest one that runs on the tensor's device.
BACKENDS = ("auto", "torch")


def available_backends(device: torch.device | str) -> tuple[str, ...]:
    """Backends able to run on `device`, fastest first.

    Args:
        device: where the tensors live.

    Returns:
        Names that may be passed as ``backend=`` for tensors on that device.
    """
    torch.device(device)  # an unknown device name is an error here, not a later surprise
    return ("torch",)


def resolve_backend(backend: str, device: torch.device | str) -> str:
    """The backend that `backend` stands for on `device`; what an op will run, before it runs.

    Args:
        backend: one of `BACKENDS`.
        device: where the tensors live.

    Returns:
        "torch".

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
