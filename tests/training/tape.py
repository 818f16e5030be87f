"""CUDA graphs without a GPU: what runs inside a capture is taped, and a replay runs the tape on the same memory."""

from __future__ import annotations

import contextlib
import gc
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Graph:
    """In place of `torch.cuda.CUDAGraph`; `empty` records nothing, as on the wrong device."""

    empty = False
    made = 0

    def __init__(self) -> None:
        Graph.made += 1
        self.tape: list[tuple[Any, ...]] = []

    def replay(self) -> None:
        with torch.no_grad():
            for function, args, kwargs, results in self.tape:
                again = tree_leaves(function(*args, **kwargs))
                for old, new in zip(results, again, strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class Capture(TorchDispatchMode):
    """In place of `torch.cuda.graph`: tapes operations."""

    collecting: ClassVar[list[bool]] = []

    def __init__(self, graph: Graph, capture_error_mode: str = "global") -> None:
        super().__init__()
        self.graph = graph

    def __enter__(self) -> Any:
        Capture.collecting.append(gc.isenabled())
        return super().__enter__()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        reads = function is torch.ops.aten._local_scalar_dense.default  # a check that there is on a CPU only
        if not (self.graph.empty or reads):
            kept = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in tree_leaves(result)]
            self.graph.tape.append((function, args, kwargs or {}, kept))
        return result


class Stream:
    """In place of `torch.cuda.Stream`."""

    def wait_stream(self, other: Stream) -> None:
        """Nothing runs beside anything."""


def install(monkeypatch: Any) -> None:
    """Put the tape in the place of CUDA graphs."""
    monkeypatch.setattr(Graph, "made", 0)
    monkeypatch.setattr(Capture, "collecting", [])
    for name, stand_in in (("CUDAGraph", Graph), ("graph", Capture), ("Stream", Stream)):
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: Stream())
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
