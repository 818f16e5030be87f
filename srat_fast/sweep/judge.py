"""Further attacks on every finished run of a sweep: what is on record already is not measured again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from srat_fast.sweep.directory import SweepDirectory

Progress = Callable[[str, int, int], None]


def lacking(record: dict[str, Any], attacks: Sequence[str], limit: int | None) -> list[str]:
    """Those of `attacks` that a run's last weights have not met on (at most `limit` of) its test images."""
    weights = (record.get("weights_checksums") or {}).get("last")
    images = min(record["test_images"], record["test_images"] if limit is None else limit)
    met = {
        name
        for entry in record.get("evaluations", [])
        if entry.get("weights", "last") == "last" and entry.get("weights_checksum") == weights
        for name, row in entry["attacks"].items()
        if row.get("images") == images
    }
    return [name for name in attacks if name not in met]


def evaluate_sweep(
    sweep: SweepDirectory,
    attacks: Sequence[str],
    *,
    limit: int | None = None,
    changes: dict[str, Any] | None = None,
    device: str = "auto",
    line: Callable[[str], None] = lambda text: None,
    progress: Progress = lambda name, done, total: None,
) -> tuple[int, int]:
    """(runs judged, runs that had it all); the results join the runs' records, a stopped call goes on when repeated."""
    from srat_fast.evaluation.runs import evaluate  # torch

    asked = dict(changes or {}) | ({} if limit is None else {"data.test_limit": limit})
    finished = []
    for trial in sweep.plan.trials:
        record = sweep.record(trial)
        if record is not None and record.get("status") == "finished":
            finished.append((trial, record))
    judged = 0
    for number, (trial, record) in enumerate(finished, 1):
        names = lacking(record, attacks, limit)
        if names:
            line(f"{number} of {len(finished)}: {trial.name}: {', '.join(names)}")
            plugin = sweep.plan.recipe(trial).plugin
            evaluate(
                sweep.run(trial),
                ",".join(names),
                changes=asked,
                device=device,
                plugin=plugin,
                progress=progress,
            )
            judged += 1
    return judged, len(finished) - judged
