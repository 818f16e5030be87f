"""How an attempt ended and what follows: exit code, record and log enter; a verdict leaves. Pure functions."""

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
class Ending:
    """How one attempt ended.

    Attributes:
        kind: finished, stopped (as asked), killed, hung, crashed, memory, disk or input.
        problem: one line; "" for finished.
        traceback: of the last error, where the log has one.
    """

    kind: str
    problem: str
    traceback: str = ""

    @property
    def signature(self) -> str:
        """What makes two crashes the same one: the message and where it was raised, without addresses."""
        where = re.findall(r'File "([^"]+)", line (\d+)', self.traceback)[-1:]
        return re.sub(r"0x[0-9a-f]+", "0x", f"{self.problem} {where}")


@dataclass(frozen=True)
class Verdict:
    """What follows for the trial.

    Attributes:
        status: done, failed (for good), retry or queued (not the trial's fault, costs no retry).
        reason: one line.
        pause: whether the whole sweep must stop.
    """

    status: str
    reason: str
    pause: bool = False


def _traceback(log: str) -> str:
    start = log.rfind("Traceback (most recent call last)")
    return "\n".join(log[start:].strip().splitlines()[-60:]) if start >= 0 else ""


def _last_line(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1][:500] if lines else "nothing was printed"


def read_ending(
    code: int, record: dict[str, Any] | None, log: str, *, asked: bool = False, hung: bool = False
) -> Ending:
    """How an attempt ended.

    Args:
        code: of the process, as subprocess gives it: negative for a signal.
        record: the run's record.json, where there is one.
        log: what the attempt printed, its end at least.
        asked: whether the driver asked it to stop.
        hung: whether the driver stopped it for lack of progress.

    Returns:
        The ending.
    """
    log = log[-TAIL:]
    status = record.get("status") if record else None
    if code == 0 and status == "finished":
        return Ending("finished", "")
    said = str((record or {}).get("problem") or "") if status == "failed" else ""
    if hung or code == HUNG:
        return Ending("hung", "made no progress and was stopped", _traceback(log))
    if any(word in log or word in said for word in _FULL):
        return Ending("disk", "the disk is full")
    if asked and (code in STOPPED or code < 0):
        return Ending("stopped", "stopped with the sweep")
    if code < 0 or code in STOPPED:
        name = (
            signal.Signals(-code).name if code < 0 and -code in list(signal.Signals) else f"exit code {code}"
        )
        return Ending("killed", f"was killed ({name})")
    if code == 0:
        return Ending("crashed", "ended with exit code 0, but its record does not say that it finished")
    problem = said if said and code == 1 else _last_line(log).removeprefix("error: ")
    if code == 2 and _LOCKED in problem:
        return Ending("killed", problem)
    if code == 2:
        return Ending("input", problem)
    kind = "memory" if "out of memory" in problem.lower() or "OutOfMemoryError" in problem else "crashed"
    return Ending(kind, problem, _traceback(log))


def judge(ending: Ending, attempts: list[dict[str, Any]], retries: int, alone: bool) -> Verdict:
    """What follows from an ending.

    Args:
        ending: of the last attempt.
        attempts: the earlier ones, as `attempt_entry` made them.
        retries: how many further attempts a trial may have.
        alone: whether it had its processor to itself, so that fewer slots would not help against lack of memory.

    Returns:
        The verdict.
    """
    if ending.kind == "finished":
        return Verdict("done", "finished")
    if ending.kind == "disk":
        return Verdict("queued", ending.problem, pause=True)
    if ending.kind == "stopped":
        return Verdict("queued", ending.problem)
    if ending.kind == "input":
        return Verdict("failed", f"bad input, not tried again: {ending.problem}")
    counted = [entry for entry in attempts if entry["kind"] not in ("finished", "disk", "stopped")]
    if ending.kind == "memory" and alone:
        return Verdict("failed", f"{ending.problem} (it had its processor to itself)")
    if ending.kind == "crashed" and counted and counted[-1].get("signature") == ending.signature:
        return Verdict("failed", f"the same error twice: {ending.problem}")
    if len(counted) >= retries:
        return Verdict("failed", f"{ending.problem}; {len(counted) + 1} attempts")
    return Verdict("retry", ending.problem)


def attempt_entry(ending: Ending, code: int, started: float, ended: float, where: str) -> dict[str, Any]:
    """An attempt as a trial's state keeps it.

    Args:
        ending: how it ended.
        code: exit code, negative for a signal.
        started: seconds since the epoch.
        ended: likewise.
        where: host and slot.

    Returns:
        Plain values.
    """
    entry = asdict(ending) | {"exit": code, "started": started, "ended": ended, "where": where}
    if ending.kind == "crashed":
        entry["signature"] = ending.signature
    return entry
