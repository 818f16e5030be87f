"""The export formats as data: a network enters, a file's bytes leave; each file is read by its own kind of reader."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from srat_fast.errors import UserError
from srat_fast.models.classifier import Classifier
from srat_fast.models.files import load_model, model_bytes
from srat_fast.sharing.onnx_import import check_onnx, onnx_bytes, read_onnx
from srat_fast.sharing.zoo import NORMALISED, PLAIN, ZooResNet18, check_zoo, zoo_state


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
    """The network as a torch.export program with a free batch size.

    Args:
        source: what is exported.

    Returns:
        images [B, C, H, W] -> logits [B, classes], without notes of where its source files lie.
    """
    images = torch.zeros(2, source.channels, source.image_size, source.image_size)
    made = torch.export.export(
        _Logits(source.model).eval(), (images,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}}
    )
    for node in made.graph.nodes:
        node.meta.pop("stack_trace", None)
    return made


def _always(source: Source) -> None:
    """Any network will do."""


def _zoo_bytes(source: Source) -> bytes:
    buffer = io.BytesIO()
    torch.save(zoo_state(source.model), buffer)
    return buffer.getvalue()


def _program_bytes(source: Source) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program(source), buffer)
    return buffer.getvalue()


def _read_zoo(source: Source, path: Path) -> Callable[[Tensor], Tensor]:
    zoo = ZooResNet18(source.classes, source.model.normalize)
    zoo.load_state_dict(torch.load(path, weights_only=True), strict=True)
    return zoo.eval()


def _zoo_snippet(source: Source) -> str:
    module, name = NORMALISED if source.model.normalize else PLAIN
    also, shape = ("", "") if source.model.normalize else (", BasicBlock", "BasicBlock, [2, 2, 2, 2], ")
    return (
        f"import torch; from {module} import {name}{also}\n"
        f"model = {name}({shape}num_classes={source.classes}).eval()\n"
        'model.load_state_dict(torch.load("model.pt", weights_only=True), strict=True)\n'
        "logits = model(images)"
    )


def _plain_snippet(first: str, second: str) -> Callable[[Source], str]:
    return lambda source: f"{first}\n{second}\nlogits = model(images)"


FORMATS: dict[str, Format] = {
    made.name: made
    for made in (
        Format(
            "robustbench",
            "model.pt",
            "state dict of RobustBench's CIFAR ResNet-18",
            lambda source: check_zoo(source.model, source.image_size),
            _zoo_bytes,
            _read_zoo,
            _zoo_snippet,
        ),
        Format(
            "safetensors",
            "model.safetensors",
            "tensors, projection head included",
            _always,
            lambda source: model_bytes(source.model, source.metadata),
            lambda source, path: load_model(path),
            _plain_snippet("import srat_fast", 'model = srat_fast.load("model.safetensors")'),
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
    """What `--format` stands for.

    Args:
        names: comma-separated, or "all".

    Returns:
        The formats, each once, in the order given.

    Raises:
        UserError: an unknown name.
    """
    if not isinstance(names, str):
        raise UserError("--format", f"all, or some of {', '.join(FORMATS)}, separated by commas", names)
    wanted = list(FORMATS) if names.strip() == "all" else [name.strip() for name in names.split(",")]
    unknown = [name for name in wanted if name not in FORMATS]
    if unknown:
        raise UserError("--format", f"all, or some of {', '.join(FORMATS)}, separated by commas", names)
    return [FORMATS[name] for name in dict.fromkeys(wanted)]
