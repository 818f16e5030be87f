"""torchvision beside any torch build, for benchmarks against it.

torchvision's wheels register fake implementations of compiled ops at import. Beside a CPU-only torch the compiled
library does not load and the ops' schemas are missing, so `import torchvision` fails; declaring the two schemas
first lets data sets, models and transforms work. With CUDA nothing is touched.
"""

from __future__ import annotations

from types import ModuleType

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[torch.library.Library] = []  # a Library undeclares its ops when it is collected


def torchvision_datasets() -> ModuleType:
    """`torchvision.datasets`, imported."""
    if torch.version.cuda is None and not _declared and not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _SCHEMAS:
            library.define(schema)
        _declared.append(library)
    import torchvision.datasets

    return torchvision.datasets
