"""CUDA graphs of a step: the host launches one thing instead of hundreds.

Captured by hand, one graph per input shape (a partial last batch gets its own, once): static input buffers are filled,
the graph is replayed, static outputs are returned.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

Function = Callable[..., tuple[Tensor, ...]]
#: What outputs hold before a new graph is tried, by bytes of an element: NaN in every float type, with bits that no
#: computation leaves; as integers far from any count.
_POISON = {
    1: (torch.int8, 0x25),
    2: (torch.int16, 0x7FA5),
    4: (torch.int32, 0x7FA5_A5A5),
    8: (torch.int64, 0x7FF5_A5A5_A5A5_A5A5),
}


class _Recording(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class Captured:
    """Replays `function` from a CUDA graph.

    Args:
        function: tensors -> tuple of tensors. It must not wait for the GPU and must touch nothing outside of `state`.
        state: the tensors that it changes in place; put back after the warm-up that a capture needs.
        warmup: runs before the capture, on a side stream.
    """

    def __init__(self, function: Function, state: Callable[[], Iterable[Tensor]], warmup: int = 2) -> None:
        self._function, self._state, self._warmup = function, state, warmup
        self._recordings: dict[tuple[object, ...], _Recording] = {}

    def close(self) -> None:
        """Destroy the graphs now: a collector that did it during another capture would spoil that one."""
        self._recordings.clear()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Fill the static inputs and replay."""
        key = layout(*inputs)
        recording = self._recordings.get(key)
        if recording is None:
            recording = self._recordings[key] = self._record(inputs)
        for static, given in zip(recording.inputs, inputs, strict=True):
            static.copy_(given)
        recording.graph.replay()
        return recording.outputs

    def _record(self, inputs: tuple[Tensor, ...]) -> _Recording:
        static = tuple(t.clone(memory_format=torch.preserve_format) for t in inputs)
        with preserved(self._state()):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(self._warmup):
                    self._function(*static)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with capturing(graph):
                outputs = self._function(*static)
            _prove(graph, outputs)
        return _Recording(graph, static, outputs)


def layout(*tensors: Tensor) -> tuple[object, ...]:
    """Shapes, strides and types: what compiled or captured code is made for."""
    return tuple((tuple(t.shape), t.stride(), t.dtype) for t in tensors)


@contextmanager
def capturing(graph: torch.cuda.CUDAGraph) -> Iterator[None]:
    """What runs inside is recorded into `graph`, not executed; Python's garbage collector rests meanwhile.

    A graph that the collector destroys (engines are cycles) invalidates the capture that is under way
    (pytorch issues 161037 and 195397).
    """
    gc.collect()
    collects = gc.isenabled()
    gc.disable()
    # NCCL's own thread asks for events meanwhile, which must not spoil the capture
    mode: dict[str, Any] = (
        {"capture_error_mode": "thread_local"} if torch.distributed.is_initialized() else {}
    )
    try:
        with torch.cuda.graph(graph, **mode):
            yield
    finally:
        if collects:
            gc.enable()


@torch.no_grad()
def _prove(graph: torch.cuda.CUDAGraph, outputs: tuple[Tensor, ...]) -> None:
    """Replay once and see every output written: an empty graph, as of a wrong device, trains nothing in silence."""
    poisons = [_POISON[output.element_size()] for output in outputs]
    bits = [output.detach().view(kind) for output, (kind, _) in zip(outputs, poisons, strict=True)]
    for own, (_, poison) in zip(bits, poisons, strict=True):
        own.fill_(poison)
    graph.replay()
    left = [
        n for n, (own, (_, poison)) in enumerate(zip(bits, poisons, strict=True)) if (own == poison).any()
    ]
    if left:
        raise RuntimeError(
            f"a CUDA graph was captured that does not write its output {left[0]} when replayed"
        )


@contextmanager
def preserved(state: Iterable[Tensor]) -> Iterator[None]:
    """Puts tensors back as they were: for rehearsals that must leave no trace."""
    tensors = list(state)
    kept = [t.detach().clone() for t in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, old in zip(tensors, kept, strict=True):
                tensor.copy_(old)
