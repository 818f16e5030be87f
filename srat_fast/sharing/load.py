"""`srat_fast.load`: a ready model from a run, an export or a weights file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from srat_fast.errors import UserError, path_errors, require_one_of
from srat_fast.hardware import neutral, resolve_device
from srat_fast.models.classifier import Classifier
from srat_fast.models.files import model_from_bytes, model_from_state, network_of
from srat_fast.models.foreign import load_foreign
from srat_fast.plugins import Plugins, load_all
from srat_fast.record import MODEL, RECIPE, WEIGHTS, RunDirectory
from srat_fast.sharing.formats import FORMATS
from srat_fast.sharing.zoo import foreign_state

_ABSENT = {
    "best": "it was trained without data.val_fraction",
    "ema": "it was trained without optim.ema_decay, or optim.ema_gate refused every epoch",
}


class Program(nn.Module):
    """A torch.export program as a module: it knows eval mode only, as it was exported in it."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program
        self.training = False

    def train(self, mode: bool = True) -> Program:
        """Nothing to do for eval mode."""
        if mode:
            raise UserError("", "an exported program knows eval mode only; load the run to train it further")
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Logits: [B, C, H, W] in [0, 1] -> [B, classes]."""
        return self.program(images)


@neutral()
def load(
    path: str | Path,
    *,
    device: str = "cpu",
    weights: str = "last",
    trusted: bool = False,
    model: str | None = None,
    plugin: Plugins = (),
) -> Classifier | Program:
    """The model of a run or of a file, ready to use: eval mode, float32, images in [0, 1] -> logits.

    Normalisation is inside the model. Its parameters keep `requires_grad`, so that it can be attacked and trained on.

    Args:
        path: a run directory, a directory that `srat-fast export` wrote, or a file: .safetensors, or .pt and .pth
            with a state dict (prefixes of torch.compile and DistributedDataParallel are taken off), or .pt2.
        device: "cpu", "cuda", "cuda:N" or "auto".
        weights: of a run: "last" epoch, "best" epoch by validation, or "ema", the moving average.
        trusted: the file's origin is trusted. Needed for .pt2 only: torch reads such programs with pickle, so a
            stranger's file could run code. The other kinds are read as tensors and nothing else.
        model: the network that a state dict is of, such as "wrn-28-10", under the names of the common code (those of
            RobustBench); width, classes and channels are the file's. None for what a .safetensors of ours says, and
            for the CIFAR ResNet-18 where a file says nothing.
        plugin: file or files of plug-ins that a run was made with, or that have the network of a file; others are
            refused, and none is run unless given.

    Returns:
        The module. `features` of a `Classifier` gives the penultimate features.

    Raises:
        UserError: nothing there, weights that the run did not keep, or a file that is damaged or of another network.
    """
    require_one_of("weights", weights, WEIGHTS)
    load_all(plugin)
    place = resolve_device(device)
    path = Path(path)
    with path_errors("path", path):
        file = _file_of(path, weights)
    if model is not None and (file.suffix in (".pt2", ".onnx") or (path / RECIPE).is_file()):
        raise UserError("model", f"is for state dicts; {path} says what network it is", model)
    if path.is_dir() and (path / RECIPE).is_file():
        RunDirectory(path).read_recipe()  # refused without its plug-ins
        return model_from_bytes(RunDirectory(path).read_weights(weights), file).to(place)
    if file.suffix == ".pt2":
        return _load_program(file, trusted).to(place)
    if file.suffix == ".onnx":
        raise UserError(
            "path", f"is for other runtimes: onnxruntime.InferenceSession({file.name!r}) runs it", str(file)
        )
    state = load_foreign(file)
    network = network_of(file.read_bytes()) if file.suffix == ".safetensors" else None
    return model_from_state(foreign_state(state, model), network, "path", file, name=model).to(place)


def _file_of(path: Path, weights: str) -> Path:
    """The one file to read."""
    if path.is_file():
        if weights != "last":
            raise UserError("weights", "is for run directories; a file holds one set of weights", weights)
        return path
    if not path.is_dir():
        raise UserError("path", "no such run directory or file", str(path))
    if (path / RECIPE).is_file():
        file = path / WEIGHTS[weights]
        if not file.is_file():
            reason = _ABSENT.get(weights, "it is not finished")
            raise UserError("weights", f"the run {path} kept no such weights: {reason}", weights)
        return file
    exported = [path / name for name in (MODEL, *(kind.file for kind in FORMATS.values()))]
    found = next((file for file in exported if file.is_file()), None)
    if found is None:
        raise UserError("path", f"is neither a run (no {RECIPE}) nor an export (no model.*)", str(path))
    return found


def _load_program(file: Path, trusted: bool) -> Program:
    if not trusted:
        raise UserError(
            "path",
            "is a torch.export program, which may run code when it is read; load(path, trusted=True) where you trust "
            "its origin, or take the run or a .safetensors file",
            str(file),
        )
    try:
        return Program(torch.export.load(file).module())
    except Exception as error:  # a damaged archive raises whatever its parser stumbles over
        raise UserError("path", f"cannot be read: {' '.join(str(error).split())[:200]}", str(file)) from None
