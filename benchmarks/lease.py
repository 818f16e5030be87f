"""Stages of a measurement under a deadline: commands enter; rows on how each ended leave, whatever the others do."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple

from benchmarks.rows import Row, append

ROOT = Path(__file__).resolve().parents[1]
#: Seconds that a stage gets to leave what it has when its time is over.
GRACE = 10.0
#: Lines of a failed stage's output that are repeated where the rest goes to a file.
REPEATED = 20


class Task(NamedTuple):
    """A stage as a process.

    Attributes:
        name: unique.
        command: the first word is a program.
        seconds: it may take; it is ended then, so that one that hangs does not eat the time of the others.
        share: of these seconds, without which it is not begun: it would be ended before its first row.
    """

    name: str
    command: list[str]
    seconds: float
    share: float = 0.4


def left_over(tasks: list[Task], rows: Iterable[Row], about: Row, any_source: bool = False) -> list[Task]:
    """What is still to be measured: new stages in their order, then those that did not end well before.

    Args:
        tasks: most important first.
        rows: of earlier measurements.
        about: of this machine and source: only what was measured by the same code, on the same device and versions,
            counts.
        any_source: what other code measured counts, too.
    """
    same = ("device", "torch", "triton", *(() if any_source else ("source",)))
    ended = {
        row["name"]: row["status"]
        for row in rows
        if row["op"] == "stage" and all(row.get(name) == about.get(name) for name in same)
    }
    tried = [task for task in tasks if ended.get(task.name, "skipped").startswith(("failed", "timed out"))]
    return [task for task in tasks if ended.get(task.name, "skipped").startswith("skipped")] + tried


def perform(
    tasks: Iterable[Task],
    path: Path,
    about: Row,
    deadline: float,
    log: Path | None = None,
    after: Callable[[Task], None] = lambda task: None,
) -> dict[str, str]:
    """Run stage after stage.

    Args:
        tasks: most important first.
        path: receives a row on each.
        about: of the machine, for those rows.
        deadline: of `time.monotonic`; what is not worth beginning is marked as skipped.
        log: receives what the stages print; None for the terminal.
        after: called after each stage that ended well.

    Returns:
        Name -> "ok", "failed: exit N", "timed out" or "skipped: ...".
    """
    statuses = {}
    for task in tasks:
        left = deadline - time.monotonic() - GRACE
        started = time.monotonic()
        if left < task.share * task.seconds:
            status = f"skipped: {max(left, 0):.0f} s left of {task.seconds:.0f}"
        else:
            status = _run(task, min(left, task.seconds), log)
        spent = round(time.monotonic() - started, 1)
        command = " ".join(task.command[1:])
        row: dict[str, Any] = {"op": "stage", "name": task.name, "status": status, "command": command}
        append(path, row | {"seconds": spent} | about)
        print(f"-- {task.name}: {status} ({spent:.0f} s)", flush=True)
        statuses[task.name] = status
        if status == "ok":
            after(task)
    return statuses


def _run(task: Task, seconds: float, log: Path | None) -> str:
    """A stage, with its output in the log."""
    if log is None:
        return timed_out_or(task.command, seconds)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        file.write(f"== {task.name}\n".encode())
        file.flush()
        begin = file.tell()
        status = timed_out_or(task.command, seconds, file)
    if status != "ok":
        with log.open("rb") as file:
            file.seek(begin)
            lines = file.read().decode("utf-8", errors="replace").splitlines()
        print("\n".join(f"   {line[:300]}" for line in lines[-REPEATED:]), file=sys.stderr, flush=True)
    return status


def timed_out_or(command: list[str], seconds: float, output: IO[bytes] | None = None) -> str:
    """Run a command in its own process group: one that hangs or crashes takes no other stage with it.

    Args:
        command: the first word is a program.
        seconds: it may run; then its group is asked to end, and killed `GRACE` later, compiler workers included.
        output: receives what it prints; None for this process's own.

    Returns:
        "ok", "failed: exit N" or "timed out".
    """
    with subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, stdout=output, stderr=output and subprocess.STDOUT
    ) as process:
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            _end(process)
            return "timed out"
        except BaseException:
            _end(process)
            raise
    return "ok" if code == 0 else f"failed: exit {code}"


def _end(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=GRACE)
    finally:
        # what it started may outlive it
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
