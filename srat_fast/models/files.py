"""Weights as files: a model enters, a safetensors file leaves, and back without any recipe."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from srat_fast.errors import UserError
from srat_fast.models.resnet import ResNet18
from srat_fast.record import write_atomically


def save_model(path: Path, state: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """Write a state dict, atomically; its SHA-256."""
    content = weights_bytes(state, metadata)
    write_atomically(path, content)
    return hashlib.sha256(content).hexdigest()


def weights_bytes(state: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """The content of a .safetensors file: equal for equal tensors and metadata."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    content = safetensors.torch.save(plain, metadata)
    # The library writes the metadata in the order of a hash map, another one in each call.
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of eight
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def load_model(path: Path) -> ResNet18:
    """A network in eval mode, float32 on the CPU, from the file that `save_model` wrote."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError("RUN", f"its weights cannot be read: {error.strerror}", str(path)) from None
    return model_from_bytes(content, path)


def model_from_bytes(content: bytes, path: Path) -> ResNet18:
    """The same from the file's content; `path` is for messages."""
    try:
        state = safetensors.torch.load(content)
    except SafetensorError as error:
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
