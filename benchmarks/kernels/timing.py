"""One implementation of a case under pytest-benchmark."""

from __future__ import annotations

from typing import Any

from benchmarks.kernels.cases import ON_GPU, Case
from benchmarks.measure import captured, machine, microseconds, peak_bytes, spread


def timed(benchmark: Any, case: Case, implementation: str) -> None:
    """Time `case` as it is called; on a GPU also between events, replayed as a graph, and its memory.

    pytest-benchmark's own clock sees how long the host is busy; the figures in `extra_info` are the GPU's.
    """
    function = case.functions[implementation]
    benchmark.group = str(case)
    benchmark.extra_info.update(machine(), implementation=implementation, **case.size._asdict())
    if ON_GPU:
        replay = captured(function)
        benchmark.extra_info["gpu_microseconds"] = spread([microseconds(function, 20) for _ in range(10)])
        benchmark.extra_info["graph_microseconds"] = spread([microseconds(replay, 20) for _ in range(10)])
        benchmark.extra_info["peak_bytes"] = peak_bytes(function)
    benchmark.pedantic(function, rounds=10, iterations=3, warmup_rounds=1)
