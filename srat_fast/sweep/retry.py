"""Failed trials back into the queue: a sweep and ids enter; their states, ready for new attempts, leave."""

from __future__ import annotations

import os
from pathlib import Path

from srat_fast.errors import UserError
from srat_fast.record import RECORD
from srat_fast.sweep.claim import Claims
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.sweep.plan import Trial


def _chosen(sweep: SweepDirectory, wanted: list[str]) -> list[Trial]:
    trials = []
    for text in wanted:
        found = sweep.by_id.get(text)
        if found is None and text.isdecimal() and int(text) < len(sweep.plan.trials):
            found = sweep.plan.trials[int(text)]
        if found is None:
            raise UserError("TRIAL", "an id or an index of this sweep (sweep status --all)", text)
        trials.append(found)
    return trials


def requeue(directory: Path, wanted: list[str], fresh: bool) -> list[str]:
    """Give trials their attempts back.

    Args:
        directory: the sweep's.
        wanted: ids or indices; empty for every failed trial.
        fresh: move the run directory aside, so that the trial starts from its first epoch; else it is resumed.

    Returns:
        A line a trial.

    Raises:
        UserError: no such sweep or trial, or one that is running.
    """
    sweep = SweepDirectory.open(directory)
    claims = Claims(directory / "claims")
    lines = []
    trials = _chosen(sweep, wanted) or [t for t in sweep.plan.trials if sweep.state(t)["status"] == "failed"]
    try:
        for trial in trials:
            if claims.take(trial.id) is None:
                raise UserError("TRIAL", "is running", trial.name)
            state = sweep.state(trial)
            record = sweep.record(trial)
            if record is not None and record.get("status") == "finished" and not fresh:
                lines.append(f"{trial.name} is finished; --fresh runs it again")
                continue
            if fresh and sweep.run(trial).exists():
                aside = sweep.path / "aside"
                aside.mkdir(exist_ok=True)
                number = sum(entry.name.startswith(trial.name) for entry in aside.iterdir())
                moved = aside / f"{trial.name}.{number}"
                os.replace(sweep.run(trial), moved)
                if (moved / RECORD).exists():  # a report over the sweep must not count it
                    os.replace(moved / RECORD, moved / f"{RECORD}.old")
            earlier = [*state.get("earlier", []), *state["attempts"]]
            sweep.write_state(trial, {"status": "queued", "attempts": [], "earlier": earlier})
            lines.append(f"{trial.name} is queued again")
    finally:
        claims.close()
    return lines or ["no trial has failed"]
