"""How far a sweep is: its directory enters; one short row a trial and counts leave. Quick for 10,000 trials."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from srat_fast.record import METRICS
from srat_fast.sweep.claim import Claims
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.sweep.hosts import alive
from srat_fast.sweep.plan import Trial
from srat_fast.sweep.process import finished_fields, last_line

#: In the order in which they are shown.
STATUSES = ("done", "running", "interrupted", "queued", "pruned", "failed")


@dataclass
class Row:
    """One trial.

    Attributes:
        trial: of the plan.
        status: one of `STATUSES`; interrupted: has started and will be resumed; pruned: a search stopped it.
        state: as `SweepDirectory.state` gives it.
        epoch: epochs done, of a running trial.
        speed: training images/s, of a running trial.
    """

    trial: Trial
    status: str
    state: dict[str, Any]
    epoch: int = 0
    speed: float = 0.0


@dataclass
class Status:
    """A whole sweep.

    Attributes:
        rows: one a trial, in the plan's order.
        counts: trials of each status.
    """

    rows: list[Row]
    counts: Counter[str] = field(default_factory=Counter)

    def of(self, status: str) -> list[Row]:
        """The rows of one status.

        Args:
            status: one of `STATUSES`.

        Returns:
            In the plan's order.
        """
        return [row for row in self.rows if row.status == status]

    def finished(self) -> list[tuple[Trial, float]]:
        """Finished trials and how long they took, for `estimate`.

        Returns:
            (trial, seconds) pairs.
        """
        return [(r.trial, float(r.state["seconds"])) for r in self.of("done") if r.state.get("seconds")]


def _names(directory: Any) -> set[str]:
    try:
        return set(os.listdir(directory))
    except FileNotFoundError:
        return set()


def read_status(sweep: SweepDirectory, *, progress: bool = True) -> Status:
    """Every trial's status, by its state file, its record and whether its process lives.

    Args:
        sweep: the sweep.
        progress: whether running trials' epochs and speeds are read.

    Returns:
        The status.
    """
    states, runs = _names(sweep.path / "state"), _names(sweep.path / "runs")
    claims: Claims | None = None
    status = Status([])
    for trial in sweep.plan.trials:
        state: dict[str, Any] = {"status": "queued", "attempts": []}
        if f"{trial.id}.json" in states:
            state = sweep.state(trial)
        found = state["status"]
        started = trial.name in runs
        if found == "done" and not (started and (sweep.run(trial) / "record.json").exists()):
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
            try:
                line = last_line(sweep.run(trial) / METRICS)
                row.epoch, row.speed = (
                    int(line.get("epoch", -1)) + 1,
                    float(line.get("images_per_second") or 0),
                )
            except OSError:
                pass  # no epoch yet
        status.rows.append(row)
        status.counts[found] += 1
    return status
