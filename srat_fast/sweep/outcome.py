"""How an attempt ended and what follows: exit code, record and log enter; a action leaves. Pure functions."""

from __future__ import annotations

import re
import signal
from dataclasses import asdict, dataclass
from typing import Any

#: Exit codes of `srat-fast train` after it saved on a signal.
STOPPED = (129, 130, 143)
#: Exit code of `run.watchdog_seconds`.
HUNG = 124
#: Characters of a log's end that are looked through; a trial's own words stay in its log.
TAIL = 16000
_FULL = (
    "No space left on device",
    "Disk quota exceeded",
    "[Errno 28]",
    "[Errno 122]",
    "the disk is full",
    "is full; make room",
)
#: What `train` says when the directory's lock is held: the process of an earlier attempt has yet to end.
_LOCKED = "another process is training in it"


@dataclass(frozen=True)
class Exit:
    """How one attempt ended."""

    kind: str  # finished, stopped (as asked), killed, hung, crashed, memory, disk or input
    problem: str  # one line; "" for finished
    traceback: str = ""  # of the last error, where the log has one

    @property
    def signature(self) -> str:
        """What makes two crashes the same one: the message and where it was raised, without addresses."""
        where = re.findall(r'File "([^"]+)", line (\d+)', self.traceback)[-1:]
        return re.sub(r"0x[0-9a-f]+", "0x", f"{self.problem} {where}")


@dataclass(frozen=True)
class Action:
    """What follows for the trial."""

    status: str  # done, failed (for good), retry or queued (not the trial's fault, costs no retry)
    reason: str  # one line
    pause: bool = False  # whether the whole sweep must stop


def _traceback(log: str) -> str:
    start = log.rfind("Traceback (most recent call last)")
    return "\n".join(log[start:].strip().splitlines()[-60:]) if start >= 0 else ""


def _last_line(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1][:500] if lines else "nothing was printed"


def read_exit(
    code: int, record: dict[str, Any] | None, log: str, *, asked: bool = False, hung: bool = False
) -> Exit:
    """How an attempt ended."""
    log = log[-TAIL:]
    status = record.get("status") if record else None
    if code == 0 and status == "finished":
        return Exit("finished", "")
    said = str((record or {}).get("problem") or "") if status == "failed" else ""
    if hung or code == HUNG:
        return Exit("hung", "made no progress and was stopped", _traceback(log))
    if any(word in log or word in said for word in _FULL):
        return Exit("disk", "the disk is full")
    if asked and (code in STOPPED or code < 0):
        return Exit("stopped", "stopped with the sweep")
    if code < 0 or code in STOPPED:
        name = (
            signal.Signals(-code).name if code < 0 and -code in list(signal.Signals) else f"exit code {code}"
        )
        return Exit("killed", f"was killed ({name})")
    if code == 0:
        return Exit("crashed", "ended with exit code 0, but its record does not say that it finished")
    problem = said if said and code == 1 else _last_line(log).removeprefix("error: ")
    if code == 2 and _LOCKED in problem:
        return Exit("killed", problem)
    if code == 2:
        return Exit("input", problem)
    kind = "memory" if "out of memory" in problem.lower() or "OutOfMemoryError" in problem else "crashed"
    return Exit(kind, problem, _traceback(log))


def next_action(exit: Exit, attempts: list[dict[str, Any]], retries: int, alone: bool) -> Action:
    """What follows from an exit."""
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
    if exit.kind == "crashed" and counted and counted[-1].get("signature") == exit.signature:
        return Action("failed", f"the same error twice: {exit.problem}")
    if len(counted) >= retries:
        return Action("failed", f"{exit.problem}; {len(counted) + 1} attempts")
    return Action("retry", exit.problem)


def attempt_entry(exit: Exit, code: int, started: float, ended: float, where: str) -> dict[str, Any]:
    """An attempt as a trial's state keeps it."""
    entry = asdict(exit) | {"exit": code, "started": started, "ended": ended, "where": where}
    if exit.kind == "crashed":
        entry["signature"] = exit.signature
    return entry
