"""The local engine: a sweep and slots enter; every trial finished, or failed with its reason, leaves."""

from __future__ import annotations

import errno
import shutil
import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from srat_fast.sweep.claim import Claims
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.sweep.estimate import Estimate, estimate
from srat_fast.sweep.orphans import still_running
from srat_fast.sweep.plan import Trial
from srat_fast.sweep.process import TrialProcess, child_environment, finished_fields
from srat_fast.sweep.slots import Slot
from srat_fast.sweep.status import read_status
from srat_fast.sweep.view import Running, Snapshot, SweepView

#: Exit codes of a sweep besides 0 (all done), 2 (bad input), 130 and 143 (stopped).
SOME_FAILED, PAUSED = 1, 3
_POLL = 0.02
#: Seconds between two looks at trials that another driver runs.
_ELSEWHERE = 1.0
#: Seconds that trials have for saving when the sweep is stopped.
_GRACE = 120.0


@dataclass(frozen=True)
class Options:
    """How the local engine treats its trials.

    Attributes:
        stall: seconds without progress after which a trial is stopped and tried again; None for never.
        min_free: bytes that stay free on the sweep's disk; below, the sweep pauses before it starts another trial.
        images_per_second: for the first estimate.
    """

    stall: float | None = None
    min_free: int = 100 * 2**20
    images_per_second: float | None = None


class Stop:
    """Whether a signal has asked for the end, and how often."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.times = 0

    def note(self, number: int, frame: Any) -> None:
        """A signal's handler.

        Args:
            number: of the signal.
            frame: not used.
        """
        self.signal = self.signal or number
        self.times += 1

    @property
    def code(self) -> int | None:
        """The exit code that follows: 130 for Ctrl-C, 143 for SIGTERM and SIGUSR1; None without a signal."""
        return None if self.signal is None else 130 if self.signal == signal.SIGINT else 143


@contextmanager
def stopped_by_signals(stop: Stop) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGUSR1 (a batch system's warning) are noted in `stop` instead of ending the process.

    Args:
        stop: told of each.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, stop.note) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class LocalEngine:
    """One process a trial, as many at a time as there are slots.

    Args:
        sweep: what to run.
        slots: where.
        view: told of everything.
        options: how.
        only: the trials to run; None for all.
    """

    def __init__(
        self,
        sweep: SweepDirectory,
        slots: list[Slot],
        view: SweepView,
        options: Options,
        only: list[Trial] | None = None,
    ) -> None:
        self.sweep, self.slots, self.view, self.options = sweep, slots, view, options
        self.claims = Claims(sweep.path / "claims")
        self.stop = Stop()
        self.running: dict[int, TrialProcess] = {}  # slot -> trial
        self.limit = {slot.gpu: slot.share for slot in slots}  # trials at a time on each processor
        self.paused = ""
        self.elsewhere: deque[Trial] = deque()
        self._looked = self._checked = self._stopping = 0.0
        status = read_status(sweep, progress=False)
        self.finished = status.finished()
        self.done, self.failed = status.counts["done"], status.counts["failed"]
        chosen = status.rows if only is None else [status.rows[trial.index] for trial in only]
        self.queue = deque(row.trial for row in chosen if row.status not in ("done", "failed"))

    def run(self) -> int:
        """Run until nothing is left, or until a signal or a full disk.

        Returns:
            The exit code: 0 all done, 1 some failed, 3 paused, 130 or 143 stopped.
        """
        with stopped_by_signals(self.stop):
            try:
                while self.running or (not self._ending and (self.queue or self.elsewhere)):
                    self._look_after_running()
                    self._note_stop()
                    if not self._ending:
                        self._fill()
                    if self.view.due:
                        self.view.update(self.snapshot())
                    time.sleep(_POLL)
            finally:
                for process in self.running.values():  # an error of ours: nothing goes on unwatched
                    process.kill()
                self.claims.close()
        self.view.line(self.snapshot().text())
        if self.stop.code is not None:
            return self.stop.code
        if self.paused:
            self.view.line(f"paused: {self.paused}; then run the same command again")
            return PAUSED
        return SOME_FAILED if self.failed else 0

    @property
    def _ending(self) -> bool:
        return self.stop.signal is not None or bool(self.paused)

    def _note_stop(self) -> None:
        if not self._ending:
            return
        if not self._stopping:
            self._stopping = time.monotonic()
            if self.running and self.stop.signal is not None:
                self.view.line(
                    f"stopping: {len(self.running)} trial(s) save and exit; once more ends them at once"
                )
            for process in self.running.values():
                process.stop()
        if self.stop.times > 1 or time.monotonic() - self._stopping > _GRACE:
            for process in self.running.values():
                process.asked = True
                process.kill()

    def _look_after_running(self) -> None:
        now = time.monotonic()
        look = now - self._checked > 2.0
        if look:
            self._checked = now
        for number, process in list(self.running.items()):
            if look:
                if self.claims.lost(process.trial.id):  # this host slept; another driver has the trial
                    process.asked = True
                    process.kill()
                elif self.options.stall is not None:
                    process.check_progress(self.options.stall)
            try:
                verdict = process.finish()
            except OSError as error:
                self._disk(error)
                verdict = None
                if process.process.poll() is None:
                    continue
            else:
                if verdict is None:
                    continue
            del self.running[number]
            trial = process.trial
            self.claims.release(trial.id)
            if verdict is None:
                self.queue.append(trial)
                continue
            if verdict.status == "done":
                self.done += 1
                seconds = process.state.get("seconds")
                self.finished.append((trial, float(seconds or 0)))
                self.view.line(f"done: {trial.name} ({seconds or 0:.0f} s)")
            elif verdict.status == "failed":
                self.failed += 1
                self.view.line(f"failed: {trial.name}: {verdict.reason}")
            else:
                self.queue.append(trial)
                self._again(number, process, verdict.reason, verdict.status == "retry")
                if verdict.pause:
                    self._pause(verdict.reason)

    def _again(self, number: int, process: TrialProcess, reason: str, counted: bool) -> None:
        if counted:
            self.view.line(f"again later: {process.trial.name}: {reason}")
        gpu = self.slots[number].gpu
        if process.state["attempts"][-1]["kind"] == "memory" and self.limit[gpu] > 1:
            self.limit[gpu] -= 1
            place = "the CPU" if gpu is None else f"GPU {gpu}"
            self.view.line(f"out of memory: {place} takes {self.limit[gpu]} trial(s) at a time from now on")

    def _pause(self, reason: str) -> None:
        free = shutil.disk_usage(self.sweep.path).free
        self.paused = (
            self.paused or f"{reason} ({free / 2**20:,.0f} MiB free at {self.sweep.path}); free some space"
        )

    def _disk(self, error: OSError) -> None:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise error
        self._pause("the disk is full")

    def _fill(self) -> None:
        """Start trials in free slots."""
        busy: dict[str | None, int] = {}
        for number in self.running:
            busy[self.slots[number].gpu] = busy.get(self.slots[number].gpu, 0) + 1
        if not self.queue and self.elsewhere and time.monotonic() - self._looked > _ELSEWHERE:
            self._looked = time.monotonic()
            self.queue, self.elsewhere = self.elsewhere, deque()
        for number, slot in enumerate(self.slots):
            if number in self.running or busy.get(slot.gpu, 0) >= self.limit[slot.gpu]:
                continue
            try:
                process = self._next(slot)
            except OSError as error:
                self._disk(error)
                return
            if process is None:
                return
            self.running[number] = process
            busy[slot.gpu] = busy.get(slot.gpu, 0) + 1

    def _next(self, slot: Slot) -> TrialProcess | None:
        """Claim and start the next trial that nobody runs."""
        while self.queue:
            if shutil.disk_usage(self.sweep.path).free < self.options.min_free:
                self._pause(f"less than {self.options.min_free / 2**20:,.0f} MiB (--min-free) are free")
                return None
            trial = self.queue.popleft()
            if self.claims.take(trial.id) is None:
                self.elsewhere.append(trial)
                continue
            started = False
            try:
                state = self.sweep.state(trial)
                if state["status"] == "failed" or self._is_finished(trial, state):
                    self._count_elsewhere(trial, state)
                elif still_running(state):
                    self.elsewhere.append(trial)
                else:
                    environment = child_environment(self.sweep.path, slot.threads, slot.gpu, slot.gpu is None)
                    alone = self.limit[slot.gpu] == 1
                    process = TrialProcess(self.sweep, trial, environment, slot.name, alone)
                    started = True
                    return process
            except OSError:
                self.queue.appendleft(trial)
                raise
            finally:
                if not started:
                    self.claims.release(trial.id)
        return None

    def _is_finished(self, trial: Trial, state: dict[str, Any]) -> bool:
        """Whether the record says so; a state whose driver died before it could write that is put right."""
        record = self.sweep.record(trial)
        if record is None or record.get("status") != "finished":
            return False
        if state["status"] != "done":
            state.pop("running", None)
            state |= {"status": "done", "reason": "finished"} | finished_fields(record)
            self.sweep.write_state(trial, state)
        return True

    def _count_elsewhere(self, trial: Trial, state: dict[str, Any]) -> None:
        if state["status"] == "failed":
            self.failed += 1
        else:
            self.done += 1
            self.finished.append((trial, float(state.get("seconds") or 0)))

    def snapshot(self) -> Snapshot:
        """How far it is.

        Returns:
            The counts, this driver's running trials and an estimate for the rest.
        """
        running = [
            Running(p.trial.name, p.where, p.started, p.images_per_second(), len(p.state["attempts"]) + 1)
            for p in self.running.values()
        ]
        waiting = [*self.queue, *self.elsewhere]
        left: Estimate = estimate(
            [*waiting, *(p.trial for p in self.running.values())],
            sum(self.limit.values()),
            self.finished,
            self.options.images_per_second,
        )
        return Snapshot(self.done, self.failed, len(waiting), running, left)
