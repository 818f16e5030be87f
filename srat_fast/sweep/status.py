"""Status of a sweep's trials, and its live view."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.text import Text

from srat_fast.progress import LiveView
from srat_fast.record import RECORD
from srat_fast.sweep.claims import Claims, alive
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.sweep.plan import Estimate, Finished, Progress, Trial, clock, duration
from srat_fast.sweep.process import finished_fields, finished_trial, read_progress
from srat_fast.tables import Table, visible

#: In the order in which they are shown.
STATUSES = ("done", "running", "interrupted", "queued", "pruned", "failed")


@dataclass
class Row:
    """One trial."""

    trial: Trial  # of the plan
    #: one of `STATUSES`; interrupted: has started and will be resumed; pruned: a search stopped it
    status: str
    state: dict[str, Any]  # as `SweepDirectory.state` gives it
    progress: Progress | None = None  # of a running trial


@dataclass
class Status:
    """A whole sweep."""

    rows: list[Row]  # one a trial, in the plan's order
    counts: Counter[str] = field(default_factory=Counter)  # trials of each status

    def of(self, status: str) -> list[Row]:
        """The rows of one of `STATUSES`."""
        return [row for row in self.rows if row.status == status]

    def left(self) -> list[Trial]:
        """Trials that are still to be run, running ones among them."""
        return [row.trial for row in self.rows if row.status not in ("done", "failed", "pruned")]

    def running(self) -> list[Progress]:
        """How far the running trials are."""
        return [row.progress for row in self.rows if row.progress is not None]

    def waiting(self) -> list[Trial]:
        """Trials that are still to be run, but for the running ones."""
        return [row.trial for row in self.of("queued") + self.of("interrupted")]

    def finished(self) -> list[Finished]:
        """What each finished trial took."""
        return [finished_trial(row.trial, row.state) for row in self.of("done") if row.state.get("seconds")]


def _names(directory: Any) -> set[str]:
    try:
        return set(os.listdir(directory))
    except FileNotFoundError:
        return set()


def read_status(sweep: SweepDirectory, *, progress: bool = True) -> Status:
    """Every trial's status, by its state file, its record and whether its process lives."""
    states, runs = _names(sweep.path / "state"), _names(sweep.path / "runs")
    claims: Claims | None = None
    status = Status([])
    for trial in sweep.plan.trials:
        state: dict[str, Any] = {"status": "queued", "attempts": []}
        if f"{trial.id}.json" in states:
            state = sweep.state(trial)
        found = state["status"]
        started = trial.name in runs
        if found == "done" and not (started and (sweep.run(trial) / RECORD).exists()):
            found, started = "queued", False  # its directory was removed: it will run again
        elif found == "running":
            living = alive(state["running"])
            if living is None:
                claims = claims or Claims(sweep.path / "claims")
                living = claims.holder(trial.id) is not None
            if not living:
                found = "queued"
        if found == "queued" and started:
            record = sweep.record(trial)  # its driver died before it could note the end
            if record is not None and record.get("status") == "finished":
                found, state = "done", state | finished_fields(record)
            else:
                found = "interrupted"
        row = Row(trial, found, state)
        if found == "running" and progress:
            row.progress = read_progress(sweep, trial)
        status.rows.append(row)
        status.counts[found] += 1
    return status


@dataclass(frozen=True)
class Running:
    """A trial that runs."""

    progress: Progress
    where: str  # its slot
    started: float  # seconds since the epoch
    attempt: int  # from 1


@dataclass(frozen=True)
class Snapshot:
    """A sweep at a moment."""

    done: int  # trials
    failed: int  # trials
    queued: int  # trials that wait here, or run under another driver
    running: list[Running]  # trials of this driver
    left: Estimate  # estimate for what is not done

    def text(self) -> str:
        """One line, such as "3 of 24 done, 2 running, 19 queued; 120 images/s; about 12 min left"."""
        total = self.done + self.failed + self.queued + len(self.running)
        parts = [f"{self.done} of {total} done", f"{len(self.running)} running", f"{self.queued} queued"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        speed = sum(one.progress.speed for one in self.running)
        line = ", ".join(parts) + (f"; {speed:,.0f} images/s" if speed else "")
        if self.left.seconds is not None and (self.queued or self.running):
            line += f"; about {duration(self.left.seconds)} left ({clock(self.left.seconds)})"
        return line


class SweepView(LiveView):
    """A sweep's progress: a live table on a terminal, a line every `every` seconds elsewhere."""

    def __init__(self, title: str, console: Console, every: float = 60.0) -> None:
        super().__init__(console, every)
        self._title = title

    def update(self, snapshot: Snapshot) -> None:
        """Show how far it is."""
        self.show(self._render(snapshot), snapshot.text())

    def _render(self, snapshot: Snapshot) -> Group:
        total = snapshot.done + snapshot.failed + snapshot.queued + len(snapshot.running)
        parts: list[RenderableType] = [Text(visible(self._title))]
        if snapshot.running:
            table = Table(
                "running",
                "slot",
                "attempt",
                "epoch",
                "images/s",
                "for",
                right=(2, 3, 4),
                spare=("attempt", "slot"),
            )
            for one in snapshot.running:
                trial, speed = one.progress.trial, one.progress.speed
                table.add(
                    trial.name, one.where, str(one.attempt), f"{one.progress.epoch}/{one.progress.epochs}",
                    f"{speed:,.0f}" if speed else "-", duration(time.time() - one.started),
                )  # fmt: skip
            parts.append(table)
        bar = ProgressBar(total=total, completed=snapshot.done, width=min(60, self._console.width))
        return Group(*parts, bar, Text(), Text(snapshot.text()))  # a bar by itself does not end its line
