"""What a run leaves behind: recipe, metrics, record. Plain values enter, files of a run directory leave."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from srat_fast.errors import UserError

RECIPE, METRICS, RECORD = "recipe.json", "metrics.jsonl", "record.json"
#: Weights of the last epoch, of the best epoch by validation, and their moving average.
MODEL, BEST, EMA = "model.safetensors", "best.safetensors", "ema.safetensors"
_PACKAGES = ("srat-fast", "torch", "torchvision", "triton", "numpy", "safetensors", "scikit-learn")


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part.

    Args:
        path: the file; its directory exists.
        data: its content.

    Raises:
        OSError: as the file system says; nothing is left behind then.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def plain_json(value: Any) -> Any:
    """`value` with what JSON cannot hold (NaN, infinities) as null, and tuples as lists.

    Args:
        value: nested dicts, lists and scalars.

    Returns:
        The same, ready for `json.dumps(allow_nan=False)`.
    """
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
        path: the directory; `create` or `open` decide whether it must be new or complete.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made: Path | None = None

    @classmethod
    def create(cls, path: Path) -> RunDirectory:
        """A new, empty run directory.

        Args:
            path: must not exist, or be empty.

        Returns:
            The run directory.

        Raises:
            UserError: it holds another run or other files, or cannot be written.
        """
        run = cls(path)
        if path.is_dir() and any(path.iterdir()):
            what = "already holds a run" if (path / RECIPE).exists() else "is not empty"
            raise UserError("--out", f"{what}; choose another directory or remove it", str(path))
        missing = [p for p in (path, *path.parents) if not p.exists()]
        try:
            path.mkdir(parents=True, exist_ok=True)
            run._made = missing[-1] if missing else None
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            run.discard()
            raise UserError("--out", f"cannot be written: {error.strerror}", str(path)) from None
        return run

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """An existing run.

        Args:
            path: a directory with a recipe and a model.

        Returns:
            The run directory.

        Raises:
            UserError: it is not a finished run.
        """
        for name in (RECIPE, MODEL):
            if not (path / name).is_file():
                raise UserError("RUN", f"is not a finished run: it has no {name}", str(path))
        return cls(path)

    def discard(self) -> None:
        """Remove what `create` made: for runs that fail before their first epoch."""
        if self.path.is_dir():
            for name in (RECIPE, METRICS):
                (self.path / name).unlink(missing_ok=True)
            for events in self.path.glob("events.out.tfevents.*"):
                events.unlink()
        if self._made is not None:
            shutil.rmtree(self._made, ignore_errors=True)

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write `content` to `name`, atomically; NaN becomes null.

        Args:
            name: file name inside the directory.
            content: nested plain values.
        """
        text = json.dumps(plain_json(content), indent=2, allow_nan=False) + "\n"
        write_atomically(self.path / name, text.encode())

    def read_json(self, name: str) -> dict[str, Any]:
        """The content of a JSON file of the run.

        Args:
            name: file name inside the directory.

        Returns:
            Its content.

        Raises:
            UserError: missing or damaged.
        """
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError("RUN", f"has no {name}", str(self.path)) from None
        except ValueError:
            raise UserError("RUN", f"its {name} is damaged", str(self.path)) from None

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Add one epoch to metrics.jsonl.

        Args:
            line: plain values of the epoch.
        """
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain_json(line), allow_nan=False) + "\n")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers.

    Returns:
        Name -> version; packages that are not installed are left out.
    """
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit of the source tree that runs, with "+changes" where it is not clean.

    Returns:
        The hash, or None where the package is not run from a git checkout.
    """
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
