"""The Ray engine: a sweep and a running cluster enter; trials run as tasks on its nodes, and their verdicts leave.

The only file that imports ray. The driver holds the claims; a task runs one attempt on whichever node has room. A task
whose node dies is an attempt that was killed: the next one resumes from the last checkpoint. Run directories lie on a
disk that all nodes see, or (`collect`) are brought to the driver's disk as they change, and sent along with the next
attempt.
"""

from __future__ import annotations

import logging
import socket
import time
from pathlib import Path
from typing import Any

from srat_fast.errors import MissingPackage, UserError
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.sweep.driver import Driver, Options, stopped_by_signals
from srat_fast.sweep.identity import code_version
from srat_fast.sweep.outcome import Ending, Verdict, attempt_entry, judge
from srat_fast.sweep.plan import Plan, Trial
from srat_fast.sweep.process import last_line
from srat_fast.sweep.remote import attempt, pack, unpack
from srat_fast.sweep.slots import Slot
from srat_fast.sweep.view import Running, Snapshot, SweepView

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError:
    raise MissingPackage("ray", "--engine ray", "pip install 'srat-fast[ray]'") from None

_POLL = 0.1
_GRACE = 120.0


def cluster_slots(
    address: str, devices: set[str], slots_per_gpu: int | None, cpu_slots: int | None
) -> list[Slot]:
    """Connect to a cluster and see what it has room for.

    Args:
        address: HOST:PORT, or "auto" for the one that this machine belongs to.
        devices: `run.device` of the trials.
        slots_per_gpu: trials on one GPU at a time; None for 1.
        cpu_slots: at most so many trials at a time; None for one a core of the cluster.

    Returns:
        One slot a trial that fits now; nodes that join later are used too.

    Raises:
        UserError: no cluster there, or none with the devices.
    """
    for option, value in (("--slots-per-gpu", slots_per_gpu), ("--cpu-slots", cpu_slots)):
        if value is not None and value < 1:
            raise UserError(option, "an integer >= 1", value)
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
        return [Slot(f"ray {g}", None, share, f"ray gpu {g}.{k}") for k in range(share) for g in range(gpus)]
    if slots_per_gpu is not None:
        raise UserError("--slots-per-gpu", "no trial runs on a GPU", slots_per_gpu)
    count = int(min(resources.get("CPU", 1), cpu_slots or 10**6))
    return [Slot(None, 1, 1, f"ray cpu {k}") for k in range(max(1, count))]


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


class _Desk:
    """An actor beside the driver: tasks ask it whether to stop, and hand it what they have to bring back."""

    def __init__(self, path: str) -> None:
        self._path, self._asked = Path(path), False

    def stop(self) -> None:
        self._asked = True

    def asked(self) -> bool:
        return self._asked

    def deliver(self, run: str, content: bytes) -> None:
        unpack(content, self._path / "runs" / run)


def _attempt(
    path: str, plan: Plan, index: int, desk: Any, options: dict[str, Any]
) -> tuple[Verdict, dict[str, Any]]:
    """`remote.attempt` as a task: a driver that is gone counts as one that asks to stop."""

    def asked() -> bool:
        try:
            return bool(ray.get(desk.asked.remote(), timeout=30))
        except RayError:
            return True

    def deliver(run: str, content: bytes) -> None:
        ray.get(desk.deliver.remote(run, content))

    where = f"ray node {ray.get_runtime_context().get_node_id()[:8]}"
    return attempt(path, plan, index, asked, deliver, where=where, **options)


class RayEngine:
    """One task a trial.

    Args:
        sweep: what to run.
        slots: as `cluster_slots` found them.
        view: told of everything.
        options: how.
        collect: whether the nodes do not see the sweep's directory.
    """

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
        self._task = ray.remote(_attempt)
        self._running: dict[Any, tuple[Trial, float]] = {}
        self._desk: Any = None
        self._stopping = 0.0

    def run(self) -> int:
        """Run until nothing is left, or until a signal or a full disk.

        Returns:
            The exit code, as of the local engine.
        """
        driver = self.driver
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._desk = (
            ray.remote(_Desk)
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
        gpu = 1.0 / self._share if self._share else 0.0
        task = self._task.options(num_cpus=1, num_gpus=gpu, max_retries=0, name=trial.name)
        reference = task.remote(path, plan, trial.index, self._desk, options)
        self._running[reference] = trial, time.time()

    def _gather(self) -> None:
        if not self._running:
            time.sleep(_POLL)
            return
        ready, _ = ray.wait(list(self._running), num_returns=1, timeout=_POLL)
        for reference in ready:
            trial, started = self._running.pop(reference)
            verdict: Verdict | None = None
            state: dict[str, Any] = {}
            try:
                verdict, state = ray.get(reference)
                if self.collect:
                    self.sweep.write_state(trial, state)
            except RayTaskError as error:  # raised by our own code there
                if not isinstance(error.cause, OSError):
                    raise error.cause from None
                self.driver.disk(error.cause)
            except RayError as error:
                verdict, state = self._lost(trial, started, error)
            except OSError as error:
                self.driver.disk(error)
            self.driver.settle(trial, verdict, state)

    def _lost(self, trial: Trial, started: float, error: RayError) -> tuple[Verdict, dict[str, Any]]:
        """A node or its worker died under a trial: an attempt that was killed."""
        state = self.sweep.state(trial)
        ending = Ending("killed", f"its node or worker died ({type(error).__name__})")
        verdict = judge(ending, state["attempts"], self.sweep.plan.retries, alone=True)
        state["attempts"].append(attempt_entry(ending, -1, started, time.time(), "ray"))
        state |= {
            "status": "queued" if verdict.status == "retry" else verdict.status,
            "reason": verdict.reason,
        }
        self.sweep.write_state(
            trial, state
        )  # "running" stays: the next attempt waits until that process has ended
        return verdict, state

    def _end_if_asked(self) -> None:
        if not self.driver.ending:
            return
        if not self._stopping:
            self._stopping = time.monotonic()
            self.view.line(
                f"stopping: {len(self._running)} trial(s) save and exit; once more ends them at once"
            )
            ray.get(self._desk.stop.remote())
        if self.driver.stop.times > 1 or time.monotonic() - self._stopping > _GRACE:
            for reference, (trial, _) in self._running.items():
                ray.cancel(reference, force=True)
                self.driver.settle(trial, None, {})
            self._running.clear()

    def snapshot(self) -> Snapshot:
        """How far it is.

        Returns:
            The counts, the running trials and an estimate for the rest.
        """
        running = []
        for trial, started in self._running.values():
            state = self.sweep.state(trial)
            try:
                speed = float(
                    last_line(self.sweep.run(trial) / "metrics.jsonl").get("images_per_second") or 0
                )
            except OSError:
                speed = 0.0
            where = str(state.get("running", {}).get("where", "ray"))
            running.append(Running(trial.name, where, started, speed, len(state["attempts"]) + 1))
        return self.driver.snapshot(running, [trial for trial, _ in self._running.values()], len(self.slots))
