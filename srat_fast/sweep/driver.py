"""Driver of a sweep, under every engine: the queue of its trials, their claims, retries, pauses and counts."""

from __future__ import annotations

import math
import shutil
import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from srat_fast.errors import is_full
from srat_fast.record import CHECKPOINT, METRICS
from srat_fast.sweep.claims import Claims
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.sweep.outcome import Action
from srat_fast.sweep.plan import Trial, estimate
from srat_fast.sweep.process import TrialProcess, finished_fields, finished_trial, still_running
from srat_fast.sweep.status import Running, Snapshot, SweepView, read_status
from srat_fast.training.stops import CODES, TWICE, handled

#: Exit codes of a sweep besides 0 (all done), 2 (bad input), 129, 130 and 143 (stopped).
SOME_FAILED, PAUSED = 1, 3
#: Seconds that trials have for saving when they are asked to stop, and before the end of a call with a limit.
_GRACE, SAVING = 120.0, 30.0
#: Seconds from its start that a trial needs at least until its first step; what it compiles comes on top.
STARTING = 15.0
#: Seconds between two looks at trials that another driver runs.
_ELSEWHERE = 1.0
#: Seconds between two looks at whether failed trials were put back.
_RETRIED = 30.0
#: After so many attempts in a row that failed within so many seconds what they need may be away for a while: starts
#: are spaced, by twice as much each time and at most so many seconds, so that not all of the queue meets it.
_OUTAGE, _QUICK, _MOST_SPACE = 10, 60.0, 120.0


@dataclass(frozen=True)
class Options:
    """How an engine treats its trials."""

    #: seconds without progress after which a trial is stopped and tried again; None for never
    stall: float | None = None
    #: bytes of the sweep's disk that stay free; below, it pauses before it starts another trial
    min_free: int = 100 * 2**20
    images_per_second: float | None = None  # for the first estimate
    #: of `time.monotonic`, when the call is to be over; trials are asked to save `SAVING` seconds earlier
    until: float = math.inf


class Stop:
    """Whether a signal has asked for the end, and how often."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.times = 0
        self._hung_up = -TWICE

    def note(self, number: int, frame: Any) -> None:
        """Signal handler; SIGHUPs within `TWICE` seconds are one."""
        now = time.monotonic()
        if number == signal.SIGHUP:
            again, self._hung_up = now - self._hung_up < TWICE, now
            if again:
                return
        self.signal = self.signal or signal.Signals(number)
        self.times += 1

    @property
    def code(self) -> int | None:
        """The exit code that follows: 129 for SIGHUP, 130 for Ctrl-C, 143 for SIGTERM and SIGUSR1; None without one."""
        return None if self.signal is None else CODES[self.signal]


@contextmanager
def stopped_by_signals(stop: Stop) -> Iterator[None]:
    """SIGINT, SIGTERM, SIGHUP and SIGUSR1 (a batch system's warning) are noted in `stop`, and end nothing."""
    before = {number: signal.signal(number, stop.note) for number in handled()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Driver:
    """The queue of a sweep, under claims, and its counts."""

    def __init__(
        self, sweep: SweepDirectory, view: SweepView, options: Options, only: list[Trial] | None = None
    ) -> None:
        self.sweep, self.view, self.options = sweep, view, options
        self.claims = Claims(sweep.path / "claims")
        self.stop = Stop()
        self.paused = ""
        status = read_status(sweep, progress=False)
        self.finished = status.finished()
        self.done, self.pruned = status.counts["done"], status.counts["pruned"]
        self.failed = [row.trial for row in status.of("failed")]
        self._all = only is None
        chosen = status.rows if only is None else [status.rows[trial.index] for trial in only]
        self.queue = deque(row.trial for row in chosen if row.status in ("queued", "interrupted", "running"))
        self.elsewhere: deque[Trial] = deque()  # run by another driver, or by a process that still has to end
        compiled = [float(row.state.get("compile_seconds") or 0) for row in status.of("done")]
        self._starting = STARTING + min(compiled, default=0.0)
        self._looked = self._looked_back = -math.inf
        self._quick_failures, self._next_start = 0, -math.inf

    @property
    def time_left(self) -> float:
        """Seconds until the trials have to save."""
        return self.options.until - SAVING - time.monotonic()

    @property
    def ending(self) -> bool:
        """Whether the running trials are to save and exit."""
        return self.stop.signal is not None or bool(self.paused) or self.time_left <= 0

    @property
    def closed(self) -> bool:
        """Whether no further trial is to be started: in the time left it would not come to its first step."""
        return self.ending or self.time_left < self._starting

    @property
    def left_over(self) -> bool:
        """Whether trials are not done that this driver does not run."""
        return bool(self.queue or self.elsewhere)

    @property
    def waiting(self) -> bool:
        """Whether trials are left to start."""
        return not self.closed and self.left_over

    def must_end(self, asked: float) -> bool:
        """Whether trials that were asked to save at a time of `time.monotonic` are to end at once."""
        # a little before the end: the system takes a moment to end them
        return self.stop.times > 1 or time.monotonic() > min(asked + _GRACE, self.options.until - SAVING / 5)

    def next_trial(self) -> Trial | None:
        """Claim the next trial that is not done and that nobody runs; None where there is none just now."""
        if not self.queue and self.elsewhere and time.monotonic() - self._looked > _ELSEWHERE:
            self._looked = time.monotonic()
            self.queue, self.elsewhere = self.elsewhere, deque()
        if not self.queue and self._all:
            self._queue_retried()
        if time.monotonic() < self._next_start:
            return None
        while self.queue and not self.closed:
            if shutil.disk_usage(self.sweep.path).free < self.options.min_free:
                self.pause(f"less than {self.options.min_free / 2**20:,.0f} MiB (--min-free) are free")
                return None
            trial = self.queue.popleft()
            try:
                if not self.claims.take(trial.id):
                    self.elsewhere.append(trial)
                elif self._to_run(trial):
                    return trial
                else:
                    self.claims.release(trial.id)
            except OSError as error:
                self.queue.appendleft(trial)
                self.disk_error(error)
        return None

    def _queue_retried(self) -> None:
        """Queue the failed trials that `sweep retry` has put back since; looked for when there is room for them."""
        if time.monotonic() - self._looked_back > _RETRIED:
            self._looked_back = time.monotonic()
            again = [trial for trial in self.failed if self.sweep.state(trial)["status"] != "failed"]
            self.failed = [trial for trial in self.failed if trial not in again]
            self.queue.extend(again)

    def _to_run(self, trial: Trial) -> bool:
        """Whether a trial that was just claimed is still to be run."""
        state = self.sweep.state(trial)
        if state["status"] == "failed":
            self.failed.append(trial)
        elif state["status"] == "pruned":
            self.pruned += 1
        elif self._is_finished(trial, state):
            self.done += 1
            self.finished.append(finished_trial(trial, state))
        elif still_running(self.sweep, trial, state):
            self.elsewhere.append(trial)
        else:
            return True
        return False

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

    def watch(self, process: TrialProcess) -> None:
        """A look at a running trial, every few seconds; a search prunes here."""

    def settle(self, trial: Trial, action: Action | None, state: dict[str, Any]) -> None:
        """Count a trial's end and give its claim back; None (its end could not be written) queues it again."""
        self.claims.release(trial.id)
        if action is None:
            self.queue.append(trial)
        elif action.status == "done":
            self.done += 1
            self.finished.append(finished_trial(trial, state))
            self.view.line(f"done: {trial.name} ({self.finished[-1].seconds:.0f} s)")
        elif action.status == "failed":
            self.failed.append(trial)
            self.view.line(f"failed: {trial.name}: {action.reason}")
        elif action.status == "pruned":
            self.pruned += 1
            self.view.line(f"stopped early: {trial.name}")
        else:
            self.queue.append(trial)
            if action.status == "retry":
                self.view.line(f"again later: {trial.name}: {action.reason}")
            if action.pause:
                self.pause(action.reason)
        if action is not None and action.status in ("done", "failed", "retry"):
            self._space_starts(action.status == "done", state["attempts"][-1])

    def _space_starts(self, done: bool, attempt: dict[str, Any]) -> None:
        """Wait before the next start where one attempt after the other fails at once."""
        quick = not done and attempt["ended"] - attempt["started"] < _QUICK
        self._quick_failures = self._quick_failures + 1 if quick else 0
        if self._quick_failures >= _OUTAGE:
            wait = min(2.0 ** (self._quick_failures - _OUTAGE + 1), _MOST_SPACE)
            self._next_start = time.monotonic() + wait
            failed = f"{self._quick_failures} attempts in a row failed within {_QUICK:.0f} s"
            self.view.line(f"{failed}: the next start is in {wait:.0f} s")

    def pause(self, reason: str) -> None:
        """Start nothing more, end what runs, and say why."""
        free = shutil.disk_usage(self.sweep.path).free
        self.paused = (
            self.paused or f"{reason} ({free / 2**20:,.0f} MiB free at {self.sweep.path}); free some space"
        )

    def disk_error(self, error: OSError) -> None:
        """Pause if the disk is full; any other error is raised again."""
        if not is_full(error):
            raise error
        self.pause("the disk is full")

    def waiting_trials(self) -> list[Trial]:
        """What is still to be run, but for what this driver runs now."""
        return [*self.queue, *self.elsewhere]

    def snapshot(self, running: list[Running], slots: int) -> Snapshot:
        """How far the sweep is."""
        waiting, now = self.waiting_trials(), [one.progress for one in running]
        left = estimate(waiting, slots, self.finished, self.options.images_per_second, now)
        return Snapshot(self.done + self.pruned, len(self.failed), len(waiting), running, left)

    def exit_code(self) -> int:
        """0 all done, 1 some failed, 3 paused or out of time (said in a line), 129, 130 or 143 stopped."""
        if self.stop.code is not None:
            return self.stop.code
        if self.paused:
            self.view.line(f"paused: {self.paused}, then run the same command again")
            return PAUSED
        if self.closed and self.left_over:
            self.view.line(f"time is up (--minutes){self._too_short()}: the same command goes on")
            return PAUSED
        return SOME_FAILED if self.failed else 0

    def _too_short(self) -> str:
        """How many of the trials that were stopped will start again from nothing."""
        lost = 0
        for trial in self.queue:
            attempts, run = self.sweep.state(trial)["attempts"], self.sweep.run(trial)
            if attempts and attempts[-1]["kind"] == "stopped":
                lost += not any((run / name).exists() for name in (METRICS, CHECKPOINT))
        return f", {lost} trial(s) stopped before their first checkpoint and need more of it" if lost else ""
