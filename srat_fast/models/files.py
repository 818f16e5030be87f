"""Weights as files: a model enters, a safetensors file leaves, and back without any recipe."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from srat_fast.errors import UserError
from srat_fast.models.resnet import ResNet18
from srat_fast.record import write_atomically


def save_model(path: Path, state: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a state dict, atomically.

    Args:
        path: of the .safetensors file.
        state: as `ResNet18.state_dict` gives it.
        metadata: plain text kept in the file's header.
    """
    write_atomically(path, weights_bytes(state, metadata))


def weights_bytes(state: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """The content of a .safetensors file.

    Args:
        state: name -> tensor, on any device.
        metadata: plain text kept in the file's header.

    Returns:
        The file's bytes.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    return safetensors.torch.save(plain, metadata)


def load_model(path: Path) -> ResNet18:
    """A network in eval mode from the file that `save_model` wrote; its shape is read off the tensors.

    Args:
        path: of the .safetensors file.

    Returns:
        The model, float32 on the CPU.

    Raises:
        UserError: missing, damaged, or not one of ours.
    """
    try:
        state = safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError("RUN", f"its weights cannot be read: {error}", str(path)) from None
    try:
        return model_from_state(state).eval()
    except (KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError("RUN", f"its weights are not those of this network: {reason}", str(path)) from None


def model_from_state(state: dict[str, Tensor]) -> ResNet18:
    """A network with the weights of a state dict; its shape is read off the tensors.

    Args:
        state: as `ResNet18.state_dict` gives it.

    Returns:
        The model, float32 on the CPU, in training mode.

    Raises:
        KeyError: a weight that decides the shape is missing.
        RuntimeError: names or shapes differ.
    """
    head = state.get("projection.2.weight")
    model = ResNet18(
        state["linear.weight"].shape[0],
        channels=state["conv1.weight"].shape[1],
        width=state["conv1.weight"].shape[0],
        feature_dim=None if head is None else head.shape[0],
        mean=torch.zeros(state["mean"].shape[1]) if "mean" in state else None,
        std=torch.ones(state["mean"].shape[1]) if "mean" in state else None,
    )
    model.load_state_dict(state)
    return model
