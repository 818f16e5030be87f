"""Outcome of a trial's attempt: how it exited (exit code, record, log), and what to do next. Pure functions."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from srat_fast.training.stops import CODES, HANG_CODE

#: Kind of failure -> exit code of a trial's process; locked out of its run, or out of room, it writes no record.
FAILURE_CODES: Mapping[str | None, int] = {"memory": 71, "disk": 72, "locked": 73, "nonfinite": 74}
#: Exits that would be the same again where they were the same twice.
_REPEATABLE = ("error", "nonfinite")
#: Characters of a log's end that are looked through; a trial's own words stay in its log.
TAIL = 16000


@dataclass(frozen=True)
class Exit:
    """How one attempt ended."""

    #: finished, stopped (as asked), killed, hang, input (bad for good), memory, disk, locked, nonfinite, or error
    kind: str
    problem: str  # one line for people, and for telling two errors apart; "" for finished
    traceback: str = ""  # of the last error, where the log has one

    @property
    def signature(self) -> str:
        """What makes two errors the same one: the message and where it was raised, without addresses."""
        where = re.findall(r'File "([^"]+)", line (\d+)', self.traceback)[-1:]
        return re.sub(r"0x[0-9a-f]+", "0x", f"{self.problem} {where}")


@dataclass(frozen=True)
class Action:
    """What to do with the trial next."""

    status: str  # done, failed (for good), retry, queued (not the trial's fault, costs no retry), or pruned
    reason: str  # one line
    pause: bool = False  # whether the whole sweep must stop


def _traceback(log: str) -> str:
    start = log.rfind("Traceback (most recent call last)")
    return "\n".join(log[start:].strip().splitlines()[-60:]) if start >= 0 else ""


def _last_line(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1][:500] if lines else "nothing was printed"


def _failure_in_words(problem: str, log: str) -> str:
    """`failure` of a record of version 0.1, which has no such field, by what it says."""
    full = ("No space left on device", "Disk quota exceeded", "[Errno 28]", "[Errno 122]")
    if any(word in log or word in problem for word in (*full, "the disk is full", "is full; make room")):
        return "disk"
    return "memory" if "out of memory" in problem.lower() or "OutOfMemoryError" in problem else "error"


def read_exit(
    code: int, record: dict[str, Any] | None, log: str, *, asked: bool = False, hung: bool = False
) -> Exit:
    """How an attempt ended: by its exit code (negative for a signal) and the record, None where it wrote none.

    `asked`: the driver asked it to stop; `hung`: the driver stopped it for lack of progress. The log is for people.
    """
    log = log[-TAIL:]
    status = record.get("status") if record else None
    if code == 0 and status == "finished":
        return Exit("finished", "")
    failed = record if record and status == "failed" and code != FAILURE_CODES["locked"] else {}
    problem = str(failed.get("problem") or _last_line(log).removeprefix("error: "))
    failure = next((kind for kind, number in FAILURE_CODES.items() if number == code), None)
    if failed:
        failure = failed["failure"] if "failure" in failed else _failure_in_words(problem, log)
    if hung or code == HANG_CODE:
        return Exit("hang", "made no progress and was stopped", _traceback(log))
    if failure == "disk":
        return Exit("disk", "the disk is full")
    if code < 0 or code in CODES.values():
        if asked:
            return Exit("stopped", "stopped with the sweep")
        known = code < 0 and -code in list(signal.Signals)
        return Exit("killed", f"was killed ({signal.Signals(-code).name if known else f'exit code {code}'})")
    if code == 0:
        return Exit("error", "ended with exit code 0, but its record does not say that it finished")
    if code == 2 and failure is None:
        return Exit("input", problem)
    return Exit(failure or "error", problem, _traceback(log))


def next_action(exit: Exit, attempts: list[dict[str, Any]], retries: int, alone: bool) -> Action:
    """What to do after an exit, given the trial's earlier `attempts` and how many `retries` it may have.

    `alone`: it had its processor to itself, so that fewer trials beside it would not help against lack of memory.
    """
    if exit.kind == "finished":
        return Action("done", "finished")
    if exit.kind == "disk":
        return Action("queued", exit.problem, pause=True)
    if exit.kind == "stopped":
        return Action("queued", exit.problem)
    if exit.kind == "input":
        return Action("failed", f"bad input, not tried again: {exit.problem}")
    counted = [entry for entry in attempts if entry["kind"] not in ("finished", "disk", "stopped")]
    if exit.kind == "memory" and alone:
        return Action("failed", f"{exit.problem} (it had its processor to itself)")
    if exit.kind in _REPEATABLE and counted and counted[-1].get("signature") == exit.signature:
        return Action("failed", f"the same error twice: {exit.problem}")
    if len(counted) >= retries:
        return Action("failed", f"{exit.problem}; {len(counted) + 1} attempts")
    return Action("retry", exit.problem)


def attempt_entry(exit: Exit, code: int, started: float, ended: float, where: str) -> dict[str, Any]:
    """An attempt as a trial's state keeps it; times in seconds since the epoch."""
    entry = asdict(exit) | {"exit": code, "started": started, "ended": ended, "where": where}
    if exit.kind in _REPEATABLE:
        entry["signature"] = exit.signature
    return entry
