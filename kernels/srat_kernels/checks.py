"""Argument checks shared by the ops, each a one-line error."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
INTEGERS = (torch.int64, torch.int32)


def check_float(name: str, tensor: Tensor, dimensions: int | None = None) -> None:
    """Refuse `tensor` unless it is floating point with `dimensions` axes and at least one element."""
    if not isinstance(tensor, Tensor) or tensor.dtype not in FLOATS:
        found = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"{name}: a floating-point tensor is needed, got {found}")
    if dimensions is not None and tensor.dim() != dimensions:
        raise ValueError(f"{name}: {dimensions} axes are needed, got shape {tuple(tensor.shape)}")
    if tensor.numel() == 0:
        raise ValueError(f"{name}: is empty, shape {tuple(tensor.shape)}")


def check_labels(labels: Tensor, rows: int, device: torch.device, classes: int | None = None) -> None:
    """Refuse `labels` unless they are [rows] integers on `device`, in [0, classes) where that can be seen.

    The range is read on the CPU only: on a GPU it would stall the stream, which the ops promise not to do.
    """
    if not isinstance(labels, Tensor) or labels.dtype not in INTEGERS:
        found = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels: an int64 or int32 tensor is needed, got {found}")
    if labels.shape != (rows,):
        raise ValueError(f"labels: shape ({rows},) is needed, got {tuple(labels.shape)}")
    if labels.device != device:
        raise ValueError(f"labels: are on {labels.device}, the other tensors on {device}")
    if classes is not None and device.type == "cpu" and not torch.compiler.is_compiling():
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise ValueError(f"labels: 0 to {classes - 1} are allowed, got {low} to {high}")


def check_same_shape(reference_name: str, reference: Tensor, **others: Tensor) -> None:
    """Refuse any of `others` that differs from `reference` in shape or device."""
    for name, tensor in others.items():
        if tensor.shape != reference.shape:
            raise ValueError(
                f"{name}: shape {tuple(tensor.shape)} differs from {reference_name}'s {tuple(reference.shape)}"
            )
        if tensor.device != reference.device:
            raise ValueError(f"{name}: is on {tensor.device}, {reference_name} on {reference.device}")


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse `value` unless it is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name} = {value!r}: allowed are {', '.join(allowed)}")


def check_positive(name: str, value: float, *, zero: bool = False) -> None:
    """Refuse `value` unless it is finite and > 0 (>= 0 with `zero`)."""
    if not (value > 0 or (zero and value == 0)) or value == float("inf"):
        raise ValueError(f"{name} = {value}: a finite number {'>= 0' if zero else '> 0'} is needed")
