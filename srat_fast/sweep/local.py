"""The local engine: a sweep and slots enter; every trial finished, or failed with its reason, leaves."""

from __future__ import annotations

import time

from srat_fast.sweep.claim import BEAT
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.sweep.driver import Driver, Options, stopped_by_signals
from srat_fast.sweep.plan import Trial
from srat_fast.sweep.process import TrialProcess, child_environment
from srat_fast.sweep.slots import Slot
from srat_fast.sweep.view import Running, Snapshot, SweepView

_POLL = 0.02
#: Seconds that trials have for saving when the sweep is stopped.
_GRACE = 120.0


class LocalEngine:
    """One process a trial, as many at a time as there are slots.

    Args:
        sweep: what to run.
        slots: where.
        view: told of everything.
        options: how.
        only: the trials to run; None for all.
        driver: the queue; None for the plan's trials.
    """

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
        """Run until nothing is left, or until a signal or a full disk.

        Returns:
            The exit code: 0 all done, 1 some failed, 3 paused, 129, 130 or 143 stopped.
        """
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
                for process in self.running.values():  # an error of ours: nothing goes on unwatched
                    process.kill()
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
        for process in self.running.values():
            process.stop()
            if stop.times > 1 or time.monotonic() - self._stopping > _GRACE:
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
            if look and self.driver.claims.lost(
                process.trial.id
            ):  # this host slept; another driver has the trial
                process.asked = True
                process.kill()
            elif look:
                self.driver.watch(process)
                if stall is not None:
                    process.check_progress(stall)
            if process.process.poll() is None:
                continue
            verdict = None
            try:
                verdict = process.finish()
            except OSError as error:
                self.driver.disk(error)
            del self.running[number]
            self.driver.settle(process.trial, verdict, process.state)
            if verdict is not None and process.state["attempts"][-1]["kind"] == "memory":
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
                self.driver.disk(error)

    def snapshot(self) -> Snapshot:
        """How far it is.

        Returns:
            The counts, the running trials and an estimate for the rest.
        """
        processes = list(self.running.values())
        running = [
            Running(p.trial.name, p.where, p.started, p.images_per_second(), len(p.state["attempts"]) + 1)
            for p in processes
        ]
        return self.driver.snapshot(running, [p.trial for p in processes], sum(self.limit.values()))
