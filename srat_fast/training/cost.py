"""What training costs: seconds by part, a profile of kernels, and memory that ran out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from srat_fast.errors import OutOfMemory
from srat_fast.models.build import image_bytes
from srat_fast.recipe import Recipe


class Stopwatch:
    """Sums the time of named regions; on a GPU by events, read only when asked.

    Args:
        device: whose time is measured.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._seconds: dict[str, float] = {}

    @contextmanager
    def region(self, name: str) -> Iterator[None]:
        """Counts what runs inside towards `name`."""
        if self._cuda:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            yield
            end.record()
            self._events.append((name, begin, end))
        else:
            start = time.perf_counter()
            yield
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

    def seconds(self) -> dict[str, float]:
        """Seconds per region since the start; waits for the GPU."""
        for name, begin, end in self._events:
            end.synchronize()
            self._seconds[name] = self._seconds.get(name, 0.0) + begin.elapsed_time(end) / 1000
        self._events.clear()
        return dict(self._seconds)


TRACE, TABLE = "profile.json", "profile.txt"
#: Steps passed over (the first is slow: compilation, caches), and steps recorded.
WAIT, ACTIVE = 3, 5
ROWS = 15


class StepProfiler:
    """Records a few of a run's first steps with torch's profiler.

    Args:
        directory: receives profile.json (for chrome://tracing or Perfetto) and profile.txt.
        device: whose kernels are counted.
    """

    def __init__(self, directory: Path, device: torch.device) -> None:
        self._directory, self._device = directory, device
        self._step, self._started = 0, 0.0
        activities = [ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._profiler: profile | None = profile(activities=activities, acc_events=True)

    def step(self) -> str | None:
        """Tell that a step has ended."""
        self._step += 1
        if self._profiler is None:
            return None
        if self._step == WAIT:
            self._synchronize()
            self._profiler.start()
            self._started = time.perf_counter()
        elif self._step == WAIT + ACTIVE:
            return self.finish()
        return None

    def finish(self) -> str | None:
        """End the recording, if one is under way."""
        profiler, self._profiler = self._profiler, None
        if profiler is None or self._step < WAIT:
            return None
        self._synchronize()
        wall = time.perf_counter() - self._started
        profiler.stop()
        profiler.export_chrome_trace(str(self._directory / TRACE))
        averages = profiler.key_averages()
        cuda = self._device.type == "cuda"
        key = "self_device_time_total" if cuda else "self_cpu_time_total"
        busy = busy_seconds(averages, cuda)
        table = averages.table(sort_by=key, row_limit=ROWS, max_name_column_width=60)
        # kernels of one stream do not overlap, so what they leave of the wall time is the host's
        share = max(0.0, 1 - busy / wall)
        steps = self._step - WAIT
        where = "host-bound share (no kernel running)" if cuda else "share outside of operators (Python)"
        text = f"{table}\n{steps} steps in {wall:.3f} s; {where}: {share:.1%}\n"
        (self._directory / TABLE).write_text(text, encoding="utf-8")
        return text

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def is_kernel(event: Any) -> bool:
    """Of the device, and no named range, which spans kernels that are counted already."""
    return event.device_type == DeviceType.CUDA and not event.is_user_annotation


def busy_seconds(averages: Iterable[Any], cuda: bool) -> float:
    """Seconds in kernels on a GPU (operators and ranges carry their kernels' time again), in operators on a CPU."""
    if cuda:
        return sum(event.self_device_time_total for event in averages if is_kernel(event)) / 1e6
    return sum(event.self_cpu_time_total for event in averages) / 1e6


#: What is said by errors for want of memory that have no type of their own.
_WORDS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "DefaultCPUAllocator")


@contextmanager
def memory_errors(where: str, lower: str, recipe: Recipe | None = None) -> Iterator[None]:
    """Turns an error for want of memory, of the GPU or of the machine, into one line; of a recipe's network, too."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        needs = "" if recipe is None else f": {what_it_needs(recipe)}"
        raise OutOfMemory(f"out of memory {where}; lower {lower}{needs}") from None


def to_lower(recipe: Recipe) -> str:
    """The options that make a step smaller; networks named within a family (timm:...) have one width."""
    return "--batch-size" if ":" in recipe.model.name else "--batch-size or --set model.width"


def what_it_needs(recipe: Recipe) -> str:
    """What one image costs the recipe's network."""
    return f"{recipe.model.name} keeps about {image_bytes(recipe) / 2**20:.3g} MiB of each image in float32"


def out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that led to it, is for want of memory.

    An allocation that fails in the middle of a capture or a compilation comes out as whatever failed after it, and the
    CUDA runtime, cuBLAS and torch's CPU allocator have no exception type of their own.
    """
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, (torch.OutOfMemoryError, MemoryError)) or any(w in str(one) for w in _WORDS):
            return True
        todo += [one.__cause__, one.__context__]
    return False
