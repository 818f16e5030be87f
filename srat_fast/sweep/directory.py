"""A sweep on disk: a plan enters; plan.json, one small state file a trial, run directories and logs leave."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from srat_fast.data.cache import exclusive
from srat_fast.errors import UserError
from srat_fast.recipe import to_toml
from srat_fast.record import RECORD, plain_json, write_atomically
from srat_fast.sweep.plan import Plan, Trial, make_plan, suggested
from srat_fast.sweep.spec import Spec

PLAN = "plan.json"
_FORMAT = 1


class SweepDirectory:
    """The files of one sweep.

    Args:
        path: its directory.
        plan: its runs.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path, self.plan = path, plan
        self.by_id = {trial.id: trial for trial in plan.trials}

    @classmethod
    def open(cls, path: Path) -> SweepDirectory:
        """An existing sweep.

        Args:
            path: its directory.

        Returns:
            The sweep.

        Raises:
            UserError: there is none, or its plan is damaged or of another version.
        """
        try:
            content = json.loads((path / PLAN).read_text(encoding="utf-8"))
            if content["format"] != _FORMAT:
                raise UserError("DIR", f"its plan has format {content['format']}, not {_FORMAT}", str(path))
            fields = {name: content[name] for name in content if name not in ("format", "trials")}
            return cls(path, Plan(trials=[Trial(*row) for row in content["trials"]], **fields))
        except (FileNotFoundError, NotADirectoryError):
            raise UserError("DIR", f"is not a sweep: it has no {PLAN}", str(path)) from None
        except OSError as error:
            raise UserError("DIR", f"its {PLAN} cannot be read: {error.strerror}", str(path)) from None
        except (ValueError, KeyError, TypeError):
            raise UserError("DIR", f"its {PLAN} is damaged", str(path)) from None

    @classmethod
    def create(cls, path: Path, spec: Spec, source: str, *, other_code: bool = False) -> SweepDirectory:
        """The sweep of a spec: new, or the one that is there, with the runs that the spec has now in addition.

        Args:
            path: its directory; made if needed.
            spec: as read.
            source: the spec's path, for messages.
            other_code: go on with the runs of a plan that other code made.

        Returns:
            The sweep.

        Raises:
            UserError: the directory cannot be written, or holds a sweep that the spec does not continue.
        """
        plan = make_plan(spec, source)  # a bad spec leaves nothing behind
        try:
            if path.is_dir() and any(path.iterdir()) and not (path / PLAN).exists():
                if not all(entry.name.startswith(".") for entry in path.iterdir()):
                    raise UserError(
                        "--out", "is not empty and not a sweep; choose another directory", str(path)
                    )
            elif path.exists() and not path.is_dir():
                raise UserError("--out", "is not a directory", str(path))
            path.mkdir(parents=True, exist_ok=True)
            with exclusive(path / PLAN, option=None):
                sweep = cls(path, cls._merged(path, plan, spec, source, other_code))
                for name in ("runs", "logs", "state", "claims", "recipes"):
                    (path / name).mkdir(exist_ok=True)
        except OSError as error:
            raise UserError("--out", f"cannot be written: {error.strerror}", str(path)) from None
        return sweep

    def append(self, values: dict[str, Any]) -> Trial:
        """Add a search's suggestion to the plan.

        Args:
            values: dotted field -> value.

        Returns:
            Its trial: the one that is there already where the same was suggested before.

        Raises:
            UserError: the values contradict each other.
            OSError: the plan cannot be written.
        """
        fields, trial = suggested(self.plan, values)
        if trial.id in self.by_id:
            return self.by_id[trial.id]
        self.plan.cells.append(values)
        self.plan.recipes.append(fields)
        self.plan.trials.append(trial)
        self.by_id[trial.id] = trial
        _write_plan(self.path, self.plan)
        return trial

    @classmethod
    def _merged(cls, path: Path, plan: Plan, spec: Spec, source: str, other_code: bool) -> Plan:
        if (path / PLAN).exists():
            old = cls.open(path).plan
            if old.code != plan.code:
                if not other_code:
                    raise UserError(
                        "--out",
                        f"its plan was made by code {old.code}, this is {plan.code}: runs of both would stand in one "
                        "table; choose another directory, or --other-code to go on",
                        str(path),
                    )
                plan = make_plan(spec, source, old.code)
            plan = _continued(old, plan, path)
            if plan == old:
                return old
        _write_plan(path, plan)
        return plan

    def run(self, trial: Trial) -> Path:
        """A trial's run directory.

        Args:
            trial: of this sweep.

        Returns:
            Its path, there or not.
        """
        return self.path / "runs" / trial.name

    def log(self, trial: Trial) -> Path:
        """What a trial printed, all attempts after one another.

        Args:
            trial: of this sweep.

        Returns:
            Its path, there or not.
        """
        return self.path / "logs" / f"{trial.id}.txt"

    def write_recipe(self, trial: Trial) -> Path:
        """The recipe that a trial's process reads.

        Args:
            trial: of this sweep.

        Returns:
            The file.

        Raises:
            OSError: it cannot be written.
        """
        path = self.path / "recipes" / f"{trial.id}.toml"
        write_atomically(path, to_toml(self.plan.recipe(trial)).encode())
        return path

    def state_path(self, trial: Trial) -> Path:
        """Where a trial's state lies.

        Args:
            trial: of this sweep.

        Returns:
            Its path, there or not.
        """
        return self.path / "state" / f"{trial.id}.json"

    def state(self, trial: Trial) -> dict[str, Any]:
        """What the drivers know of a trial.

        Args:
            trial: of this sweep.

        Returns:
            {"status", "attempts", ...}; {"status": "queued", "attempts": []} for one that was never started.
        """
        try:
            with open(self.state_path(trial), "rb") as file:
                state = json.loads(file.read())
        except (OSError, ValueError):
            state = None
        whole = isinstance(state, dict) and isinstance(state.get("status"), str) and "attempts" in state
        return state if whole else {"status": "queued", "attempts": []}

    def write_state(self, trial: Trial, state: dict[str, Any]) -> None:
        """Keep what is known of a trial; its claim's holder does.

        Args:
            trial: of this sweep.
            state: plain values.

        Raises:
            OSError: it cannot be written.
        """
        text = json.dumps(plain_json(state), allow_nan=False)
        write_atomically(self.state_path(trial), text.encode())

    def record(self, trial: Trial) -> dict[str, Any] | None:
        """A trial's record.

        Args:
            trial: of this sweep.

        Returns:
            The content of record.json; None where there is none, or half of one.
        """
        try:
            record = json.loads((self.run(trial) / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) else None


def _write_plan(path: Path, plan: Plan) -> None:
    content = dataclasses.asdict(plan) | {"format": _FORMAT}
    content["trials"] = [list(vars(trial).values()) for trial in plan.trials]
    write_atomically(path / PLAN, json.dumps(plain_json(content), allow_nan=False).encode())


def _continued(old: Plan, new: Plan, path: Path) -> Plan:
    """The old plan with the new one's additional runs; its indices stay."""
    if old.search is not None or new.search is not None:
        known = {"trials": 0}  # a search may be given more trials
        if old.search is None or new.search is None or old.search | known != new.search | known:
            raise UserError("--out", "holds another search or sweep; choose another directory", str(path))
        return dataclasses.replace(old, search=new.search)
    wanted, there = {t.id for t in new.trials}, {t.id for t in old.trials}
    gone = [t for t in old.trials if t.id not in wanted]
    if gone:
        added = len(wanted - there)
        raise UserError(
            "--out",
            f"holds another sweep: {len(gone)} of its {len(there)} runs are not in this spec, such as {gone[0].name}"
            + (f", and {added} of the spec are not in it{_difference(old, gone[0], new)}" if added else "")
            + "; choose another directory",
            str(path),
        )
    cells = {json.dumps(recipe, sort_keys=True): c for c, recipe in enumerate(old.recipes)}
    recipes, shown, trials = list(old.recipes), list(old.cells), list(old.trials)
    for trial in new.trials:
        if trial.id in there:
            continue
        key = json.dumps(new.recipes[trial.cell], sort_keys=True)
        if key not in cells:
            cells[key] = len(recipes)
            recipes.append(new.recipes[trial.cell])
            shown.append(new.cells[trial.cell])
        trials.append(dataclasses.replace(trial, index=len(trials), cell=cells[key]))
    return dataclasses.replace(
        new,
        cells=shown,
        recipes=recipes,
        trials=trials,
        axes=[*old.axes, *(a for a in new.axes if a not in old.axes)],
    )


def _difference(old: Plan, trial: Trial, new: Plan) -> str:
    """Fields in which a run that is gone differs from the nearest one of the new plan."""
    mine = old.recipes[trial.cell]
    best: list[str] | None = None
    for theirs in new.recipes:
        names = sorted(n for n in mine.keys() | theirs.keys() if mine.get(n) != theirs.get(n))
        if best is None or len(names) < len(best):
            best = [f"{n}: {mine.get(n, 'default')} there, {theirs.get(n, 'default')} here" for n in names]
    return f" ({'; '.join(best[:3])})" if best else " (seeds differ)"
