"""Where a step's time goes, by operation, and the host-bound share: `python benchmarks/operations.py [--trace FILE]`.

Operations are kernels on a GPU and operators on a CPU; `kind_of` sorts both.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.ladder import PRODUCT, make_engine, precision_of, warm
from benchmarks.measure import ON_GPU, parsed, parser, record
from benchmarks.rows import Row
from benchmarks.work import Work, batch_of, with_size, work_of
from srat_fast.training.cost import is_kernel

STEPS = 5
#: Operations that a row names; the kinds count all of them.
NAMED = 25
#: Kind -> what names of its operations contain; the first that fits. cuDNN's names of convolutions contain "gemm".
KINDS = {
    "our kernels": r"linf_kernel|forward_kernel|backward_kernel|finish_kernel|srat_kernels",
    "convolution": r"fprop|dgrad|wgrad|conv(?!ert)|implicit",
    "layout": r"nchw|nhwc|transpose",
    "batch norm": r"batch_?norm|bn_(fw|bw)|_bn_",
    "triton reduction": r"triton_(red|per)",
    "triton pointwise": r"triton_poi",
    "matrix product": r"gemm|gemv|nvjet|cublas|triton_(mm|tem)|addmm|aten::mm",
    "optimiser": r"multi_tensor|sgd|foreach",
    "random numbers": r"distribution|philox|rand|uniform",
    "copies": r"memcpy|memset|copy|clone|fill",
    "reduction": r"reduce|norm|mean|sum|max|softmax",
    "elementwise": r"elementwise|vectorized|aten::",
}


class Profile(NamedTuple):
    """Five steps under the profiler."""

    operations: list[tuple[str, float, int]]  # (name, microseconds, calls) of all steps, longest first
    wall: float  # microseconds of all steps
    # share of the wall time (without a profiler) in which the GPU has nothing to do; on a CPU that outside of
    # operators, which is the interpreter's and the profiler's own
    host_share: float


def profiled(work: Work, trace: Path | None = None) -> Profile:
    """Profile the product's steps, after compilation, capture and three more steps."""
    images, labels = batch_of(work)
    engine = make_engine(PRODUCT, work)
    warm(engine, images, labels)
    for _ in range(3):
        engine.step(images, labels)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if ON_GPU else [])]

    def timed() -> float:
        _wait()
        started = time.perf_counter()
        for _ in range(STEPS):
            engine.step(images, labels)
        _wait()
        return (time.perf_counter() - started) * 1e6

    alone = min(timed() for _ in range(3))
    with profile(activities=activities) as result:
        wall = timed()
    if ON_GPU:
        wall = alone  # kernels take as long under the profiler, the host takes longer
    if trace is not None:
        trace.parent.mkdir(parents=True, exist_ok=True)
        result.export_chrome_trace(str(trace))
    if ON_GPU:
        events = [e for e in result.events() if is_kernel(e)]
        spans = [(float(e.time_range.start), float(e.time_range.end)) for e in events]
        busy = covered(spans)
        average = [a for a in result.key_averages() if is_kernel(a)]
        totals = [(a.key, float(a.self_device_time_total), a.count) for a in average]
    else:
        averages = result.key_averages()
        totals = [(a.key, float(a.self_cpu_time_total), a.count) for a in averages]
        busy = sum(total for _, total, _ in totals)
    totals.sort(key=lambda entry: -entry[1])
    return Profile(totals, wall, max(0.0, 1 - busy / wall))


def covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of intervals: kernels on two streams at once count once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        if end > reached:
            total += end - max(start, reached)
            reached = end
    return total


def kind_of(name: str) -> str:
    """The kind of a kernel or operator; "other" where its name says nothing."""
    return next((kind for kind, words in KINDS.items() if re.search(words, name.lower())), "other")


def profile_row(work: Work, trace: Path | None = None) -> dict[str, Any]:
    """A profile as a row; times are microseconds a step, shares those of the time in operations."""
    found = profiled(work, trace=trace)
    total = sum(microseconds for _, microseconds, _ in found.operations)
    if total == 0:
        raise RuntimeError("the profiler saw no kernel: it has no access to the device's counters here")
    kinds: dict[str, float] = {}
    for name, microseconds, _ in found.operations:
        kinds[kind_of(name)] = kinds.get(kind_of(name), 0.0) + microseconds
    return {
        "op": "profile",
        "implementation": PRODUCT,
        **work._asdict(),
        "precision": precision_of(PRODUCT, work),
        "microseconds_a_step": round(found.wall / STEPS, 1),
        "host_share": round(found.host_share, 4),
        "calls": round(sum(calls for _, _, calls in found.operations) / STEPS, 1),
        "kinds": {
            kind: {"microseconds": round(spent / STEPS, 1), "share": round(spent / total, 4)}
            for kind, spent in sorted(kinds.items(), key=lambda entry: -entry[1])
        },
        "operations": [
            {
                "name": name[:120],
                "kind": kind_of(name),
                "microseconds": round(microseconds / STEPS, 1),
                "calls": round(calls / STEPS, 1),
                "share": round(microseconds / total, 4),
            }
            for name, microseconds, calls in found.operations[:NAMED]
        ],
    }


def _wait() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    made = with_size(parser(__doc__))
    made.add_argument("--trace", type=Path, help="file for a chrome trace of five steps")
    return parsed(made, arguments)


def measured(found: argparse.Namespace) -> Iterator[Row]:
    """One row."""
    yield profile_row(work_of(found), found.trace)


if __name__ == "__main__":
    chosen = options()
    record(measured(chosen), chosen.out)
