"""Local engine: trials as processes on this machine's GPUs and CPU cores."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from srat_fast.errors import UserError
from srat_fast.sweep.claims import BEAT, Claims
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.sweep.driver import SOME_FAILED, Driver, Options, stopped_by_signals
from srat_fast.sweep.plan import Trial
from srat_fast.sweep.process import TrialProcess, cache_data, child_environment
from srat_fast.sweep.status import Running, Snapshot, SweepView

#: The driver's list of GPUs, and where their device nodes are.
_DRIVER, _DEVICES = Path("/proc/driver/nvidia/gpus"), Path("/dev")
#: Where control groups are, and which one this process is in.
_GROUPS, _OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_POLL = 0.02


@dataclass
class Slot:
    """Room for one trial at a time."""

    gpu: str | None  # as CUDA_VISIBLE_DEVICES names it, or several; None on the CPU
    threads: int | None  # OMP_NUM_THREADS of its trials' processes; None on a GPU
    share: int  # slots of this processor, itself included
    name: str  # in words


def visible_gpus() -> list[str]:
    """GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; CUDA, asked, would keep memory on each."""
    count = _gpus_there()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [str(index) for index in range(count)]
    names = [name.strip() for name in chosen.split(",") if name.strip()] if count else []
    return list(takewhile(lambda name: name != "-1", names))  # which ends the list for CUDA too


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
    """Whether NVIDIA's multi-process service runs: trials on one GPU then share it truly, not in turns."""
    return (Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")) / "control").exists()


def _groups() -> list[Path]:
    """The control groups (cgroup v2) of this process, its own first: containers and batch systems limit it by them."""
    try:
        lines = _OWN_GROUP.read_text().splitlines()
        own = _GROUPS / next(line[3:] for line in lines if line.startswith("0::")).lstrip("/")
    except (OSError, StopIteration):
        return []
    return [place for place in (own, *own.parents) if place.is_relative_to(_GROUPS)]


def cores() -> int:
    """CPU cores that this process may use, in whole ones."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _groups():
        with suppress(OSError, ValueError):  # "max 100000" where there is no limit
            quota, period = map(int, (group / "cpu.max").read_text().split())
            count = min(count, quota // period)
    return max(1, count)


def free_memory() -> int | None:
    """Bytes of memory that new processes may have; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None
    for group in _groups():
        with suppress(OSError, ValueError):
            most, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
            facts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            free = min(
                free, most - used + int(facts.get("inactive_file", 0))
            )  # files that memory can be taken from
    return max(free, 0)


def _default_cpu_slots(trial: int, processes: int) -> int:
    """A core for each process, as long as the memory lasts: small networks gain little from a second thread."""
    free = free_memory()
    return max(1, min(cores() // processes, 1 if free is None else free // max(1, trial)))


def make_slots(
    devices: set[str],
    gpus: str | None = None,
    slots_per_gpu: int | None = None,
    cpu_slots: int | None = None,
    *,
    memory: int = 0,
    per_trial: int = 1,
) -> list[Slot]:
    """The slots of this machine: `gpus` such as "0,2" or "none" (None: all visible), else CPU cores.

    `memory` is what the largest trial holds on a CPU, as `plan.memory` estimates it; `per_trial` GPUs go together.
    """
    for option, value in (("--slots-per-gpu", slots_per_gpu), ("--cpu-slots", cpu_slots)):
        if value is not None and value < 1:
            raise UserError(option, "an integer >= 1", value)
    there = visible_gpus()
    wanted = there if gpus is None else [] if gpus == "none" else [name.strip() for name in gpus.split(",")]
    unknown = [name for name in wanted if name not in there]
    if unknown:
        raise UserError("--gpus", f"visible here: {', '.join(there) or 'none'}", gpus)
    if len(set(wanted)) < len(wanted):
        raise UserError("--gpus", "names one twice; --slots-per-gpu N packs several trials on each", gpus)
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
        together = grouped(wanted, per_trial)
        return [Slot(gpu, None, share, f"gpu {gpu}.{k}") for k in range(share) for gpu in together]
    if slots_per_gpu is not None:
        raise UserError(
            "--slots-per-gpu", "no trial runs on a GPU; --cpu-slots N is for the CPU", slots_per_gpu
        )
    count = cpu_slots or _default_cpu_slots(memory, per_trial)
    threads = max(1, cores() // (count * per_trial))
    return [Slot(None, threads, count, f"cpu {k}") for k in range(count)]


def grouped(gpus: list[str], per_trial: int) -> list[str]:
    """GPUs by `per_trial` as CUDA_VISIBLE_DEVICES names them; what remains stays idle."""
    if len(gpus) < per_trial:
        raise UserError("gpus_per_trial", f"this machine has {len(gpus)} GPU(s) for it", per_trial)
    return [",".join(gpus[k : k + per_trial]) for k in range(0, len(gpus) - per_trial + 1, per_trial)]


class LocalEngine:
    """One process per trial, as many at a time as there are slots."""

    def __init__(
        self,
        sweep: SweepDirectory,
        slots: list[Slot],
        view: SweepView,
        options: Options,
        only: list[Trial] | None = None,
        driver: Driver | None = None,
    ) -> None:
        self.driver = driver if driver is not None else Driver(sweep, view, options, only)
        self.sweep, self.slots, self.view = sweep, slots, view
        self.running: dict[int, TrialProcess] = {}  # slot -> trial
        self.limit = {slot.gpu: slot.share for slot in slots}  # trials at a time on each processor
        self._looked = self._touched = self._stopping = 0.0

    def run(self) -> int:
        """Run until nothing is left, a signal comes, time is up or the disk is full; the exit code."""
        driver = self.driver
        with stopped_by_signals(driver.stop):
            try:
                while self.running or driver.waiting:
                    self._look_after_running()
                    self._end_if_asked()
                    self._fill()
                    if self.view.due:
                        self.view.update(self.snapshot())
                    time.sleep(_POLL)
            finally:
                asked = time.monotonic()
                while any(process.process.poll() is None for process in self.running.values()):
                    self._end(asked)  # after an error of ours nothing goes on unwatched, and nothing is lost
                    time.sleep(_POLL)
                driver.claims.close()
        self.view.line(self.snapshot().text())
        return driver.exit_code()

    def _end_if_asked(self) -> None:
        stop = self.driver.stop
        if not self.driver.ending:
            return
        if not self._stopping:
            self._stopping = time.monotonic()
            if self.running and stop.signal is not None:
                self.view.line(
                    f"stopping: {len(self.running)} trial(s) save and exit; once more ends them at once"
                )
            elif self.running and not self.driver.paused:
                self.view.line(f"time is nearly up: {len(self.running)} trial(s) save and exit")
        self._end(self._stopping)

    def _end(self, asked: float) -> None:
        """Have the running trials save and exit; at once where they were asked to long ago."""
        for process in self.running.values():
            process.stop()
            if self.driver.must_end(asked):
                process.kill()

    def _look_after_running(self) -> None:
        now = time.monotonic()
        look, touch = now - self._looked > 2.0, now - self._touched > BEAT
        self._looked = now if look else self._looked
        self._touched = now if touch else self._touched
        stall = self.driver.options.stall
        for number, process in list(self.running.items()):
            if touch:
                process.beat()
            # this host slept, and another driver has the trial
            if look and self.driver.claims.lost(process.trial.id):
                process.lost = True
                process.kill()
            elif look:
                self.driver.watch(process)
                if stall is not None:
                    process.check_progress(stall)
            if process.process.poll() is None:
                continue
            action = None
            try:
                action = process.finish()
            except OSError as error:
                self.driver.disk_error(error)
            del self.running[number]
            self.driver.settle(process.trial, action, process.state)
            if action is not None and process.state["attempts"][-1]["kind"] == "memory":
                self._fewer(self.slots[number].gpu)

    def _fewer(self, gpu: str | None) -> None:
        """After a trial ran out of memory, its processor takes one trial less at a time."""
        if self.limit[gpu] > 1:
            self.limit[gpu] -= 1
            place = "the CPU" if gpu is None else f"GPU {gpu}"
            self.view.line(f"out of memory: {place} takes {self.limit[gpu]} trial(s) at a time from now on")

    def _fill(self) -> None:
        """Start trials in free slots."""
        for number, slot in enumerate(self.slots):
            busy = sum(self.slots[other].gpu == slot.gpu for other in self.running)
            if number in self.running or busy >= self.limit[slot.gpu]:
                continue
            trial = self.driver.next_trial()
            if trial is None:
                return
            environment = child_environment(self.sweep.path, slot.threads, slot.gpu, slot.gpu is None)
            alone = self.limit[slot.gpu] == 1
            try:
                self.running[number] = TrialProcess(self.sweep, trial, environment, slot.name, alone)
            except OSError as error:
                self.driver.settle(trial, None, {})
                self.driver.disk_error(error)

    def snapshot(self) -> Snapshot:
        """Counts, running trials and an estimate for the rest."""
        running = [
            Running(process.progress(), process.where, process.started, len(process.state["attempts"]) + 1)
            for process in self.running.values()
        ]
        return self.driver.snapshot(running, sum(self.limit.values()))


def run_one(sweep: SweepDirectory, index: int, view: SweepView) -> int:
    """Run the trial with an index, on the first visible GPUs that it takes, else on all CPU cores."""
    if not 0 <= index < len(sweep.plan.trials):
        raise UserError("INDEX", f"0 to {len(sweep.plan.trials) - 1} are in this sweep", index)
    trial = sweep.plan.trials[index]
    holder = Claims(sweep.path / "claims").holder(trial.id)
    if holder is not None:
        driver = holder["driver"]
        who = f"{driver['host'].partition(':')[0]}, process {driver['pid']}" if driver else "another process"
        raise UserError("INDEX", f"{trial.name} is being run by {who}", index)
    gpus = visible_gpus() if str(sweep.plan.recipe(trial).run.device) != "cpu" else []
    each = sweep.plan.gpus_per_trial
    slot = Slot(None, max(1, cores() // each), 1, "cpu")
    if gpus:
        chosen = grouped(gpus, each)[0]
        slot = Slot(chosen, None, 1, f"gpu {chosen}")
    cache_data(sweep, [trial] if sweep.state(trial)["status"] in ("queued", "running") else [], view.line)
    code = LocalEngine(sweep, [slot], view, Options(), only=[trial]).run()
    if code in (0, SOME_FAILED):  # of this trial, whatever became of the others
        return SOME_FAILED if sweep.state(trial)["status"] == "failed" else 0
    return code
