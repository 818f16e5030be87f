"""`srat-fast train` as a process of its own: a recipe's options enter; a run that can be watched and ended leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from srat_fast.record import METRICS, RECORD

ROOT = Path(__file__).resolve().parents[2]


def end_in_order() -> None:
    """Make a request to end (SIGTERM) an exception: the runs that were started are ended too, and rows are written."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)


class TrainingProcess:
    """One run.

    Args:
        out: its directory.
        options: as for `srat-fast train`.
        environment: variables in addition to this process's.
    """

    def __init__(self, out: Path, options: list[str], environment: dict[str, str] | None = None) -> None:
        self.out, self._log = out, out.with_suffix(".log")
        command = [sys.executable, "-m", "srat_fast", "train", "--out", str(out), *options]
        paths = [str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")]
        variables = {"PYTHONPATH": os.pathsep.join(path for path in paths if path)} | (environment or {})
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | variables,
                start_new_session=True,  # compiler workers included in what `end` ends
            )  # fmt: skip

    def epochs(self) -> int:
        """Epochs done."""
        try:
            return (self.out / METRICS).read_bytes().count(b"\n")
        except OSError:
            return 0

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of the epochs that are done."""
        lines = (self.out / METRICS).read_text(encoding="utf-8").split("\n")[: self.epochs()]
        return [json.loads(line) for line in lines]

    def record(self) -> dict[str, Any] | None:
        """The record of a finished run, else None."""
        try:
            record = json.loads((self.out / RECORD).read_text(encoding="utf-8"))
        except OSError:
            return None
        return record if record["status"] == "finished" else None

    def output(self, lines: int = 15) -> str:
        """The end of what it printed."""
        return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def end(self) -> None:
        """End it and everything that it started, at once; nothing where it has ended."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
