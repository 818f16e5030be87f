"""Tile sizes of a kernel: chosen once a shape class among candidates, always the same.

The first launch of a shape class on a GPU times the candidates; the choice is kept in the process and, through
triton's own cache folder, for later processes on the same device with the same versions. The first candidate is
taken untimed in the interpreter, while a CUDA graph is being captured, and under
`torch.use_deterministic_algorithms(True)`: sums depend on the tiles in their last bits, hence on the choice.

`triton.autotune` does not do for this (triton 3.7.1, runtime/autotuner.py, `Autotuner.run`). A key not seen before is
timed wherever it is met, in a capture too (lines 223 to 240), even where pruning left one candidate, which is then kept
for good (line 232). A key seen before is not pruned again: deterministic algorithms asked for later change nothing
(line 223). Neither the key (lines 217 to 222) nor the cached file's (183 to 190: the architecture) names the device.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch


class Config(NamedTuple):
    """One candidate: the kernel's constexpr arguments and triton's launch options."""

    tiles: dict[str, int]
    num_warps: int
    num_stages: int

    def arguments(self) -> dict[str, int]:
        """Everything as keyword arguments of a launch."""
        return {**self.tiles, "num_warps": self.num_warps, "num_stages": self.num_stages}


_chosen: dict[tuple[object, ...], Config] = {}


def power_of_two(size: int, low: int, high: int) -> int:
    """The smallest power of two >= `size`, kept within [low, high]: the shape class of a size."""
    return min(max(1 << (size - 1).bit_length(), low), high)


def choose(
    kernel: str,
    shape_class: tuple[object, ...],
    candidates: Sequence[Config],
    device: torch.device,
    launch: Callable[[Config], object],
) -> Config:
    """The configuration to launch `kernel` with: the first of `candidates` where nothing may be timed.

    `launch` runs the kernel once and must be safe to repeat.
    """
    from srat_kernels.jit import INTERPRETED

    if len(candidates) == 1 or INTERPRETED or torch.are_deterministic_algorithms_enabled():
        return candidates[0]
    key = (kernel, shape_class, str(device))
    if key not in _chosen:
        if torch.cuda.is_current_stream_capturing():
            return candidates[0]  # not remembered: the next launch outside of a capture may time them
        _chosen[key] = _stored_or_timed(kernel, shape_class, candidates, device, launch)
    return _chosen[key]


def _stored_or_timed(
    kernel: str,
    shape_class: tuple[object, ...],
    candidates: Sequence[Config],
    device: torch.device,
    launch: Callable[[Config], object],
) -> Config:
    from srat_kernels.jit import do_bench, get_cache_manager, triton

    label = f"{torch.cuda.get_device_name(device)} triton {triton.__version__} torch {torch.__version__}"
    # the candidates are part of the key: after an edit of the list an old choice is not found, rather than wrong
    digest = hashlib.sha256(f"{label} {kernel} {shape_class} {list(candidates)}".encode()).hexdigest()
    cache, name = get_cache_manager(digest), f"{kernel}.tuned.json"
    stored = cache.get_file(name)
    if stored is not None:
        with open(stored, encoding="utf-8") as file:
            return candidates[json.load(file)["choice"]]
    times = [do_bench(lambda c=candidate: launch(c), warmup=5, rep=30) for candidate in candidates]
    choice = min(range(len(candidates)), key=times.__getitem__)
    cache.put(json.dumps({"choice": choice, "milliseconds": times, "for": label}), name, binary=False)
    return candidates[choice]
