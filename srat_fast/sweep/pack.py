"""A sweep in one file without weights: packed on one machine, verified and merged with other parts on another.

A zip archive of the plan, each trial's state, and what tables and reports read of its run. Where on their machine the
images were (`data.root`) is left out but for the last name: it is no part of a result.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from srat_fast.data.paths import exclusive
from srat_fast.errors import UserError, path_errors
from srat_fast.record import CHECKPOINT, LOCK, METRICS, RECIPE, RECORD, SAMPLES, umask, write_atomically
from srat_fast.sweep.claims import Claims
from srat_fast.sweep.directory import FOLDERS, JOURNAL, PLAN, SweepDirectory, continued, plan_bytes, read_plan
from srat_fast.sweep.plan import Plan, Trial

MANIFEST = "manifest.json"
_FORMAT = 1
#: Files of a run that are packed: what `sweep table` and `report` read. The lock says that its process was killed.
_KEPT = re.compile(
    rf"{re.escape(RECIPE)}|{re.escape(RECORD)}|{re.escape(METRICS)}|{re.escape(SAMPLES)}|{re.escape(LOCK)}"
    r"|analysis(-[a-z]+)*\.json|features(-[a-z]+)*\.npz"
)
_ID, _NAME = re.compile(r"[0-9a-f]{12}"), re.compile(r"[A-Za-z0-9_=+-][A-Za-z0-9._=+-]{0,200}")
#: Bytes of a file in an archive, and of all of them.
LARGEST, LARGEST_SUM = 256 * 2**20, 2**30
#: What a damaged archive raises inside of zipfile.
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, struct.error)


def pack(directory: Path, out: Path | None = None) -> tuple[Path, int, int]:
    """Write a sweep, finished or not, into one file: (its path, runs in it, bytes)."""
    sweep = SweepDirectory.open(directory)
    place = Path(os.path.abspath(directory))
    out = place.with_name(f"{place.name}.zip") if out is None else out
    buffer, runs, total = io.BytesIO(), set(), 0
    files: dict[str, str] = {}  # name -> SHA-256
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:

        def add(name: str, content: bytes) -> None:
            nonlocal total
            total += len(content)
            if len(content) > LARGEST or total > LARGEST_SUM:
                raise UserError("DIR", f"{name} is too large for an archive", str(directory))
            files[name] = hashlib.sha256(content).hexdigest()
            _add(archive, name, content)

        add(PLAN, plan_bytes(_without_places(sweep.plan)))
        if (directory / JOURNAL).exists():
            add(JOURNAL, (directory / JOURNAL).read_bytes())
        for trial in sweep.plan.trials:
            if sweep.state_path(trial).exists():
                state = {name: value for name, value in sweep.state(trial).items() if name != "running"}
                # its process is not where this goes
                state |= {"status": "queued"} if state["status"] == "running" else {}
                add(f"state/{trial.id}.json", json.dumps(state).encode())
            for name, content in _contents(sweep, trial):
                runs.add(trial.id)
                add(f"runs/{trial.name}/{name}", content)
        _add(archive, MANIFEST, json.dumps({"format": _FORMAT, "files": files}, indent=1).encode())
    try:
        write_atomically(out, buffer.getvalue())
    except OSError as error:
        raise UserError("--out", f"cannot be written: {error.strerror}", str(out)) from None
    return out, len(runs), len(buffer.getvalue())


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """One file, of no date: equal sweeps give equal archives."""
    info = zipfile.ZipInfo(name)
    info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    archive.writestr(info, content)


def _contents(sweep: SweepDirectory, trial: Trial) -> Iterator[tuple[str, bytes]]:
    """The files of a run that are kept, by name."""
    run = sweep.run(trial)
    names = sorted(name for name in os.listdir(run) if _KEPT.fullmatch(name)) if run.is_dir() else []
    for name in names:
        try:
            content = (run / name).read_bytes()
        except FileNotFoundError:  # a lock that was just given back
            continue
        except OSError as error:
            raise UserError("DIR", f"cannot be read: {error.strerror}", str(run / name)) from None
        if name == LOCK:
            content = b""
        elif name == METRICS:
            content = content[: content.rfind(b"\n") + 1]  # without a line that is just being written
        elif name in (RECIPE, RECORD):
            content = _without_place(content)
        yield name, content


def _without_place(content: bytes) -> bytes:
    """A recipe or record without the directory of the images; one that has none, or a damaged one, as it is."""
    try:
        tree = json.loads(content)
        data = tree.get("recipe", tree)["data"]
        if data["root"] == PurePath(data["root"]).name:
            return content
        data["root"] = PurePath(data["root"]).name
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return content
    return (json.dumps(tree, indent=2) + "\n").encode()


def _without_places(plan: Plan) -> Plan:
    def short(fields: dict[str, Any]) -> dict[str, Any]:
        return {k: PurePath(str(v)).name if k == "data.root" else v for k, v in fields.items()}

    search = plan.search and plan.search | {"base": short(plan.search["base"])}
    return replace(plan, recipes=[short(fields) for fields in plan.recipes], search=search)


class _Archive:
    """A packed sweep, of which nothing is believed that has not been verified."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, str] = {}  # name -> SHA-256
        with self._errors():
            self._zip = zipfile.ZipFile(path)

    def __enter__(self) -> _Archive:
        return self

    def __exit__(self, *raised: object) -> None:
        self._zip.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What the system says of the file, or zipfile of its bytes, as one line."""
        try:
            yield
        except OSError as error:
            raise self._wrong(f"cannot be read: {error.strerror or error}") from None
        except _DAMAGED as error:
            raise self._wrong(f"is not a packed sweep, or damaged: {error}") from None

    def _wrong(self, problem: str) -> UserError:
        return UserError("FILE", problem, str(self.path))

    def verify(self) -> None:
        """Refuse it unless every file is one of a sweep, inside of its directory, of bounded size and undamaged."""
        infos = self._zip.infolist()
        names = {info.filename for info in infos}
        if len(names) < len(infos):
            raise self._wrong("is damaged: a name is there twice")
        if not {MANIFEST, PLAN} <= names:
            raise self._wrong(f"is not a packed sweep: it has no {MANIFEST} or no {PLAN}")
        if sum(info.file_size for info in infos) > LARGEST_SUM:
            raise self._wrong("is too large for a packed sweep")
        self.files = self._manifest()
        if self.files.keys() != names - {MANIFEST}:
            raise self._wrong("is damaged: its files are not those that its manifest names")
        folders, states = self._places(read_plan(self.read(PLAN), "FILE", self.path))
        for name in self.files:
            folder, _, file = name.rpartition("/")
            of_a_run = folder in folders and _KEPT.fullmatch(file) is not None
            if not (of_a_run or name in states or name in (PLAN, JOURNAL)):
                raise self._wrong(f"holds {name[:200]!r}, which is no file of a sweep")
            content = self.read(name)
            if name.endswith(".json"):
                self._parsed(content, name)

    def _manifest(self) -> dict[str, str]:
        """Name -> SHA-256 of the files."""
        tree = self._parsed(self.read(MANIFEST), MANIFEST)
        if tree.get("format") != _FORMAT:
            raise self._wrong(f"has format {tree.get('format')}, not {_FORMAT}")
        files = tree.get("files")
        if not isinstance(files, dict):
            raise self._wrong(f"is damaged: its {MANIFEST} names no files")
        return {name: str(checksum) for name, checksum in files.items()}

    def _parsed(self, content: bytes, name: str) -> dict[str, Any]:
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise self._wrong(f"is damaged: {name[:200]!r} is no JSON object")
        return found

    def _places(self, plan: Plan) -> tuple[set[str], set[str]]:
        """Folders of the plan's runs, and names of their states; a plan with names that lead elsewhere is refused."""
        folders, states = set(), set()
        try:
            for trial in plan.trials:
                if not (_ID.fullmatch(trial.id) and _NAME.fullmatch(trial.name)):
                    raise self._wrong(
                        f"has a run named {trial.name[:200]!r}; letters, digits and ._=+- are allowed"
                    )
                folders.add(f"runs/{trial.name}")
                states.add(f"state/{trial.id}.json")
            self._check_plugins(plan)
            plan.cell_recipes()
        except (TypeError, ValueError, IndexError, KeyError, AttributeError):
            raise self._wrong(f"is damaged: its {PLAN} is none") from None
        return folders, states

    def _check_plugins(self, plan: Plan) -> None:
        """Refuse a plan whose recipes name other code than it holds: reading a recipe would run that file."""
        held = set()
        for entry in plan.plugins:
            path = str(Path(entry["path"]).expanduser().absolute())
            if path != entry["path"] or hashlib.sha256(entry["text"].encode()).hexdigest() != entry["sha256"]:
                raise self._wrong(f"is damaged: the plug-in {entry['path'][:200]!r} is another")
            held.add(path)
        searched = [] if plan.search is None else [plan.search["base"]]
        for fields in [*plan.recipes, *plan.cells, *searched]:
            if not held.issuperset(fields.get("plugin", ())):
                raise self._wrong("names plug-ins that it does not hold")

    def read(self, name: str) -> bytes:
        """A file's content, by its checksum the one that was packed."""
        info = self._zip.getinfo(name)
        if info.file_size > LARGEST or info.compress_type != zipfile.ZIP_DEFLATED or info.flag_bits & 1:
            raise self._wrong(
                f"is damaged: {name[:200]!r} is larger, or stored otherwise, than files of a sweep"
            )
        with self._errors(), self._zip.open(info) as file:
            content = file.read(LARGEST + 1)
        if name != MANIFEST and hashlib.sha256(content).hexdigest() != self.files[name]:
            raise self._wrong(f"is damaged: the checksum of {name[:200]!r} is another")
        return content


def unpack(path: Path, directory: Path) -> tuple[int, int]:
    """Write a packed sweep into a directory: a new one, or one that has runs of the same sweep, which stay.

    (runs that were added or completed, runs that were there). Nothing is written where the file is damaged, or where
    both have a run that finished and they differ.
    """
    directory = Path(os.path.abspath(directory))
    with _Archive(path) as archive, path_errors("DIR", directory, "cannot be written"):
        archive.verify()
        known = (directory / PLAN).exists()
        if directory.exists() and not directory.is_dir():
            raise UserError("DIR", "is not a directory", str(directory))
        if directory.is_dir() and not known and any(directory.iterdir()):
            raise UserError("DIR", "is not empty and not a sweep; choose another directory", str(directory))
        made = [place for place in directory.parents if not place.exists()]
        directory.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
        try:
            for folder in FOLDERS:
                (staged / folder).mkdir()
            for name in archive.files:
                content = archive.read(name)
                (staged / name).parent.mkdir(exist_ok=True)
                (staged / name).write_bytes(content)
            found = SweepDirectory.open(staged)
            if known:
                return _merge(found, directory)
            staged.chmod(0o777 & ~umask())
            os.replace(staged, directory)
        except BaseException:
            if not known and made and not directory.exists():
                shutil.rmtree(made[-1])
            raise
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    return sum(1 for trial in found.plan.trials if (directory / "runs" / trial.name).is_dir()), 0


def _merge(new: SweepDirectory, directory: Path) -> tuple[int, int]:
    """Move the runs of an unpacked sweep into a directory that has the sweep; all conflicts are found before."""
    with exclusive(directory / PLAN, option=None):
        old = SweepDirectory.open(directory)
        plan = _joint(old.plan, new.plan, directory)
        merged = SweepDirectory(directory, plan)
        taken = [trial for trial in new.plan.trials if _is_taken(new, trial, merged)]
        there = sum(new.run(trial).exists() for trial in new.plan.trials) - len(taken)
        journal = (directory / JOURNAL, new.path / JOURNAL)
        if all(file.exists() for file in journal) and journal[0].read_bytes() != journal[1].read_bytes():
            raise UserError(
                "DIR", "has the same search, continued otherwise; choose another directory", str(directory)
            )
        claims = Claims(directory / "claims")
        try:
            for trial in taken:
                if not claims.take(trial.id):
                    raise UserError("DIR", f"{trial.name} is being run there", str(directory))
            if plan != old.plan:
                write_atomically(directory / PLAN, plan_bytes(plan))
            for trial in taken:
                run = merged.run(merged.by_id[trial.id])
                if run.exists():  # unfinished, and without a checkpoint
                    os.replace(run, new.path / f"replaced-{trial.id}")
                os.replace(new.run(trial), run)
            for trial in new.plan.trials:
                state = new.state_path(trial)
                if state.exists() and (trial in taken or not merged.state_path(trial).exists()):
                    (directory / "state").mkdir(exist_ok=True)
                    os.replace(state, merged.state_path(trial))
            if journal[1].exists() and not journal[0].exists():
                os.replace(journal[1], journal[0])
        finally:
            claims.close()
    return len(taken), there


def _joint(old: Plan, new: Plan, directory: Path) -> Plan:
    """The plan of both: the longer one, where it has all runs of the other."""
    mine, theirs = {t.id for t in old.trials}, {t.id for t in new.trials}
    if theirs <= mine:
        return old
    if old.code != new.code or old.search is not None or not mine <= theirs:
        alone = len(theirs - mine)
        raise UserError(
            "DIR",
            f"holds another sweep: {alone} of the {len(theirs)} runs in FILE are not in it",
            str(directory),
        )
    return continued(old, new, directory)


def _is_taken(new: SweepDirectory, trial: Trial, old: SweepDirectory) -> bool:
    """Whether a run of `new` is to be put into `old`: it is not there, or less far; a conflict is refused."""
    source, target = new.run(trial), old.run(old.by_id[trial.id])
    if not source.exists():
        return False
    if not target.exists():
        return True
    if target.is_symlink():
        return False  # to a run of another sweep, which keeps it
    records = [_finished(run) for run in (source, target)]
    resumable = (target / CHECKPOINT).exists()
    if None not in records and records[0] != records[1]:
        problem = "finished there with other results than in FILE; unpack into another directory"
    elif records[0] is not None and records[1] is None and resumable:
        problem = "has a checkpoint there and is finished in FILE; unpack into another directory, or go on"
    else:
        if records[1] is not None or resumable:
            return False
        return records[0] is not None or _epochs(source) > _epochs(target)
    raise UserError("DIR", f"{trial.name} {problem}", str(old.path))


def _finished(run: Path) -> dict[str, Any] | None:
    """The record of a finished run, as it is packed."""
    try:
        record = json.loads(_without_place((run / RECORD).read_bytes()))
        return record if record["status"] == "finished" else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _epochs(run: Path) -> int:
    metrics = run / METRICS
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0
