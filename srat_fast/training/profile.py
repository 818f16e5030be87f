"""Where the time of a step goes: a few training steps enter; a trace file and a table of kernels leave."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

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
        """Tell that a step has ended.

        Returns:
            The table of kernels, once, when the recorded steps are over; else None.
        """
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
        """End the recording, if one is under way.

        Returns:
            The table of kernels, or None where nothing was recorded.
        """
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
