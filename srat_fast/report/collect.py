"""The runs below a directory, each known by its recipe and record."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from srat_fast.errors import UserError, path_errors
from srat_fast.methods import METHODS
from srat_fast.recipe import FIELDS, Recipe, flatten
from srat_fast.record import METRICS, RECIPE, RECORD, is_whole, status_of

#: Folders that are no run and hold none: large ones are not walked through.
_PASSED_OVER = {"checkpoint", "report", "evaluation", "logs"}
CLIP = "optim.clip_norm"
_IDENTITY = tuple(name for name, (_, spec) in FIELDS.items() if spec.identity)
_DEFAULTS = (
    flatten(Recipe())
    | {name: spec.before for name, (_, spec) in FIELDS.items() if spec.before is not None}
    | {CLIP: 0.0}
    | {"eval_attack.threat": Recipe().attack.threat}
    | {name: spec.neutral for name, (_, spec) in FIELDS.items() if spec.neutral is not None}
)


@dataclass(frozen=True)
class Run:
    """One run directory.

    Attributes:
        path: the directory.
        record: content of record.json, with the status of now; {"recipe": ..., "status": "running"} while a first run
            is under way, or "killed".
    """

    path: Path
    record: dict[str, Any]

    @property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe, nested."""
        return self.record["recipe"]

    @property
    def method(self) -> str:
        """A row of the method table."""
        return str(self.recipe["method"])

    @property
    def seed(self) -> int:
        """The training seed."""
        return int(self.recipe["seed"])

    @property
    def finished(self) -> bool:
        """Whether it has accuracies."""
        return self.record.get("status") == "finished"

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The fields that decide what is computed, by dotted name; lists as tuples, the default where an older record
        lacks a field: the run did what the default does."""
        found = {name: self.value(name) for name in _IDENTITY}
        named = [f"{Path(p['path']).name} {p['sha256'][:12]}" for p in self.record.get("plugins", ())]
        return found | ({"plugin": tuple(named)} if named else {})  # by content: names tell no two apart

    def value(self, name: str) -> Any:
        """Any field by its dotted name, as `fields` has those that decide."""
        return _plain(value_of(self.recipe, name, _DEFAULTS[name]))

    @property
    def clips_itself(self) -> bool:
        """Whether `optim.clip_norm` is only what LDAM's scale asks for by itself: no choice of the recipe."""
        base = self.fields["loss.base"]
        if base == "method":
            base = METHODS[self.method].base if self.method in METHODS else None
        return bool(base == "ldam" and self.fields["model.head"] == "linear" and self.fields[CLIP] == 1.0)

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a torn last line is passed over."""
        try:
            text = (self.path / METRICS).read_text(encoding="utf-8")
        except (OSError, ValueError):
            return []
        lines = []
        for line in text.splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                break
            if not isinstance(lines[-1], dict):
                return lines[:-1]
        return lines


def value_of(recipe: dict[str, Any], name: str, default: Any = None) -> Any:
    """A field of a nested recipe by its dotted name; `default` where an older record lacks it."""
    value: Any = recipe
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return default
        value = value[part]
    return value


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def find_runs(directories: Iterable[Path], damaged: list[str] | None = None) -> list[Run]:
    """The given runs and those below the given folders, finished or not, each once, in path order.

    `damaged` receives a line for each run that cannot be read, which is left out then; without it the first is refused.
    """
    found: dict[Path, Run] = {}
    refused: list[UserError] = []
    for directory in directories:
        with path_errors("DIR", directory):
            there = directory.is_dir()
        if not there:
            raise UserError("DIR", "is not a directory", str(directory))
        paths = sorted(_walk(directory))
        if not paths:
            raise UserError("DIR", f"holds no run (no {RECORD} at or below it)", str(directory))
        for path in paths:
            if path.resolve() in found:
                continue
            try:
                found[path.resolve()] = Run(path, _read(path))
            except UserError as error:
                refused.append(error)
    if refused and (damaged is None or not found):
        raise refused[0]
    if damaged is not None:
        damaged += [f"{error.value}: {error.problem}, so it is left out" for error in refused]
    return list(found.values())


def _walk(directory: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(directory):
        if RECORD in files or RECIPE in files:
            yield Path(place)
            folders.clear()
        else:
            folders[:] = [f for f in folders if f not in _PASSED_OVER and not f.startswith(".")]
            links = [
                path for f in folders if (path := Path(place, f)).is_symlink()
            ]  # which os.walk does not follow
            yield from (path for path in links if (path / RECORD).exists())


def _read(path: Path) -> dict[str, Any]:
    """The record; a run that has none yet, or stopped before it had one, is told from its recipe."""
    name = RECORD if os.path.lexists(path / RECORD) else RECIPE
    try:
        content = json.loads((path / name).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError("DIR", f"its {name} cannot be read: {error.strerror}", str(path)) from None
    except (ValueError, RecursionError):
        raise UserError("DIR", f"its {name} is damaged", str(path)) from None
    record = content if name == RECORD else {"recipe": content}
    if not is_whole(record):
        raise UserError("DIR", f"its {name} is damaged", str(path))
    told = {
        key: value for key, value in record.items() if key != "problem"
    }  # it may be of an earlier attempt
    return told | status_of(path, record)
