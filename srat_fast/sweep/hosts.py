"""Who runs what: process ids and a host enter; whether that very process still lives leaves."""

from __future__ import annotations

import functools
import os
import socket
from pathlib import Path
from typing import Any


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


@functools.cache
def this_host() -> str:
    """The space in which a process id means something.

    Returns:
        Host name, boot and pid namespace: two containers of one name, or a host after a restart, are others.
    """
    try:
        namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        namespace = ""
    return f"{socket.gethostname()}:{_read('/proc/sys/kernel/random/boot_id')[:8]}:{namespace}"


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; the name before them may hold anything."""
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def started_at(pid: int) -> int:
    """When a process started, in the kernel's ticks: tells it from a later one with the same id.

    Args:
        pid: of a process on this host.

    Returns:
        The ticks; 0 where the system does not say.
    """
    fields = _stat(pid)
    return int(fields[19]) if len(fields) > 19 else 0


def identity_of(pid: int) -> dict[str, Any]:
    """What tells a process from every other one.

    Args:
        pid: of a process on this host.

    Returns:
        {"host", "pid", "ticks"}.
    """
    return {"host": this_host(), "pid": pid, "ticks": started_at(pid)}


def alive(identity: dict[str, Any]) -> bool | None:
    """Whether a process still lives.

    Args:
        identity: as `identity_of` gave it.

    Returns:
        True or False; None for another host's, of which nothing is known here.
    """
    if identity.get("host") != this_host():
        return None
    pid = int(identity["pid"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    fields = _stat(pid)
    if fields and fields[0] in ("Z", "X"):
        return False
    return identity.get("ticks", 0) in (0, started_at(pid))
