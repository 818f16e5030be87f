"""Further attacks on every finished run of a sweep, and audits: what is on record already is not measured again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from srat_fast.errors import EvaluationFailure, UserError, path_errors
from srat_fast.record import audit_verdict
from srat_fast.sweep.claims import Claims
from srat_fast.sweep.directory import SweepDirectory

Progress = Callable[[str, int, int], None]


def lacking(record: dict[str, Any], attacks: Sequence[str], limit: int | None) -> list[str]:
    """Those of `attacks` that a run's last weights have not met on (at most `limit` of) its test images."""
    weights = (record.get("weights_checksums") or {}).get("last")
    images = record.get("test_images")  # missing in a damaged record only, which judging the run will tell
    images = images if images is None or limit is None else min(images, limit)
    radius = record.get("recipe", {}).get("eval_attack", {}).get("epsilon")
    met = {
        name
        for entry in record.get("evaluations", [])
        if entry.get("weights", "last") == "last" and entry.get("weights_checksum") == weights
        for name, row in entry["attacks"].items()
        if images is not None
        and row.get("images") == images
        and (radius is None or row.get("epsilon") in (None, radius))  # at the run's own radius
    }
    return [name for name in attacks if name not in met]


def _verdict(record: dict[str, Any]) -> str:
    """What the audit of a run's last weights said."""
    return audit_verdict(record, "last", (record.get("weights_checksums") or {}).get("last"))


@dataclass
class Judged:
    """What a call did."""

    judged: int = 0  # runs
    had: int = 0  # runs that lacked nothing
    elsewhere: int = 0  # runs that another process was judging
    suspicious: dict[str, list[str]] = field(
        default_factory=dict
    )  # run -> failed checks, of audits on record
    failed: list[str] = field(default_factory=list)  # names of runs that could not be judged


def evaluate_sweep(
    sweep: SweepDirectory,
    attacks: Sequence[str],
    *,
    limit: int | None = None,
    changes: dict[str, Any] | None = None,
    device: str = "auto",
    line: Callable[[str], None] = lambda text: None,
    progress: Progress = lambda name, done, total: None,
) -> Judged:
    """The attacks that finished runs have not met; results join the records, a stopped call goes on when repeated."""
    from srat_fast.evaluation.runs import evaluate  # torch

    asked = dict(changes or {}) | ({} if limit is None else {"data.test_limit": limit})

    def attack(run: Path, names: list[str], plugin: Sequence[str]) -> None:
        told = ",".join(names)
        evaluate(run, told, changes=asked, device=device, plugin=plugin, progress=progress)

    return _judge(sweep, lambda record: lacking(record, attacks, limit), attack, line)


def audit_sweep(
    sweep: SweepDirectory,
    *,
    subset: int | None,
    autoattack: int,
    changes: dict[str, Any] | None = None,
    device: str = "auto",
    line: Callable[[str], None] = lambda text: None,
    progress: Progress = lambda name, done, total: None,
) -> Judged:
    """An audit of each finished run that has none of its last weights."""
    from srat_fast.evaluation.audit import audit_run  # torch

    def audit(run: Path, names: list[str], plugin: Sequence[str]) -> None:
        audit_run(
            run, subset=subset, autoattack=autoattack, changes=changes, device=device, plugin=plugin,
            progress=progress,
        )  # fmt: skip

    return _judge(sweep, lambda record: ["audit"] * _verdict(record).startswith("not audited"), audit, line)


def _judge(
    sweep: SweepDirectory,
    lacks: Callable[[dict[str, Any]], list[str]],
    judge: Callable[[Path, list[str], Sequence[str]], None],
    line: Callable[[str], None],
) -> Judged:
    """Judge each finished run that lacks something, under a claim: calls side by side share the runs.

    A run that cannot be judged, such as one without its weights, is passed over.
    """
    with path_errors("DIR", sweep.path, "cannot be written"):
        claims = Claims(sweep.path / "claims")
    trials, done = sweep.plan.trials, Judged()
    try:
        for number, trial in enumerate(trials, 1):
            record = sweep.record(trial)
            if record is None or record.get("status") != "finished":
                continue
            key = f"judge-{trial.id}"
            if not lacks(record):
                done.had += 1
            elif not claims.take(key):
                done.elsewhere += 1
            else:
                names = lacks(sweep.record(trial) or record)  # another process may have judged it meanwhile
                if names:
                    line(f"{number} of {len(trials)}: {trial.name}: {', '.join(names)}")
                    try:
                        judge(sweep.run(trial), names, sweep.plan.recipe(trial).plugin)
                        done.judged += 1
                    except (EvaluationFailure, UserError) as error:
                        if isinstance(error, UserError) and error.option != "RUN":
                            raise  # it is no fault of this run
                        line(f"not judged: {trial.name}: {error}")
                        done.failed.append(trial.name)
                done.had += not names
                claims.release(key)
    finally:
        claims.close()
    for trial in trials:
        record = sweep.record(trial) or {}
        if _verdict(record) == "suspicious":
            checks = record["audit"].get("checks", ())
            done.suspicious[trial.name] = [check["name"] for check in checks if check["verdict"] == "failed"]
    return done
