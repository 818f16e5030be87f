"""The run directory: recipe.json, metrics.jsonl, record.json, weights, and the lock of its writer."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from srat_fast import plugins
from srat_fast.errors import InUse, UserError, path_errors, require_text

RECIPE, METRICS, RECORD = "recipe.json", "metrics.jsonl", "record.json"
#: Weights of the last epoch, of the best epoch by validation, and their moving average.
MODEL, BEST, EMA = "model.safetensors", "best.safetensors", "ema.safetensors"
#: `--weights` -> file of the run.
WEIGHTS = {"last": MODEL, "best": BEST, "ema": EMA}
#: State to continue from, while a run is not finished; and what keeps a second process out of its directory.
CHECKPOINT, LOCK = "checkpoint", ".lock"
_LOCK_TRIES = 5
#: A run of another host, whose lock may not be seen from here, counts as running until it was silent for so long.
_SILENT = 24 * 3600.0
#: How a run directory is taken up again: there must be a run in it (`--resume`), or there may be (`--resume auto`).
MUST, AUTO = "must", "auto"
#: A few test images with their adversarial examples, for reports.
SAMPLES = "samples.npz"
_PACKAGES = ("srat-fast", "torch", "triton", "numpy", "pillow", "safetensors", "scikit-learn", "pyautoattack")


def sync(file: IO[bytes]) -> None:
    """Wait until every byte of an open file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            sync(file)
        os.chmod(temporary, 0o666 & ~umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def umask() -> int:
    """Of this process."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def plain_json(value: Any) -> Any:
    """`value` with what JSON cannot hold (NaN, infinities) as null, and tuples as lists."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item) for item in value]
    return value


class RunDirectory:
    """A run's directory: made empty, filled as the run goes, removed if the run never began.

    Args:
        path: the directory; `create`, `reopen` or `open` decide whether it must be new, begun or complete.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made: Path | None = None
        self._begun = False
        self._lock: int | None = None

    @classmethod
    def create(cls, path: Path) -> RunDirectory:
        """A new, empty run directory, locked."""
        require_text("--out", str(path))
        run = cls(path)
        with path_errors("--out", path, "cannot be written"):
            _refuse_content(path)
            missing = [p for p in (path, *path.parents) if not p.exists()]
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
            run._take_lock()
        except OSError as error:
            run._made = missing[-1] if missing else None
            run.discard()
            raise UserError("--out", f"cannot be written: {error.strerror}", str(path)) from None
        run._made = missing[-1] if missing else None
        try:
            _refuse_content(path)  # again: another process may have begun in between
        except UserError:
            run.release()
            raise
        return run

    @classmethod
    def reopen(cls, path: Path) -> RunDirectory:
        """A run that has begun, to be continued; locked."""
        run = cls(path)
        run._begun = True
        with path_errors("--out", path):
            there = (path / RECIPE).is_file()
        if not there:
            raise UserError("--resume", f"there is no run to continue: no {RECIPE}", str(path))
        try:
            run._take_lock()
        except OSError as error:
            raise UserError("--out", f"cannot be written: {error.strerror}", str(path)) from None
        for leftover in (
            p for name in (RECIPE, METRICS, RECORD, MODEL, BEST, EMA) for p in path.glob(f".{name}.*")
        ):
            leftover.unlink()  # of a process that was killed while it wrote
        return run

    @classmethod
    def beside(cls, path: Path) -> RunDirectory:
        """A run's directory in a process that leaves writing to another: it has no lock, and discards nothing."""
        run = cls(path)
        run._begun = True
        return run

    def _take_lock(self) -> None:
        """Hold the directory until `release` or the end of the process (the lock is the kernel's)."""
        file, tries = self.path / LOCK, 0
        while True:
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # a holder removes the file when it ends: the lock counts only on the file that is there now
                if file.exists() and os.stat(file).st_ino == os.fstat(handle).st_ino:
                    os.truncate(handle, 0)
                    os.write(handle, socket.gethostname().encode())
                    self._lock = handle
                    return
            except BlockingIOError:
                os.close(handle)
                if (tries := tries + 1) < _LOCK_TRIES:  # `status_of` has it for a moment when it looks
                    time.sleep(0.05)
                    continue
                raise InUse("--out", "another process is training in it", str(self.path)) from None
            except FileNotFoundError:
                pass
            except OSError:
                os.close(handle)
                raise
            os.close(handle)

    def release(self) -> None:
        """Let other processes into the directory; may be called twice."""
        if self._lock is not None:
            # a run that could not put its end on record leaves the file, as a killed one does: see `status_of`
            if (self.path / RECORD).exists() or not (self.path / RECIPE).exists():
                (self.path / LOCK).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    @classmethod
    def open(cls, path: Path, option: str = "RUN") -> RunDirectory:
        """An existing run."""
        run = cls(path)
        for name in (RECIPE, MODEL):
            with path_errors(option, path):
                if not (path / name).is_file():
                    raise UserError(option, f"is not a finished run: {run._lacks(name)}", str(path))
        return run

    def _lacks(self, name: str) -> str:
        """Why a directory without one of a run's files is no finished run."""
        if not self.path.exists():
            return "it does not exist"
        if name == RECIPE:
            runs = sorted(file.parent for file in self.path.glob(f"*/{RECIPE}"))
            return f"it holds runs, such as {runs[0]}" if runs else f"it has no {name}"
        record = None
        with contextlib.suppress(UserError):
            record = self.read_json(RECORD)
        status = status_of(self.path, record)
        return f"it has no {name}" + (
            f"; {status['status']}: {status['problem']}" if "problem" in status else ""
        )

    def discard(self) -> None:
        """Remove what `create` made, and release: for runs that fail before their first epoch; one begun stays."""
        if self.path.is_dir() and not self._begun:
            for name in (RECIPE, METRICS):
                (self.path / name).unlink(missing_ok=True)
            for events in self.path.glob("events.out.tfevents.*"):
                events.unlink()
            shutil.rmtree(self.path / plugins.FOLDER, ignore_errors=True)
        self.release()
        if self._made is not None:
            shutil.rmtree(self._made, ignore_errors=True)

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write `content` to `name`, atomically; NaN becomes null."""
        text = json.dumps(plain_json(content), indent=2, allow_nan=False) + "\n"
        write_atomically(self.path / name, text.encode())

    def read_json(self, name: str) -> dict[str, Any]:
        """The content of a JSON file of the run."""
        try:
            content = json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError("RUN", f"has no {name}", str(self.path)) from None
        except OSError as error:
            raise UserError("RUN", f"its {name} cannot be read: {error.strerror}", str(self.path)) from None
        except (ValueError, RecursionError):
            raise UserError("RUN", f"its {name} is damaged", str(self.path)) from None
        if not isinstance(content, dict):
            raise UserError("RUN", f"its {name} is damaged", str(self.path))
        return content

    def read_recipe(self) -> dict[str, Any]:
        """recipe.json, its plug-ins as files that this process was given: what is found in a run is not run."""
        record = self.read_json(RECORD) if os.path.lexists(self.path / RECORD) else {}
        return plugins.of_run(self.path, self.read_json(RECIPE), record)

    def write_plugins(self, paths: Sequence[str]) -> None:
        """Keep a copy of each plug-in, as it was when this process loaded it."""
        for path in paths:
            copy = self.path / plugins.copy_name(path)
            copy.parent.mkdir(exist_ok=True)
            write_atomically(copy, plugins.loaded(path).content)

    def read_weights(self, weights: str) -> bytes:
        """A weights file ("last", "best" or "ema"), refused where it is not the one that the record was written with.

        Records of earlier versions, and runs that have none yet, do not say.
        """
        file = self.path / WEIGHTS[weights]
        try:
            content = file.read_bytes()
        except OSError as error:
            raise UserError(
                "RUN", f"its {file.name} cannot be read: {error.strerror}", str(self.path)
            ) from None
        record = self.read_json(RECORD) if os.path.lexists(self.path / RECORD) else {}
        recorded = (record.get("weights_checksums") or {}).get(weights)
        found = hashlib.sha256(content).hexdigest()
        if recorded not in (None, found):
            raise UserError(
                "RUN",
                f"its {file.name} is not the one that its {RECORD} is of: damaged, or another run's "
                f"(SHA-256 {found[:12]}..., recorded {recorded[:12]}...)",
                str(self.path),
            )
        return content

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Add one epoch to metrics.jsonl."""
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain_json(line), allow_nan=False) + "\n")

    def metrics(self) -> bytes:
        """metrics.jsonl as it is."""
        file = self.path / METRICS
        return file.read_bytes() if file.exists() else b""

    def set_metrics(self, content: bytes) -> None:
        """Put metrics.jsonl back to an earlier state: epochs that are undone and a torn last line go."""
        if content:
            write_atomically(self.path / METRICS, content)
        else:
            (self.path / METRICS).unlink(missing_ok=True)


def _refuse_content(path: Path) -> None:
    """Refuse a directory that holds anything but what a run leaves that was killed before it wrote its recipe."""
    if (path / RECIPE).exists():
        raise UserError(
            "--out", "already holds a run; --resume continues it, or choose another directory", str(path)
        )
    if path.is_dir():
        names = {p.name for p in path.iterdir()}
        if any(n != LOCK and not n.startswith((f".{RECIPE}.", "events.out.tfevents.")) for n in names):
            raise UserError("--out", "is not empty; choose another directory or remove it", str(path))


def status_of(path: Path, record: dict[str, Any] | None) -> dict[str, str]:
    """`status`, and `problem` where there is one, of the run in a directory: what its record says, or its lock.

    A process that a signal ends (SIGKILL, SIGSEGV) writes no record, but leaves its lock file, and the kernel gives the
    lock back: "killed". A held lock means "running". Where a file system does not show locks to other hosts, a run of
    another host counts as running until nothing has been written for `_SILENT` seconds.
    """
    if record is not None and record.get("status") == "finished":
        return {"status": "finished"}
    said = {name: str((record or {}).get(name) or "") for name in ("status", "problem")}
    said = {name: text for name, text in said.items() if text} or {"status": "running"}
    try:
        handle = os.open(path / LOCK, os.O_RDONLY)
    except OSError:  # none: it has ended in good order, or is a copy; or it may not be read
        return said
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        host = os.read(handle, 256).decode(errors="replace")
    except BlockingIOError:
        return {"status": "running"}
    except OSError:  # a file system without locks
        return said
    finally:
        os.close(handle)
    if host not in ("", socket.gethostname()):
        written = [entry.stat().st_mtime for entry in (path, *path.iterdir()) if entry.exists()]
        if time.time() - max(written, default=0.0) < _SILENT:
            return {"status": "running", "problem": f"on {host}, as far as can be seen from here"}
    epochs = 0
    with contextlib.suppress(OSError):
        epochs = (path / METRICS).read_bytes().count(b"\n")
    where = f" on {host}" if host else ""
    return {
        "status": "killed",
        "problem": f"its process{where} ended without a word (a signal, or the machine) after {epochs} epochs; "
        "train --resume goes on",
    }


def audit_verdict(record: dict[str, Any], weights: str = "last", checksum: str | None = None) -> str:
    """What `srat-fast audit` said of a run's numbers, for every place that quotes them."""
    audit = (record if weights == "last" else record.get(weights) or {}).get("audit") or {}
    if checksum is not None and audit.get("weights_checksum", checksum) != checksum:
        return "not audited (the record's audit is of other weights)"
    return str(audit.get("verdict", "not audited"))


def worst_class(accuracy: dict[str, Any]) -> float | None:
    """Accuracy of the class that has the least, of those with images; None where a record does not tell."""
    present = [v for v in accuracy.get("per_class") or () if v is not None and not math.isnan(v)]
    return min(present, default=None)


def weights_title(record: dict[str, Any], weights: str) -> str:
    """Which weights of a run are judged, and by what the best epoch was chosen; "" for the last of a run without."""
    if weights == "best":
        by = record["best"].get("by", "balanced")  # records of earlier versions have no other
        return "best " + {"worst": "worst class"}.get(by, by)
    return "" if weights == "last" and not record.get("best") else weights


def is_whole(record: Any) -> bool:
    """Whether a record (or {"recipe": ...} of a run without one) has what tables and figures read of it."""
    try:
        recipe = record["recipe"]
        attack, data = recipe["eval_attack"], recipe["data"]
        names = [recipe["method"], data["name"], data["imbalance"]]
        numbers = [
            recipe["seed"],
            data["ratio"],
            attack["steps"],
            attack["epsilon"],
            recipe["optim"]["epochs"],
        ]
        counts = record.get("counts") or []
        if counts:
            names += record["classes"]
            numbers += [*counts, *record["under"], record["test_images"]]
            if len(counts) != len(record["classes"]):
                return False
        sound = all(isinstance(n, str) for n in names) and all(isinstance(n, (int, float)) for n in numbers)
        return sound and (record.get("status") != "finished" or has_accuracies(record))
    except (KeyError, TypeError, AttributeError):
        return False


def has_accuracies(record: dict[str, Any]) -> bool:
    """Whether the record of a finished run has the accuracies of its last weights, and of the others that it names."""
    try:
        for part in (record, *(record[weights] for weights in ("best", "ema") if record.get(weights))):
            for kind in ("standard", "robust"):
                values = [part[kind][name] for name in ("overall", "under")] + part[kind]["per_class"]
                if not all(value is None or isinstance(value, (int, float)) for value in values):
                    return False
                if len(part[kind]["per_class"]) != len(record["classes"]):
                    return False
        return True
    except (KeyError, TypeError, AttributeError):
        return False


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit of the source tree that runs, with "+changes" where it is not clean."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        ).stdout

    try:
        commit = git("rev-parse", "HEAD").strip()
        return commit + ("+changes" if git("status", "--porcelain", "--untracked-files=no").strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return None
