"""Directory of a sweep: plan.json, a state file per trial, run directories and logs."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from srat_fast import plugins
from srat_fast.data.paths import exclusive
from srat_fast.errors import UserError, path_errors
from srat_fast.recipe import to_toml
from srat_fast.record import RECORD, plain_json, write_atomically
from srat_fast.sweep.claims import Claims, alive
from srat_fast.sweep.plan import Plan, Trial, code_version, make_plan
from srat_fast.sweep.spec import Spec

PLAN, JOURNAL = "plan.json", "search.journal"
#: Folders of a sweep's directory.
FOLDERS = ("runs", "logs", "state", "claims", "recipes")
_FORMAT = 1


class SweepDirectory:
    """The files of one sweep."""

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path, self.plan = path, plan
        self.by_id = {trial.id: trial for trial in plan.trials}

    @classmethod
    def open(cls, path: Path) -> SweepDirectory:
        """The sweep in a directory."""
        try:
            return cls(path, read_plan((path / PLAN).read_bytes(), "DIR", path))
        except (FileNotFoundError, NotADirectoryError):
            raise UserError("DIR", f"is not a sweep: it has no {PLAN}", str(path)) from None
        except OSError as error:
            raise UserError("DIR", f"its {PLAN} cannot be read: {error.strerror}", str(path)) from None

    @classmethod
    def create(
        cls,
        path: Path,
        spec: Spec,
        source: str,
        *,
        other_code: bool = False,
        dry: bool = False,
        check: Callable[[Plan], None] = lambda plan: None,
    ) -> SweepDirectory:
        """The sweep of a spec: new, or the one that is there with the runs that the spec now has in addition; `dry`
        writes nothing, and neither does a bad spec, or a plan of it that `check` refuses."""
        with ExitStack() as lock:
            with path_errors("--out", path, "cannot be written"):
                if path.is_dir() and any(path.iterdir()) and not (path / PLAN).exists():
                    if not all(entry.name.startswith(".") for entry in path.iterdir()):
                        raise UserError(
                            "--out", "is not empty and not a sweep; choose another directory", str(path)
                        )
                elif path.exists() and not path.is_dir():
                    raise UserError("--out", "is not a directory", str(path))
                if not dry:
                    lock.enter_context(exclusive(path / PLAN, option=None))
                old = cls.open(path).plan if (path / PLAN).exists() else None
            sweep = cls(path, _planned(path, spec, source, old, other_code, check))
            if not dry:
                with path_errors("--out", path, "cannot be written"):
                    if sweep.plan != old:
                        write_atomically(path / PLAN, plan_bytes(sweep.plan))
                    for name in FOLDERS:
                        (path / name).mkdir(exist_ok=True)
        return sweep

    def append(self, values: dict[str, Any], fields: dict[str, Any], trial: Trial) -> None:
        """Add a search's suggestion to the plan."""
        self.plan.cells.append(values)
        self.plan.recipes.append(fields)
        self.plan.trials.append(trial)
        self.by_id[trial.id] = trial
        with exclusive(self.path / PLAN, option=None):
            write_atomically(self.path / PLAN, plan_bytes(self.plan))

    def run(self, trial: Trial) -> Path:
        """A trial's run directory."""
        return self.path / "runs" / trial.name

    def log(self, trial: Trial) -> Path:
        """What a trial printed, all attempts after one another."""
        return self.path / "logs" / f"{trial.id}.txt"

    def write_recipe(self, trial: Trial) -> Path:
        """The recipe that a trial's process reads."""
        path = self.path / "recipes" / f"{trial.id}.toml"
        for entry in self.plan.plugins:
            copy = path.parent / plugins.copy_name(entry["path"])
            copy.parent.mkdir(exist_ok=True)
            write_atomically(copy, entry["text"].encode())
        write_atomically(path, to_toml(self.plan.recipe(trial), copies=True).encode())
        return path

    def state_path(self, trial: Trial) -> Path:
        """Where a trial's state lies."""
        return self.path / "state" / f"{trial.id}.json"

    def state(self, trial: Trial) -> dict[str, Any]:
        """What the drivers know of a trial; queued, without attempts, where nothing or nothing whole is written."""
        try:
            with open(self.state_path(trial), "rb") as file:
                state = json.loads(file.read())
        except (OSError, ValueError):
            state = None
        return state if _is_whole(state) else {"status": "queued", "attempts": []}

    def write_state(self, trial: Trial, state: dict[str, Any]) -> None:
        """Keep what is known of a trial; its claim's holder does."""
        text = json.dumps(plain_json(state), allow_nan=False)
        write_atomically(self.state_path(trial), text.encode())

    def record(self, trial: Trial) -> dict[str, Any] | None:
        """A trial's record.json; None where there is none, or half of one."""
        try:
            record = json.loads((self.run(trial) / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) else None


def _is_whole(state: Any) -> bool:
    """Whether what a state's file holds is one."""
    if not isinstance(state, dict) or not isinstance(state.get("attempts"), list):
        return False
    running = state.get("running")
    return (
        state.get("status") in ("queued", "running", "done", "failed", "pruned")
        and all(isinstance(attempt, dict) and "kind" in attempt for attempt in state["attempts"])
        and (isinstance(running, dict) or (running is None and state["status"] != "running"))
    )


def plan_bytes(plan: Plan) -> bytes:
    """A plan as its file has it."""
    content = dataclasses.asdict(plan) | {"format": _FORMAT}
    content["trials"] = [list(vars(trial).values()) for trial in plan.trials]
    return json.dumps(plain_json(content), allow_nan=False).encode()


def read_plan(content: bytes, option: str, path: Path) -> Plan:
    """The plan in a file's bytes; `option` and `path` are for the message where it is none."""
    try:
        tree = json.loads(content)
        if tree["format"] != _FORMAT:
            raise UserError(option, f"its plan has format {tree['format']}, not {_FORMAT}", str(path))
        fields = {name: tree[name] for name in tree if name not in ("format", "trials")}
        return Plan(trials=[Trial(*row) for row in tree["trials"]], **fields)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(option, f"its {PLAN} is damaged", str(path)) from None


def _planned(
    path: Path, spec: Spec, source: str, old: Plan | None, other_code: bool, check: Callable[[Plan], None]
) -> Plan:
    """The plan of a spec, joined to the old one of its directory."""
    if old is None:
        plan = make_plan(spec, source)
        check(plan)
        return plan
    if not other_code:
        require_code(old, "--out", path)
    plan = make_plan(spec, source, old.code, old)
    check(plan)
    return continued(old, plan, path)


def require_code(plan: Plan, option: str, path: Path) -> None:
    """Refuse a plan that another version of the code made."""
    code = code_version()
    if plan.code != code:
        raise UserError(
            option,
            f"its plan was made by code {plan.code}, this is {code}: runs of both would stand in one "
            "table; choose another directory, or --other-code to go on",
            str(path),
        )


def _rooted(fields: dict[str, Any], source: dict[str, Any]) -> dict[str, Any]:
    """A recipe's fields with the directory of images of another's: it may have moved, or be another machine's."""
    return fields | {name: source[name] for name in ("data.root",) if name in source}


def continued(old: Plan, new: Plan, path: Path) -> Plan:
    """The old plan with the new one's additional runs; its indices stay."""
    if old.search is not None or new.search is not None:
        same = [[entry["sha256"] for entry in plan.plugins] for plan in (old, new)]
        if (
            old.search is None or new.search is None or not _same_search(old.search, new.search)
            or same[0] != same[1]
        ):  # fmt: skip
            raise UserError("--out", "holds another search or sweep; choose another directory", str(path))
        recipes = [_rooted(fields, new.search["base"]) for fields in old.recipes]
        return dataclasses.replace(old, search=new.search, recipes=recipes, gpus_per_trial=new.gpus_per_trial)
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
    recipes, shown, trials = list(old.recipes), list(old.cells), list(old.trials)
    places = {t.id: t.cell for t in old.trials}
    for trial in new.trials:
        if trial.id in there:
            cell = places[trial.id]
            recipes[cell] = _rooted(recipes[cell], new.recipes[trial.cell])
    cells = {json.dumps(recipe, sort_keys=True): c for c, recipe in enumerate(recipes)}
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


def _same_search(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether a search is another with more trials, of images that may lie elsewhere."""
    known = {"trials": 0}
    return old | known | {"base": _rooted(old["base"], new["base"])} == new | known


def _difference(old: Plan, trial: Trial, new: Plan) -> str:
    """Fields in which a run that is gone differs from the nearest one of the new plan."""
    mine = old.recipes[trial.cell]
    best: list[str] | None = None
    for theirs in new.recipes:
        names = sorted(n for n in mine.keys() | theirs.keys() if mine.get(n) != theirs.get(n))
        if best is None or len(names) < len(best):
            best = [f"{n}: {mine.get(n, 'default')} there, {theirs.get(n, 'default')} here" for n in names]
    return f" ({'; '.join(best[:3])})" if best else " (seeds differ)"


def _chosen(sweep: SweepDirectory, wanted: list[str]) -> list[Trial]:
    trials = []
    for text in wanted:
        found = sweep.by_id.get(text)
        if found is None and text.isdecimal() and int(text) < len(sweep.plan.trials):
            found = sweep.plan.trials[int(text)]
        if found is None:
            raise UserError("TRIAL", "an id or an index of this sweep (sweep status --all)", text)
        trials.append(found)
    return list(dict.fromkeys(trials))


def requeue(directory: Path, wanted: list[str], fresh: bool) -> list[str]:
    """Queue trials (ids or indices; none for all failed ones) again, `fresh` from their first epoch; a line each."""
    sweep = SweepDirectory.open(directory)
    trials = _chosen(sweep, wanted) or [t for t in sweep.plan.trials if sweep.state(t)["status"] == "failed"]
    with path_errors("DIR", directory, "cannot be written"):
        claims = Claims(directory / "claims")
        try:
            for (
                trial
            ) in trials:  # of all, before any is changed; one may still be saving after its driver's death
                if not claims.take(trial.id) or alive(sweep.state(trial).get("running") or {}):
                    raise UserError("TRIAL", "is running", trial.name)
            return [_requeued(sweep, trial, fresh) for trial in trials] or ["no trial has failed"]
        finally:
            claims.close()


def _requeued(sweep: SweepDirectory, trial: Trial, fresh: bool) -> str:
    """Queue a trial that is claimed, and say so."""
    state, record, run = sweep.state(trial), sweep.record(trial), sweep.run(trial)
    if record is not None and record.get("status") == "finished" and not fresh:
        return f"{trial.name} is finished; --fresh runs it again"
    if run.is_symlink():  # to a run of another sweep, which keeps it
        run.unlink()
    elif fresh and run.exists():
        aside = sweep.path / "aside"
        aside.mkdir(exist_ok=True)
        number = sum(entry.name.startswith(trial.name) for entry in aside.iterdir())
        moved = aside / f"{trial.name}.{number}"
        os.replace(run, moved)
        if (moved / RECORD).exists():  # a report over the sweep must not count it
            os.replace(moved / RECORD, moved / f"{RECORD}.old")
    earlier = [*state.get("earlier", []), *state["attempts"]]
    sweep.write_state(trial, {"status": "queued", "attempts": [], "earlier": earlier})
    return f"{trial.name} is queued again"
