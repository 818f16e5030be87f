"""Where a step's time goes: a size enters; a trace, the longest operations and the host-bound share leave."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.engine.ladder import PRODUCT, make_engine, precision_of, warm
from benchmarks.engine.work import DEVICE, ON_GPU, Work, batch_of

STEPS = 5


class Profile(NamedTuple):
    """Five steps under the profiler.

    Attributes:
        operations: (name, microseconds, calls), longest first; kernels on a GPU, operators on a CPU.
        host_share: share of the wall time in which the GPU has nothing to do; on a CPU that outside of operators,
            which is the interpreter's (and the profiler's own).
        trace: what wrote the file, if one was asked for.
    """

    operations: list[tuple[str, float, int]]
    host_share: float
    trace: Path | None


def profiled(work: Work, rung: str = PRODUCT, trace: Path | None = None) -> Profile:
    """Profile an engine's steps, after compilation, capture and three more steps.

    Args:
        work: the size.
        rung: of the ladder.
        trace: file for a chrome trace.
    """
    images, labels = batch_of(work)
    engine = make_engine(rung, work)
    warm(engine, images, labels)
    for _ in range(3):
        engine.step(images, labels)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if ON_GPU else [])]
    _wait()
    with profile(activities=activities) as result:
        started = time.perf_counter()
        for _ in range(STEPS):
            engine.step(images, labels)
        _wait()
        wall = (time.perf_counter() - started) * 1e6
    if trace is not None:
        trace.parent.mkdir(parents=True, exist_ok=True)
        result.export_chrome_trace(str(trace))
    if ON_GPU:
        events = [e for e in result.events() if e.device_type == DeviceType.CUDA]
        spans = [(float(e.time_range.start), float(e.time_range.end)) for e in events]
        busy = covered(spans)
        average = [a for a in result.key_averages() if a.device_type == DeviceType.CUDA]
        totals = [(a.key, float(a.self_device_time_total), a.count) for a in average]
    else:
        averages = result.key_averages()
        totals = [(a.key, float(a.self_cpu_time_total), a.count) for a in averages]
        busy = sum(total for _, total, _ in totals)
    totals.sort(key=lambda entry: -entry[1])
    return Profile(totals, max(0.0, 1 - busy / wall), trace)


def covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of intervals: kernels on two streams at once count once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        if end > reached:
            total += end - max(start, reached)
            reached = end
    return total


def host_row(work: Work) -> dict[str, Any]:
    """The host-bound share as a row."""
    found = profiled(work)
    return {
        "op": "host",
        "implementation": PRODUCT,
        **work._asdict(),
        "precision": precision_of(PRODUCT, work),
        "host_share": round(found.host_share, 4),
    }


def _wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
