"""Formats of `srat-fast export`: how a network is written, and read back by the reader that the format's users have."""

from __future__ import annotations

import copy
import importlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from srat_fast.errors import MissingPackage, UserError, did_you_mean
from srat_fast.models.classifier import Classifier
from srat_fast.models.files import load_model, model_bytes
from srat_fast.record import MODEL
from srat_fast.sharing.zoo import check_zoo, read_zoo, zoo_bytes, zoo_snippet


@dataclass(frozen=True)
class Source:
    """What is exported.

    Attributes:
        model: in eval mode, float32, on the CPU.
        image_size: pixels of its images.
        metadata: plain text for formats that keep some.
    """

    model: Classifier
    image_size: int
    metadata: dict[str, str]

    @property
    def classes(self) -> int:
        """C."""
        return self.model.classes

    @property
    def channels(self) -> int:
        """Of the images."""
        return self.model.channels


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: as given to --format.
        file: its name in the export's directory.
        title: what it is, for people.
        check: raises where this network, or this machine, cannot do it; nothing is written before.
        content: (source) -> the file's bytes. In memory, because torch's own writer ends the process on a full disk.
        read: (source, path) -> images -> logits, by the reader that users of this format have.
        snippet: (source) -> the lines of Python that load it; they use and leave no other name than `images`.
    """

    name: str
    file: str
    title: str
    check: Callable[[Source], None]
    content: Callable[[Source], bytes]
    read: Callable[[Source, Path], Callable[[Tensor], Tensor]]
    snippet: Callable[[Source], str]


class _Logits(nn.Module):
    """The network without projection head, and without the autocast guards that a float32 program can do without."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.network = copy.deepcopy(model)
        self.network.projection = None

    def forward(self, images: Tensor) -> Tensor:
        return self.network.linear(self.network.features(images))


def program(source: Source) -> torch.export.ExportedProgram:
    """The network as a torch.export program with a free batch size, without notes of where its source files lie."""
    images = torch.zeros(2, source.channels, source.image_size, source.image_size)
    made = torch.export.export(
        _Logits(source.model).eval(), (images,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}}
    )
    for node in made.graph.nodes:
        node.meta.pop("stack_trace", None)
    return made


def check_onnx() -> None:
    """Say what torch's exporter (onnx, onnxscript) or the check of the file (onnxruntime) lacks, before any work."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(package)
        except ImportError:
            raise MissingPackage(package, "--format onnx", "pip install 'srat-fast[onnx]'") from None


def onnx_bytes(program: torch.export.ExportedProgram) -> bytes:
    """A program as one ONNX file with the input `images`, the output `logits` and a free batch size."""
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
    """Images -> logits of the file in its own runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _always(source: Source) -> None:
    """Any network will do."""


def _program_bytes(source: Source) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program(source), buffer)
    return buffer.getvalue()


def _plain_snippet(first: str, second: str) -> Callable[[Source], str]:
    return lambda source: f"{first}\n{second}\nlogits = model(images)"


FORMATS: dict[str, Format] = {
    made.name: made
    for made in (
        Format(
            "robustbench",
            "model.pt",
            "state dict of RobustBench's class",
            lambda source: check_zoo(source.model, source.image_size),
            lambda source: zoo_bytes(source.model),
            lambda source, path: read_zoo(source.model, path),
            lambda source: zoo_snippet(source.model),
        ),
        Format(
            "safetensors",
            MODEL,
            "tensors, projection head included",
            _always,
            lambda source: model_bytes(source.model, source.metadata),
            lambda source, path: load_model(path),
            _plain_snippet("import srat_fast", f'model = srat_fast.load("{MODEL}")'),
        ),
        Format(
            "torch-export",
            "model.pt2",
            "torch.export program, any batch size",
            _always,
            _program_bytes,
            lambda source, path: torch.export.load(path).module(),
            _plain_snippet("import torch", 'model = torch.export.load("model.pt2").module()'),
        ),
        Format(
            "onnx",
            "model.onnx",
            "ONNX, any batch size",
            lambda source: check_onnx(),
            lambda source: onnx_bytes(program(source)),
            lambda source, path: read_onnx(path),
            lambda source: (
                'import onnxruntime\nmodel = onnxruntime.InferenceSession("model.onnx")\n'
                '(logits,) = model.run(["logits"], {"images": images.numpy()})'
            ),
        ),
    )
}


def parse_formats(names: str) -> list[Format]:
    """The formats of `--format`, comma-separated or "all", each once."""
    if not isinstance(names, str):
        raise UserError("--format", f"all, or some of {', '.join(FORMATS)}, separated by commas", names)
    wanted = list(FORMATS) if names.strip() == "all" else [name.strip() for name in names.split(",")]
    unknown = [name for name in wanted if name not in FORMATS]
    if unknown:
        problem = f"all, or some of {', '.join(FORMATS)}, separated by commas"
        raise UserError("--format", problem + did_you_mean(unknown[0], FORMATS), names)
    return [FORMATS[name] for name in dict.fromkeys(wanted)]
