"""Judging the runs of a stage: run directories enter; the commands that are still to be given leave, in order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.paper.stages import Judging

#: Exit code of an audit that found something: an outcome, not a failure.
SUSPICIOUS = 3


class Job(NamedTuple):
    """One command.

    Attributes:
        name: for its log, and for people.
        arguments: of `srat-fast`.
        good: exit codes after which it is done.
    """

    name: str
    arguments: list[str]
    good: tuple[int, ...] = (0,)


def finished_runs(runs: Path) -> dict[Path, dict[str, Any]]:
    """The finished runs of a sweep.

    Args:
        runs: its folder of run directories.

    Returns:
        Run directory -> record, in the order of names.
    """
    found = {}
    for path in sorted(runs.glob("*/record.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.get("status") == "finished":
            found[path.parent] = record
    return found


def unfinished_runs(runs: Path) -> list[Path]:
    """The runs of a sweep that have begun and not finished.

    Args:
        runs: its folder of run directories.

    Returns:
        Run directories, in the order of names.
    """
    return sorted({path.parent for path in runs.glob("*/recipe.json")} - finished_runs(runs).keys())


def jobs(runs: dict[Path, dict[str, Any]], judging: Judging, figure: Path | None) -> list[list[Job]]:
    """What is left to do, as groups whose jobs may run side by side, one group after another.

    Args:
        runs: as `finished_runs` gives them.
        judging: how far.
        figure: of all runs' features side by side, once all have finished; None before.

    Returns:
        Evaluations, audits, the analysis, then evaluations of averaged weights; empty groups left out.
    """
    evaluations, audits, averages = [], [], []
    for run, record in runs.items():
        arguments = ["evaluate", str(run), "--attack", judging.attacks, "--subset", str(judging.images)]
        if not attacked(record, judging):
            evaluations.append(Job(f"evaluate-{run.name}", arguments))
        if not record.get("audit"):
            audits.append(Job(f"audit-{run.name}", ["audit", str(run), *judging.audit], (0, SUSPICIOUS)))
        if record.get("ema") and not attacked(record, judging, "ema"):
            averages.append(Job(f"evaluate-ema-{run.name}", [*arguments, "--weights", "ema"]))
    analysis = []
    if figure is not None and not figure.exists():
        arguments = ["analyse", *map(str, runs), *judging.features, "--together", str(figure)]
        analysis.append(Job(f"analyse-{figure.stem}", arguments))
    return [group for group in (evaluations, audits, analysis, averages) if group]


def attacked(record: dict[str, Any], judging: Judging, weights: str = "last") -> bool:
    """Whether a run has been attacked as far as it is to be.

    Args:
        record: of the run.
        judging: how far.
        weights: last or ema.

    Returns:
        Whether one evaluation has all attacks on so many images.
    """
    wanted = set(judging.attacks.split(","))
    return any(
        wanted <= set(entry["attacks"])
        and entry["weights"] == weights
        and all(entry["attacks"][name]["images"] == judging.images for name in wanted)
        for entry in record.get("evaluations", [])
    )
