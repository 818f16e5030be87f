"""torchvision beside any build of torch; only this file imports it, and only where it is asked for.

Its wheels register fake implementations of compiled ops at import. Beside a CPU-only torch the compiled library does
not load and the ops' schemas are missing, so `import torchvision` fails; with the two schemas declared first, data sets
and transforms work. With CUDA nothing is touched.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from types import ModuleType

import torch

from srat_fast.errors import MissingPackage, UserError

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[torch.library.Library] = []  # a Library undeclares its ops when it is collected


def torchvision(part: str, option: str) -> ModuleType:
    """A module of torchvision, such as "datasets"; one line naming the option that needs it where it cannot be had."""
    try:
        version = importlib.metadata.version("torchvision")
    except importlib.metadata.PackageNotFoundError:
        install = f"pip install torchvision torch=={torch.__version__.partition('+')[0]}"  # keeps this torch
        raise MissingPackage("torchvision", option, install) from None
    if torch.version.cuda is None and not _declared and not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _SCHEMAS:
            library.define(schema)
        _declared.append(library)
    try:
        return importlib.import_module(f"torchvision.{part}")
    except (
        ImportError,
        OSError,
        RuntimeError,
    ) as error:  # what an extension built for another torch leads to
        reason = " ".join(str(error).split())
        problem = (
            f"needs the torchvision that was built for torch {torch.__version__}, not {version} ({reason})"
        )
        raise UserError(option, problem) from None
