"""Errors that a user can mend, each one line: option, value, what is allowed."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class UserError(Exception):
    """Bad input, reported in one line; the command line exits with code 2 and no traceback.

    Args:
        option: the recipe field ("optim.epochs"), option or file that is at fault; "" where there is none.
        value: what was given (shown with repr); leave out where it says nothing.
        problem: what is allowed, or what to do.
    """

    #: Kind of failure, as `failure_of` gives it; None for input that is bad for good.
    failure: str | None = None
    _no_value = object()

    def __init__(self, option: str, problem: str, value: object = _no_value) -> None:
        self.option = option
        self.problem = problem
        self.value = value
        super().__init__(self.line())

    def line(self, option: str | None = None) -> str:
        """The one-line message."""
        head = self.option if option is None else option
        if self.value is not self._no_value:
            head = f"{head} = {self.value!r}"
        return f"{head}: {self.problem}" if head else self.problem


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: those that it begins or ends, the nearest known one, or nothing."""
    names = {name.casefold(): name for name in known}
    wanted = str(given).casefold()
    # "srat" is a part of srat-ldam before it is a misspelt reat, "attack.eps" of attack.epsilon, "lr" of optim.lr
    near = [n for n in names if n.endswith(f".{wanted}") or (len(wanted) > 2 and n.startswith(wanted))]
    if not 0 < len(near) < 5:
        near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.65)
    shown = [names[name] for name in near]
    return f"; did you mean {' or '.join(filter(None, (', '.join(shown[:-1]), shown[-1])))}?" if shown else ""


def one_of(known: Iterable[str], given: object) -> str:
    """What a name may be, as a message says it to who gave another."""
    known = tuple(known)
    return f"one of {', '.join(known)}{did_you_mean(given, known)}"


def require_one_of(option: str, given: object, known: Iterable[str]) -> None:
    """Refuse a name that is not in a list."""
    known = tuple(known)
    if given not in known:
        raise UserError(option, one_of(known, given), given)


def require_text(option: str, name: str) -> None:
    """Refuse a name whose bytes are not UTF-8: records, tables and event files hold names as text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        problem = "is not UTF-8; rename it, or give it a second name by a link"
        raise UserError(option, problem, os.fsencode(name)) from None


class MissingPackage(UserError):
    """An optional package that the user's choice needs is not installed.

    Args:
        package: its name.
        purpose: what needs it.
        install: the command that installs it.
    """

    def __init__(self, package: str, purpose: str, install: str) -> None:
        super().__init__("", f"{purpose} needs the package {package}, which is not installed: {install}")


class InUse(UserError):
    """Another process has what this one needs, for as long as it runs."""

    failure = "locked"


class TrainingFailure(Exception):
    """A run that cannot go on through no fault of its input: reported in one line, exit code 1.

    The text says what happened, where, and what to try.
    """

    #: whether every process of a run raises it by itself
    together = False

    #: Kind of failure, as record.json has it and sweeps decide by it.
    failure = "error"


class OutOfMemory(TrainingFailure):
    """The GPU's or the machine's memory is full."""

    failure = "memory"


class DiskFull(TrainingFailure):
    """A disk, or its user's share of it, is full."""

    failure = "disk"


class Interrupted(BaseException):
    """A run that was asked to stop and has saved its state: reported in one line, exit code 129, 130 or 143.

    Like KeyboardInterrupt it is no Exception, so that a loop over runs that passes over failures does not go on.

    Args:
        problem: which signal, where the run stands, how to go on.
        code: of the process: 129 for SIGHUP, 130 for Ctrl-C, 143 for SIGTERM and SIGUSR1.
    """

    def __init__(self, problem: str, code: int) -> None:
        self.code = code
        super().__init__(problem)


class Unrecorded(TrainingFailure):
    """A result that could not be written into its run's record: reported in one line after it was shown, exit code 1.

    Args:
        problem: why.
        result: what the call would have returned.
        record: what record.json would hold.
    """

    def __init__(self, problem: str, result: Any, record: dict[str, Any]) -> None:
        super().__init__(problem)
        self.result, self.record = result, record


class ExportFailure(TrainingFailure):
    """An exported file that does not give the run's logits back: exit code 1, and the file is not left behind.

    Args:
        problem: which format, and by how much it differs.
    """


class EvaluationFailure(TrainingFailure):
    """A number that cannot be measured (non-finite logits, no gradient, an attack outside its ball): refused.

    Args:
        problem: what was found, in how many images.
    """


def launched() -> tuple[int, int]:
    """Rank and number of processes that torchrun has started; (0, 1) without it."""
    if not all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")):
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def teller(error: BaseException) -> str | None:
    """What stands before an error's line: of several processes the first one prints it, without a word of itself.

    Another one prints what is its own, or else nothing (None).
    """
    rank, _ = launched()
    if rank == 0:
        return ""
    return f"rank {rank}: " if getattr(error, "rank", None) == rank else None


def is_full(error: OSError) -> bool:
    """Whether a disk, or its user's share of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def failure_of(error: BaseException) -> str | None:
    """Kind of failure: memory, disk, locked, nonfinite, or error for any other; None for bad input.

    A full disk counts also where it only led to the error, such as to a compiler's or to "cannot be written".
    """
    kind = error.failure if isinstance(error, (UserError, TrainingFailure)) else "error"
    if kind not in (None, "error"):
        return kind
    seen: set[int] = set()
    causes: list[BaseException | None] = [error]
    while causes:
        one = causes.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, OSError) and is_full(one):
            return "disk"
        if isinstance(one, MemoryError):
            return "memory"
        causes += [one.__cause__, one.__context__]
    return kind


@contextmanager
def path_errors(option: str, path: Path, problem: str = "cannot be read") -> Iterator[None]:
    """What the system says of a path (too long, no permission) as one line."""
    try:
        yield
    except OSError as error:
        raise UserError(option, f"{problem}: {error.strerror}", str(path)) from None
