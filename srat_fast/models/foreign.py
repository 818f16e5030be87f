"""Weights from elsewhere, .safetensors or .pt, as plain tensors; nothing in a file is executed."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from srat_fast.errors import UserError

#: Keys under which training scripts commonly put the weights beside an epoch number and the like.
NESTED = ("state_dict", "model_state_dict", "model", "net")
_PICKLED = (".pt", ".pth")


def load_foreign(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weights file that this program did not write.

    A .pt file is a pickle, and a pickle is a program: it is read by torch's restricted unpickler, which builds tensors
    and plain values and refuses everything else before running it.

    Args:
        path: a .safetensors file, or a .pt / .pth file that holds {name: tensor}, at the top or under "state_dict",
            "model_state_dict", "model" or "net".

    Returns:
        Name -> dense tensor on the CPU, in the file's order; names are as they are in the file.

    Raises:
        UserError: missing, damaged, of another kind, or anything but pure tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError("weights", "is not a file", str(path))
    if path.suffix == ".safetensors":
        try:
            with path.open("rb"):  # the library calls whatever it may not read missing
                pass
            return safetensors.torch.load_file(path)
        except OSError as error:
            raise UserError("weights", f"cannot be read: {error.strerror or error}", str(path)) from None
        except SafetensorError as error:
            raise UserError("weights", f"cannot be read: {_first_line(error)}", str(path)) from None
    if path.suffix not in _PICKLED:
        raise UserError("weights", "a .safetensors, .pt or .pth file is needed", str(path))
    return _pure_tensors(_restricted(path), path)


def _restricted(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a TorchScript archive, which is refused right after
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = str(error).partition("GLOBAL ")[2].split(" ")[0]
        what = f"it calls {found}" if found else "it holds more than tensors and plain values"
        raise UserError("weights", f"refused, nothing was executed: {what}; {_REMEDY}", str(path)) from None
    except Exception as error:
        # damaged archives raise whatever the unpickler or the zip reader met first
        raise UserError("weights", f"cannot be read: {_first_line(error)}", str(path)) from None


_REMEDY = "save a state dict (name -> tensor), or better a .safetensors file"


def _pure_tensors(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, dict):
        content = next((content[key] for key in NESTED if isinstance(content.get(key), dict)), content)
    if not isinstance(content, dict) or not content:
        raise UserError("weights", f"holds no dictionary of tensors; {_REMEDY}", str(path))
    tensors = {}
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(
                "weights", f"{name!r} is no tensor but {type(value).__name__}; {_REMEDY}", str(path)
            )
        if value.layout is not torch.strided or value.is_quantized or value.device.type != "cpu":
            raise UserError("weights", f"{name!r} is not a dense tensor; {_REMEDY}", str(path))
        tensors[name] = value.detach()
    return tensors


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
