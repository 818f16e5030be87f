"""Timing in turns (A B A B), the rows that it makes, and what every benchmark script shares.

Times on a GPU are between CUDA events around a block of calls; on a CPU wall time. Implementations take turns, so that
a clock that drifts hits all of them; a ratio is the median of the ratios of neighbours.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch

from benchmarks.rows import OUT, RESULTS, ROOT, SMALL_RESULTS, Row, append, line, path_for, source_digest
from srat_fast.errors import UserError
from srat_fast.hardware import device_name, peak_flops
from srat_fast.training.capture import capturing

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
#: Environment variable that names the commit where the source tree has no git directory.
COMMIT = "BENCHMARK_COMMIT"


class Case(NamedTuple):
    """Callables that do the same work, past their gate, and what a row says about them."""

    op: str
    about: Row  # fields of every row of the case
    functions: dict[str, Callable[[], object]]  # implementation -> one call
    pairs: Sequence[tuple[str, str]]  # (implementation, reference), a row each
    own: dict[str, Row] = {}  # noqa: RUF012 - implementation -> its fields: method, precision, peak_bytes ...
    images: int | None = None  # of one call
    flops: float | None = (
        None  # of one image, whatever an implementation spends beyond; None where it has no meaning
    )


def rows(case: Case, rounds: int, block: float, warmup: int = 1) -> Iterator[Row]:
    """Time all implementations in turns: a row a pair, ratio > 1 means faster than the reference."""
    times = take_turns(case.functions, rounds, block, warmup)

    def facts(name: str) -> Row:
        found: Row = {**case.own.get(name, {}), "microseconds": spread(times[name])}
        if case.images is not None:
            rate = round(case.images / found["microseconds"]["median"] * 1e6, 2)
            peak = peak_flops(DEVICE, found.get("precision", "fp32"))
            share = None if peak is None or case.flops is None else round(rate * case.flops / peak, 4)
            found |= {"images_per_second": rate, "mfu": share}
        return found

    for name, reference in case.pairs:
        ratios = [theirs / ours for ours, theirs in zip(times[name], times[reference], strict=True)]
        yield {
            "op": case.op,
            **case.about,
            "implementation": name,
            "reference": reference,
            **facts(name),
            **{f"reference_{key}": value for key, value in facts(reference).items()},
            "ratio": spread(ratios),
        }


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


def spread(values: list[float]) -> Row:
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


def machine() -> Row:
    """Device, limits, versions and commit: what a number needs beside it."""
    row: Row = {
        "device": device_name(DEVICE),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": None,
        "driver": None,
        "power_limit": None,
        "commit": os.environ.get(COMMIT)
        or _output("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"),
        "source": source_digest(),
    }
    if torch.cuda.is_available():
        from srat_kernels.jit import triton

        row["triton"] = triton.__version__
        row["tf32"] = torch.backends.cudnn.allow_tf32  # part of what "fp32" means here
        # the driver's own numbering knows nothing of CUDA_VISIBLE_DEVICES
        shown = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        query = ["--query-gpu=driver_version,power.limit", "--format=csv,noheader"]
        driver, _, limit = (_output("nvidia-smi", f"--id={shown}", *query) or "").partition(", ")
        row["driver"], row["power_limit"] = driver or None, limit or None
    return row


def _output(*command: str) -> str | None:
    """What a command prints, None where it is missing or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that every script has."""
    made = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    made.add_argument("--out", type=Path, help=f"folder of the results; {OUT} without")
    made.add_argument(
        "--small", action="store_true", help="the smallest sizes and fewest turns, to see that it works"
    )
    made.add_argument("--rounds", type=int, default=5, help="turns of each implementation, at least 2")
    made.add_argument(
        "--block", type=float, default=0.3 if ON_GPU else 0.0, help="seconds a turn, one call at least"
    )
    return made


@contextmanager
def own_cache(directory: Path) -> Iterator[None]:
    """Prepared images are kept there, by this process and those it starts."""
    with mock.patch.dict(os.environ, SRAT_FAST_CACHE=str(directory / "cache")):
        yield


def parsed(made: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """The command line; --small has the fewest turns."""
    found = made.parse_args(arguments)
    if found.rounds < 2:
        made.error(f"--rounds = {found.rounds}: at least 2, for quartiles")
    found.out = found.out or (SMALL_RESULTS if found.small else RESULTS)
    if found.small:
        found.rounds, found.block = 2, 0.0
    return found


class Unmeasured(RuntimeError):
    """What was to be measured failed, for a reason that is said in its text."""


def record(found: Iterable[Row], out: Path) -> None:
    """Append each row as it is measured, and print it; a request to end (SIGTERM) is an interrupt, as Ctrl-C is."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        about = machine()
        path = path_for(out, about["device"])
        for row in found:
            append(path, row | about)
            print(line(row), flush=True)
    except (Unmeasured, UserError) as error:
        raise SystemExit(str(error)) from None
    finally:
        signal.signal(signal.SIGTERM, before)
