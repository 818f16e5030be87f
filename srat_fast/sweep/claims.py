"""Claims: which driver may run a trial, by hard links and leases, so that no trial is run twice.

A claim is the file `claims/<id>.<n>`, made by a hard link, which fails where the name exists: on a network file
system too, where locks may not hold. Taking over a dead driver's claim n means making n + 1, so of two that try one
wins; claims are never removed, so a number is never given twice. A driver on the same host is dead when its process
is; one elsewhere when it has not touched its claim for `LEASE` seconds by the file system's own clock. Who loses a
claim that way (a frozen host that wakes) sees n + 1 and ends its trial.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

#: Seconds without a sign of life after which a driver on another host counts as dead.
LEASE = 60.0
BEAT = LEASE / 6


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


@functools.cache
def this_host() -> str:
    """Where a process id means something: host name, boot and pid namespace (containers may share a name)."""
    try:
        namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        namespace = ""
    return f"{socket.gethostname()}:{_read('/proc/sys/kernel/random/boot_id')[:8]}:{namespace}"


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; the name before them may hold anything."""
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _started_at(pid: int) -> int:
    """When a process started, in the kernel's ticks: tells it from a later one with the same id."""
    fields = _stat(pid)
    return int(fields[19]) if len(fields) > 19 else 0


def process_identity(pid: int) -> dict[str, Any]:
    """What tells a process of this host from every other one, also from a later one with its id."""
    return {"host": this_host(), "pid": pid, "ticks": _started_at(pid)}


def alive(identity: dict[str, Any]) -> bool | None:
    """Whether a process still lives; None for another host's, of which nothing is known here."""
    pid = identity.get("pid")
    if identity.get("host") != this_host() or not isinstance(pid, int):
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    fields = _stat(pid)
    if fields and fields[0] in ("Z", "X"):
        return False
    return identity.get("ticks", 0) in (0, _started_at(pid))


def seconds_since(path: Path) -> float:
    """Since a file was last written, by the file system's own clock: hosts' clocks may differ by more than a lease.

    Where nothing may be written, which the file system's clock is asked by, by this host's.
    """
    probe = path.with_name(f"clock-{uuid.uuid4().hex}")
    try:
        probe.touch()
        now = probe.stat().st_mtime
    except OSError:
        now = time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    return now - path.stat().st_mtime


class Claims:
    """The claims in a directory, and those of them that this process holds."""

    def __init__(self, directory: Path, lease: float = LEASE) -> None:
        self._directory, self._lease = directory, lease
        self._known: dict[str, int] = {}
        self._held: dict[str, int] = {}
        self._stop = threading.Event()
        self._heart: threading.Thread | None = None
        directory.mkdir(parents=True, exist_ok=True)
        for name in os.listdir(directory):
            trial, _, number = name.rpartition(".")
            if number.isdecimal():
                self._known[trial] = max(int(number), self._known.get(trial, -1))

    def _path(self, trial: str, number: int) -> Path:
        return self._directory / f"{trial}.{number}"

    def _latest(self, trial: str) -> int:
        number = self._known.get(trial, -1)
        while self._path(trial, number + 1).exists():
            number += 1
        self._known[trial] = number
        return number

    def holder(self, trial: str) -> dict[str, Any] | None:
        """What the live claim of a trial says; None where nobody holds it."""
        number = self._latest(trial)
        if number < 0:
            return None
        path = self._path(trial, number)
        try:
            content = json.loads(path.read_bytes())
        except ValueError:  # empty or torn: just being made, or its host lost its power
            content = None
        if content == {}:
            return None  # given back
        if not isinstance(content, dict) or not isinstance(content.get("driver"), dict):
            content = {"driver": {}}
        living = alive(content["driver"])
        if living is None:
            living = seconds_since(path) < self._lease
        return content if living else None

    def take(self, trial: str) -> bool:
        """Claim a trial, and keep the claim alive by a thread until its release; False where another has it."""
        if self.holder(trial) is not None:
            return False
        number = self._known.get(trial, -1) + 1
        text = json.dumps({"driver": process_identity(os.getpid())}).encode()
        if not _create(self._path(trial, number), text):
            return False
        self._known[trial] = self._held[trial] = number
        if self._heart is None:
            self._heart = threading.Thread(target=self._beat, daemon=True, name="claims")
            self._heart.start()
        return True

    def lost(self, trial: str) -> bool:
        """Whether another driver has taken over a trial that we hold: this host slept for longer than a lease."""
        return self._path(trial, self._held[trial] + 1).exists()

    def release(self, trial: str) -> None:
        """Give a claim back: the next one may be made at once."""
        with contextlib.suppress(OSError):  # then it lapses by itself: our process ends, or its lease does
            self._path(trial, self._held.pop(trial)).write_text("{}")

    def _beat(self) -> None:
        """Give signs of life; a full disk does not stop it."""
        while not self._stop.wait(min(BEAT, self._lease / 6)):
            for trial, number in list(self._held.items()):
                with contextlib.suppress(OSError):
                    os.utime(self._path(trial, number))

    def close(self) -> None:
        """Give everything back and end the thread."""
        self._stop.set()
        for trial in list(self._held):
            self.release(trial)


def _create(path: Path, content: bytes) -> bool:
    """Make a file with its content, or find that it exists; there is no moment at which it is there and empty."""
    temporary = path.with_name(f"new-{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(content)
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
            raise OSError(error.errno, error.strerror, str(path)) from None  # a full disk's has no name
        try:  # no hard links here: exclusive creation, empty for a moment
            with open(path, "xb") as file:
                file.write(content)
        except FileExistsError:
            return False
    finally:
        temporary.unlink(missing_ok=True)
    return True
