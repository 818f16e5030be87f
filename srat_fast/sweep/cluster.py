"""Ray engine: trials as tasks on the nodes of a running cluster.

The only file that imports ray. The driver holds the claims; a task runs one attempt on whichever node has room. A task
whose node dies is an attempt that was killed: the next one resumes from the last checkpoint. Run directories lie on a
disk that all nodes see, or (`collect`) are brought to the driver's disk as they change, and sent along with the next
attempt.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
import socket
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from srat_fast.errors import MissingPackage, UserError
from srat_fast.sweep.claims import BEAT, this_host
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.sweep.driver import Driver, Options, stopped_by_signals
from srat_fast.sweep.local import Slot
from srat_fast.sweep.outcome import Action, Exit, attempt_entry, next_action
from srat_fast.sweep.plan import Plan, Trial, code_version
from srat_fast.sweep.process import TrialProcess, child_environment, read_progress, still_running
from srat_fast.sweep.status import Running, Snapshot, SweepView

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError:
    raise MissingPackage("ray", "--engine ray", "pip install 'srat-fast[ray]'") from None

_POLL = 0.1
#: Seconds between two looks at whether to stop.
_ASK = 1.0
#: Seconds between two collections of a run directory that has changed.
_COLLECT = 10.0


def cluster_slots(
    address: str, devices: set[str], slots_per_gpu: int | None, cpu_slots: int | None, per_trial: int = 1
) -> list[Slot]:
    """Connect to a cluster; one slot per trial that fits now (nodes that join later are used too)."""
    for option, value in (("--slots-per-gpu", slots_per_gpu), ("--cpu-slots", cpu_slots)):
        if value is not None and value < 1:
            raise UserError(option, "an integer >= 1", value)
    if per_trial > 1 and (slots_per_gpu or 1) > 1:
        raise UserError("--slots-per-gpu", "1 with gpus_per_trial > 1: Ray gives whole GPUs", slots_per_gpu)
    if not ray.is_initialized():
        _reachable(address)
        try:
            ray.init(
                address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                "--address", f"no Ray cluster there ({reason}); ray start --head makes one", address
            ) from None
    resources = ray.cluster_resources()
    gpus = 0 if devices == {"cpu"} else int(resources.get("GPU", 0))
    if not gpus and "cuda" in devices:
        raise UserError("run.device", "no node of the cluster has a GPU; auto or cpu", "cuda")
    if gpus:
        share = slots_per_gpu or 1
        at_once = range(_together("GPU", per_trial))
        return [Slot(f"ray {g}", None, share, f"ray gpu {g}.{k}") for k in range(share) for g in at_once]
    if slots_per_gpu is not None:
        raise UserError("--slots-per-gpu", "no trial runs on a GPU", slots_per_gpu)
    count = min(_together("CPU", per_trial), cpu_slots or 10**6)
    return [Slot(None, 1, 1, f"ray cpu {k}") for k in range(max(1, count))]


def _together(resource: str, per_trial: int) -> int:
    """Trials that fit now: all of a trial is on one node, so that its processes are one torchrun's."""
    nodes = [node["Resources"].get(resource, 0) for node in ray.nodes() if node["Alive"]]
    found = sum(int(there) // per_trial for there in nodes)
    if not found and per_trial > 1:
        problem = (
            f"no node of the cluster has so many {resource}s; the largest has {int(max(nodes, default=0))}"
        )
        raise UserError("gpus_per_trial", problem, per_trial)
    return found


def _reachable(address: str) -> None:
    """Refuse an address at which nothing listens at once: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if address == "auto" or "://" in address:
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        problem = f"no Ray cluster there ({reason}); HOST:PORT of its head, or auto"
        raise UserError("--address", problem, address) from None


class _Coordinator:
    """An actor beside the driver: tasks ask it whether to stop, and hand it what they have to bring back."""

    def __init__(self, path: str) -> None:
        self._path, self._asked = Path(path), False

    def stop(self) -> None:
        self._asked = True

    def asked(self) -> bool:
        return self._asked

    def deliver(self, run: str, content: bytes) -> None:
        unpack(content, self._path / "runs" / run)


def _attempt_task(
    path: str, plan: Plan, index: int, coordinator: Any, options: dict[str, Any]
) -> tuple[Action, dict[str, Any]]:
    """`run_attempt` as a Ray task; a driver that is gone counts as one that asks to stop."""

    def asked() -> bool:
        try:
            return bool(ray.get(coordinator.asked.remote(), timeout=30))
        except RayError:
            return True

    def deliver(run: str, content: bytes) -> None:
        ray.get(coordinator.deliver.remote(run, content))

    where = f"ray node {ray.get_runtime_context().get_node_id()[:8]}"
    return run_attempt(path, plan, index, asked, deliver, where=where, **options)


class RayEngine:
    """One Ray task per trial; `collect`: the nodes do not see the sweep's directory."""

    def __init__(
        self,
        sweep: SweepDirectory,
        slots: list[Slot],
        view: SweepView,
        options: Options,
        *,
        collect: bool = False,
    ) -> None:
        self.driver = Driver(sweep, view, options)
        self.sweep, self.slots, self.view, self.collect = sweep, slots, view, collect
        self._share = slots[0].share if slots[0].gpu is not None else 0
        self._task = ray.remote(_attempt_task)
        self._running: dict[Any, tuple[Trial, float]] = {}
        self._coordinator: Any = None
        self._stopping = 0.0

    def run(self) -> int:
        """Run until nothing is left, a signal comes or the disk is full; the exit code."""
        driver = self.driver
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._coordinator = (
            ray.remote(_Coordinator)
            .options(num_cpus=0, scheduling_strategy=here)
            .remote(str(self.sweep.path.absolute()))
        )
        plan = ray.put(self.sweep.plan)
        with stopped_by_signals(driver.stop):
            try:
                while self._running or driver.waiting:
                    self._gather()
                    self._end_if_asked()
                    while len(self._running) < len(self.slots) and (trial := driver.next_trial()) is not None:
                        self._submit(trial, plan)
                    if self.view.due:
                        self.view.update(self.snapshot())
            finally:
                driver.claims.close()
                ray.shutdown()
        self.view.line(self.snapshot().text())
        return driver.exit_code()

    def _submit(self, trial: Trial, plan: Any) -> None:
        options: dict[str, Any] = {
            "code": code_version(),
            "stall": self.driver.options.stall,
            "gpu": bool(self._share),
            "alone": self._share <= 1,
        }
        path = str(self.sweep.path.absolute())
        if self.collect:
            path, options["packed"] = "", (pack(self.sweep.run(trial)), self.sweep.state(trial))
        each = self.sweep.plan.gpus_per_trial
        gpu = each / self._share if self._share else 0.0
        # a task's resources are one node's: a placement group of one bundle would say the same
        task = self._task.options(num_cpus=each, num_gpus=gpu, max_retries=0, name=trial.name)
        reference = task.remote(path, plan, trial.index, self._coordinator, options)
        self._running[reference] = trial, time.time()

    def _gather(self) -> None:
        if not self._running:
            time.sleep(_POLL)
            return
        ready, _ = ray.wait(list(self._running), num_returns=1, timeout=_POLL)
        for reference in ready:
            trial, started = self._running.pop(reference)
            action: Action | None = None
            state: dict[str, Any] = {}
            try:
                action, state = ray.get(reference)
                if self.collect:
                    self.sweep.write_state(trial, state)
            except RayTaskError as error:  # raised by our own code there
                if not isinstance(error.cause, OSError):
                    raise error.cause from None
                self.driver.disk_error(error.cause)
            except RayError as error:
                action, state = self._lost(trial, started, error)
            except OSError as error:
                self.driver.disk_error(error)
            self.driver.settle(trial, action, state)

    def _lost(self, trial: Trial, started: float, error: RayError) -> tuple[Action, dict[str, Any]]:
        """A node or its worker died under a trial: an attempt that was killed."""
        state = self.sweep.state(trial)
        exit = Exit("killed", f"its node or worker died ({type(error).__name__})")
        action = next_action(exit, state["attempts"], self.sweep.plan.retries, alone=True)
        state["attempts"].append(attempt_entry(exit, -1, started, time.time(), "ray"))
        state |= {
            "status": "queued" if action.status == "retry" else action.status,
            "reason": action.reason,
        }
        # "running" stays: the next attempt waits until that process has ended
        self.sweep.write_state(trial, state)
        return action, state

    def _end_if_asked(self) -> None:
        if not self.driver.ending:
            return
        if not self._stopping:
            self._stopping = time.monotonic()
            self.view.line(
                f"stopping: {len(self._running)} trial(s) save and exit; once more ends them at once"
            )
            ray.get(self._coordinator.stop.remote())
        if self.driver.must_end(self._stopping):
            for reference, (trial, _) in self._running.items():
                ray.cancel(reference, force=True)
                self.driver.settle(trial, None, {})
            self._running.clear()

    def snapshot(self) -> Snapshot:
        """Counts, running trials and an estimate for the rest."""
        running = []
        for trial, started in self._running.values():
            state = self.sweep.state(trial)
            where = str(state.get("running", {}).get("where", "ray"))
            progress = read_progress(self.sweep, trial)
            running.append(Running(progress, where, started, len(state["attempts"]) + 1))
        return self.driver.snapshot(running, len(self.slots))


def _files(directory: Path) -> list[Path]:
    """The files below a directory, of which some may vanish meanwhile, and folders with them."""
    return sorted(Path(folder, name) for folder, _, names in os.walk(directory) for name in names)


def pack(directory: Path) -> bytes | None:
    """A directory as a tar archive, without files that vanish meanwhile; None where there is none."""
    if not directory.is_dir():
        return None
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in _files(directory):
            try:
                archive.add(path, str(path.relative_to(directory)))
            except FileNotFoundError:
                continue
    return buffer.getvalue()


def unpack(content: bytes, directory: Path) -> None:
    """Put a packed directory in the place of another, which stays where that fails."""
    new = directory.with_name(f".{directory.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(new, filter="data")
    shutil.rmtree(directory, ignore_errors=True)
    new.rename(directory)


class _Uploader:
    """Sends a run directory to the driver when it has changed."""

    def __init__(self, deliver: Callable[[str, bytes], None], directory: Path) -> None:
        self._deliver, self._directory = deliver, directory
        self._sent: list[tuple[str, int]] = []
        self._at = time.monotonic()

    def bring(self, now: bool = False) -> None:
        if not now and time.monotonic() - self._at < _COLLECT:
            return
        self._at = time.monotonic()
        stamp = []
        for path in _files(self._directory):
            try:
                stamp.append((str(path), path.stat().st_mtime_ns))
            except FileNotFoundError:
                continue
        content = pack(self._directory) if stamp and stamp != self._sent else None
        if content is not None:
            self._deliver(self._directory.name, content)
            self._sent = stamp


def run_attempt(
    path: str,
    plan: Plan,
    index: int,
    asked: Callable[[], bool],
    deliver: Callable[[str, bytes], None],
    *,
    where: str,
    code: str,
    stall: float | None = None,
    gpu: bool = False,
    alone: bool = True,
    packed: tuple[bytes | None, dict[str, Any]] | None = None,
) -> tuple[Action, dict[str, Any]]:
    """Run one attempt on this node; without a shared disk (`path` is "") in a directory of its own, `packed` so far."""
    if code_version() != code:
        host = this_host().partition(":")[0]
        raise UserError("--engine", f"node {host} has code {code_version()}, the driver has {code}", "ray")
    trial = plan.trials[index]
    scratch = None if path else tempfile.mkdtemp(prefix="srat-fast-")
    sweep = SweepDirectory(Path(scratch or path), plan)
    try:
        if packed is not None:
            for name in ("runs", "logs", "state", "recipes"):
                (sweep.path / name).mkdir()
            content, state = packed
            sweep.write_state(trial, {key: value for key, value in state.items() if key != "running"})
            if content is not None:
                unpack(content, sweep.run(trial))
        while still_running(sweep, trial, sweep.state(trial)):  # its node died, but it has yet to end
            time.sleep(_POLL)
        environment = child_environment(sweep.path, None if gpu else 1, None, not gpu)
        process = TrialProcess(sweep, trial, environment, where, alone)
        uploader = _Uploader(deliver, sweep.run(trial)) if packed is not None else None
        try:
            return _watch(process, asked, stall, uploader), process.state
        except BaseException:
            process.kill()
            raise
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _watch(
    process: TrialProcess, asked: Callable[[], bool], stall: float | None, uploader: _Uploader | None
) -> Action:
    looked = beaten = time.monotonic()
    while process.process.poll() is None:
        time.sleep(_POLL)
        now = time.monotonic()
        if now - beaten > BEAT:
            beaten = now
            process.beat()
        if now - looked > _ASK:
            looked = now
            if asked():
                process.stop()
            elif uploader is not None:
                uploader.bring()
            if stall is not None:
                process.check_progress(stall)
    action = process.finish()
    assert action is not None, "the process has ended"
    if uploader is not None:
        uploader.bring(now=True)
    return action
