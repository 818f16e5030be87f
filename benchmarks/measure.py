"""How it is measured: enters callables, leaves microseconds, bytes and the description of the machine.

Times on a GPU are between CUDA events around a block of calls; on a CPU wall time. Implementations take turns
(A B A B ...), so that a clock that drifts hits all of them; a ratio is the median of the ratios of neighbours.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.rows import source_digest
from srat_fast.hardware import device_name
from srat_fast.training.capture import capturing

ROOT = Path(__file__).resolve().parents[1]
#: What to call the commit where the source tree has no git directory.
COMMIT = "BENCHMARK_COMMIT"
#: `run.compile_mode` of what is compiled, unless it says so itself: `benchmarks/gpu.py` tells the processes it starts.
COMPILE_MODE = "BENCHMARK_COMPILE_MODE"


def wished_mode() -> str:
    """The compile mode of this process's measurements."""
    return os.environ.get(COMPILE_MODE, "default")


def microseconds(function: Callable[[], object], calls: int) -> float:
    """Average time of one of `calls` calls in a row."""
    if torch.cuda.is_available():
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(calls):
            function()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e3 / calls
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) * 1e6 / calls


def take_turns(
    functions: dict[str, Callable[[], object]], rounds: int, block: float, warmup: int = 3
) -> dict[str, list[float]]:
    """Microseconds per call of each function in each of `rounds` turns of about `block` seconds; 0 is one call."""
    calls = {}
    for name, function in functions.items():
        microseconds(function, warmup)
        once = microseconds(function, warmup) if block > 0 else float("inf")
        calls[name] = max(1, int(block * 1e6 / max(once, 1.0)))
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(microseconds(function, calls[name]))
    return times


def spread(values: list[float]) -> dict[str, Any]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": round(middle, 3), "quartiles": [round(low, 3), round(high, 3)]}


def peak_bytes(function: Callable[[], object]) -> int | None:
    """GPU memory that one call needs on top of what is allocated already; on a CPU it is called too, and None."""
    if not torch.cuda.is_available():
        function()
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def captured(function: Callable[[], object]) -> Callable[[], None]:
    """The replay of one call captured as a CUDA graph: what a captured training step pays, launches left out."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with capturing(graph):
        function()

    def replay(keep: object = function) -> None:  # the graph reads tensors that live as long as `function`
        graph.replay()

    return replay


def machine() -> dict[str, Any]:
    """Device, limits, versions and commit: what a number needs beside it."""
    row: dict[str, Any] = {
        "device": device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": None,
        "driver": None,
        "power_limit": None,
        "commit": os.environ.get(COMMIT) or _described(),
        "source": source_digest(),
    }
    if torch.cuda.is_available():
        from srat_kernels.jit import triton

        row["triton"] = triton.__version__
        row["tf32"] = (
            torch.backends.cudnn.allow_tf32
        )  # torch's default for float32 convolutions: part of "fp32" here
        # the driver's own numbering knows nothing of CUDA_VISIBLE_DEVICES
        shown = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        query = (
            "nvidia-smi",
            f"--id={shown}",
            "--query-gpu=driver_version,power.limit",
            "--format=csv,noheader",
        )
        driver, _, limit = (_output(*query) or "").partition(", ")
        row["driver"], row["power_limit"] = driver or None, limit or None
    return row


def _described() -> str | None:
    return _output("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12")


def _output(*command: str) -> str | None:
    """What a command prints, None where it is missing or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
