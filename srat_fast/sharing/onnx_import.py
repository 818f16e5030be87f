"""The only file that imports onnx and onnxruntime: a program enters, an ONNX file leaves, or is run."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from srat_fast.errors import MissingPackage


def check_onnx() -> None:
    """Say what is missing before any work is done.

    Raises:
        MissingPackage: onnx, onnxscript (torch's exporter needs both) or onnxruntime (the check runs the file).
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(package)
        except ImportError:
            raise MissingPackage(package, "--format onnx", "pip install 'srat-fast[onnx]'") from None


def onnx_bytes(program: torch.export.ExportedProgram) -> bytes:
    """A program as one ONNX file with the input `images`, the output `logits` and a free batch size.

    Args:
        program: images [B, C, H, W] -> logits [B, classes].

    Returns:
        The content of an .onnx file.
    """
    import onnx

    with warnings.catch_warnings():
        # torch's exporter calls a deprecated function of torch
        warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
        made = torch.onnx.export(
            program, dynamo=True, input_names=["images"], output_names=["logits"], verbose=False
        )
    assert made is not None
    model: Any = made.model_proto
    onnx.checker.check_model(model)
    return model.SerializeToString()


def read_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    """The file in its own runtime.

    Args:
        path: of the .onnx file.

    Returns:
        Images -> logits, both torch tensors on the CPU.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
