"""A function as a CUDA graph: tensors enter, its outputs leave, and the host launches one thing instead of hundreds.

Captured by hand, one graph per input shape (a partial last batch gets its own, once): static input buffers are filled,
the graph is replayed, static outputs are returned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

Function = Callable[..., tuple[Tensor, ...]]


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

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Fill the static inputs and replay.

        Args:
            *inputs: tensors on one GPU.

        Returns:
            The graph's own output tensors: valid until the next call with inputs of these shapes.
        """
        key = tuple((tuple(t.shape), t.stride(), t.dtype) for t in inputs)
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
            with torch.cuda.graph(graph):  # records, does not run
                outputs = self._function(*static)
        return _Recording(graph, static, outputs)


@contextmanager
def preserved(state: Iterable[Tensor]) -> Iterator[None]:
    """Puts tensors back as they were: for rehearsals that must leave no trace.

    Args:
        state: tensors that will be changed in place.
    """
    tensors = list(state)
    kept = [t.detach().clone() for t in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, old in zip(tensors, kept, strict=True):
                tensor.copy_(old)
