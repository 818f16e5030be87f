"""Where trials run on one machine: wishes enter; slots, each a GPU's share or some CPU threads, leave."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from srat_fast.errors import UserError

#: The driver's list of GPUs, and where their device nodes are.
_DRIVER, _DEVICES = Path("/proc/driver/nvidia/gpus"), Path("/dev")
#: Memory that a trial on a CPU is given credit for: torch itself and a ResNet-18 of width 64 with its activations.
_CPU_TRIAL_BYTES = 2 * 2**30


@dataclass
class Slot:
    """Room for one trial at a time.

    Attributes:
        gpu: as CUDA_VISIBLE_DEVICES names it; None on the CPU.
        threads: OMP_NUM_THREADS of its trials; None on a GPU.
        share: slots of this processor, itself included.
        name: in words.
    """

    gpu: str | None
    threads: int | None
    share: int
    name: str


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, without asking CUDA (which would keep memory on each).

    Returns:
        Names as in CUDA_VISIBLE_DEVICES.
    """
    count = _gpus_there()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [str(index) for index in range(count)]
    return [name.strip() for name in chosen.split(",") if name.strip()] if count else []


def _gpus_there() -> int:
    """How many GPUs there are: by the driver's list (containers may hide it), device nodes or nvidia-smi."""
    if _DRIVER.is_dir() and (listed := len(list(_DRIVER.iterdir()))):
        return listed
    if nodes := [node for node in _DEVICES.glob("nvidia*") if re.fullmatch(r"nvidia\d+", node.name)]:
        return len(nodes)
    if shutil.which("nvidia-smi") is None:
        return 0
    try:
        said = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in said.stdout.splitlines())


def mps_is_running() -> bool:
    """Whether NVIDIA's multi-process service runs: trials on one GPU then share it truly, not in turns.

    Returns:
        Whether its control pipe is there; trials find it by themselves, through the environment that they inherit.
    """
    return (Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")) / "control").exists()


def cores() -> int:
    """CPU cores that this process may use.

    Returns:
        At least 1.
    """
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _default_cpu_slots() -> int:
    """A core each, as long as the memory lasts: small networks gain little from a second thread."""
    try:
        line = next(
            line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable")
        )
        room = int(line.split()[1]) * 1024 // _CPU_TRIAL_BYTES
    except (OSError, StopIteration, ValueError):
        room = 1
    return max(1, min(cores(), room))


def make_slots(
    devices: set[str], gpus: str | None = None, slots_per_gpu: int | None = None, cpu_slots: int | None = None
) -> list[Slot]:
    """The slots of this machine.

    Args:
        devices: `run.device` of the trials.
        gpus: "0,2" (as in CUDA_VISIBLE_DEVICES), "none" or None for all that are visible.
        slots_per_gpu: trials on one GPU at a time; None for 1.
        cpu_slots: trials on the CPU at a time; None for a core each.

    Returns:
        At least one.

    Raises:
        UserError: contradicting wishes, or GPUs that are not there.
    """
    for option, value in (("--slots-per-gpu", slots_per_gpu), ("--cpu-slots", cpu_slots)):
        if value is not None and value < 1:
            raise UserError(option, "an integer >= 1", value)
    there = visible_gpus()
    wanted = there if gpus is None else [] if gpus == "none" else [name.strip() for name in gpus.split(",")]
    unknown = [name for name in wanted if name not in there]
    if unknown:
        raise UserError("--gpus", f"visible here: {', '.join(there) or 'none'}", gpus)
    if devices == {"cpu"}:
        if gpus not in (None, "none"):
            raise UserError("--gpus", "every run of this sweep has run.device = cpu", gpus)
        wanted = []
    if not wanted and "cuda" in devices:
        raise UserError("run.device", "this machine has no GPU for it; auto or cpu", "cuda")
    if wanted and "cpu" in devices:
        raise UserError(
            "run.device", "runs on the CPU and runs on a GPU need a sweep each; or give --gpus none", "cpu"
        )
    if wanted:
        if cpu_slots is not None:
            raise UserError("--cpu-slots", "the trials run on GPUs; --gpus none for the CPU", cpu_slots)
        share = slots_per_gpu or 1
        return [Slot(gpu, None, share, f"gpu {gpu}.{k}") for k in range(share) for gpu in wanted]
    if slots_per_gpu is not None:
        raise UserError(
            "--slots-per-gpu", "no trial runs on a GPU; --cpu-slots N is for the CPU", slots_per_gpu
        )
    count = cpu_slots or _default_cpu_slots()
    return [Slot(None, max(1, cores() // count), count, f"cpu {k}") for k in range(count)]
