"""Checkpoints as verified files that are whole or not there.

checkpoint/<epoch>-<batch>/ holds its files and manifest.json with the SHA-256 of each. It is written under a temporary
name, fsynced, renamed, and read back before an older one goes; the two newest stay.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srat_fast.errors import DiskFull, TrainingFailure, UserError, is_full
from srat_fast.record import sync

#: Layout and meaning of the files; a change of either counts up, and `SCHEMAS` says what is still read.
SCHEMA = 1
SCHEMAS = (1,)
MANIFEST = "manifest.json"
KEPT = 2
_TEMPORARY = ".tmp-"


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint.

    Attributes:
        name: of its directory.
        about: what `save` was told of it.
        files: name -> content, as it was hashed.
    """

    name: str
    about: dict[str, Any]
    files: dict[str, bytes]


@dataclass(frozen=True)
class Saved:
    """What a save took.

    Attributes:
        name: of the checkpoint.
        bytes: written.
        seconds: serialised files to verified directory.
    """

    name: str
    bytes: int
    seconds: float


class Damaged(Exception):
    """A checkpoint that is not what was saved.

    Args:
        problem: which file, and how.
    """


class Checkpoints:
    """The checkpoints of one run, which one process writes at a time.

    Args:
        directory: made by the first save.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def save(self, name: str, files: dict[str, bytes], about: dict[str, Any]) -> Saved:
        """Write a checkpoint; the ones before it stay until it has been read back."""
        started = time.perf_counter()
        final, temporary = self.directory / name, self.directory / f"{_TEMPORARY}{name}"
        sums = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
        sizes = {file: len(content) for file, content in files.items()}
        manifest = {"schema": SCHEMA, "sha256": sums, "bytes": sizes} | about
        manifest["self"] = _digest(manifest)
        text = json.dumps(manifest, indent=1, allow_nan=False).encode()
        total = sum(sizes.values()) + len(text)
        try:
            if not self.directory.exists():
                self.directory.mkdir()
                _sync_directory(self.directory.parent)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            for file, content in (files | {MANIFEST: text}).items():
                _write_through(temporary / file, content)
            _sync_directory(temporary)
            if final.exists():
                self._drop(final)
            os.rename(temporary, final)
            _sync_directory(self.directory)
            read(final)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            failure = DiskFull if is_full(error) else TrainingFailure
            raise failure(self._unwritten(error, total)) from None
        except Damaged as error:
            self._drop(final)
            raise TrainingFailure(
                f"the checkpoint {final} is not what was written ({error}); the disk may be failing. {self._left()}"
            ) from None
        for old in self._names()[:-KEPT]:
            self._drop(self.directory / old)
        return Saved(name, total, time.perf_counter() - started)

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest checkpoint that is what was saved; leftovers of interrupted saves are removed."""
        if not self.directory.is_dir():
            return None, []
        for leftover in self.directory.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        problems: list[str] = []
        for name in reversed(self._names()):
            try:
                found = read(self.directory / name)
            except Damaged as error:
                problems.append(f"{name}: {error}")
                continue
            for newer in problems:
                self._drop(self.directory / newer.partition(":")[0])
            return found, problems
        if problems:
            raise UserError(
                "--resume",
                f"every checkpoint is damaged ({'; '.join(problems)}); remove the directory to begin again",
                str(self.directory),
            )
        return None, []

    def remove(self) -> None:
        """Remove all of them: the run is finished."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _names(self) -> list[str]:
        return sorted(p.name for p in self.directory.iterdir() if p.is_dir() and not p.name.startswith("."))

    def _drop(self, path: Path) -> None:
        """Remove a checkpoint so that no half of it can be taken for a whole."""
        grave = self.directory / f"{_TEMPORARY}old-{path.name}"
        shutil.rmtree(grave, ignore_errors=True)
        os.rename(path, grave)
        shutil.rmtree(grave, ignore_errors=True)

    def _left(self) -> str:
        names = self._names() if self.directory.is_dir() else []
        return f"the one before it ({names[-1]}) is intact" if names else "there is no other checkpoint"

    def _unwritten(self, error: OSError, total: int) -> str:
        if not is_full(error):
            return f"a checkpoint cannot be written to {self.directory}: {error.strerror}; {self._left()}"
        return (
            f"the disk is full: a checkpoint of {total:,} bytes does not fit in {self.directory} "
            f"({shutil.disk_usage(self.directory.parent).free:,} bytes are free); {self._left()}: make room and go on "
            "with --resume"
        )


def read(path: Path) -> Checkpoint:
    """Read a checkpoint into memory and compare it with its manifest."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        if manifest.pop("self") != _digest(manifest):
            raise ValueError
        schema, sums, sizes = (manifest.pop(key) for key in ("schema", "sha256", "bytes"))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise Damaged(f"{MANIFEST} is missing or damaged") from None
    if schema not in SCHEMAS:
        raise UserError(
            "--resume",
            f"its schema is {schema!r} and this version reads {', '.join(map(str, SCHEMAS))}; finish the run with the "
            "version that began it",
            str(path),
        )
    files = {}
    for name, expected in sums.items():
        try:
            content = (path / name).read_bytes()
        except OSError as error:
            raise Damaged(f"{name}: {error.strerror}") from None
        if len(content) != sizes[name]:
            raise Damaged(f"{name} has {len(content):,} bytes instead of {sizes[name]:,}")
        if hashlib.sha256(content).hexdigest() != expected:
            raise Damaged(f"{name} does not have the SHA-256 that was saved")
        files[name] = content
    return Checkpoint(path.name, manifest, files)


def _digest(manifest: dict[str, Any]) -> str:
    """SHA-256 of the manifest's content, so that a flipped bit in it is seen too."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _write_through(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        sync(file)


def _sync_directory(path: Path) -> None:
    """A rename is on the disk only when its directory is."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
