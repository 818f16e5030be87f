"""One attempt on another node: a plan, an index and two ways back to the driver enter; what followed leaves."""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from srat_fast.errors import UserError
from srat_fast.sweep.claim import BEAT
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.sweep.hosts import this_host
from srat_fast.sweep.identity import code_version
from srat_fast.sweep.orphans import still_running
from srat_fast.sweep.outcome import Verdict
from srat_fast.sweep.plan import Plan
from srat_fast.sweep.process import TrialProcess, child_environment

_POLL = 0.1
#: Seconds between two looks at whether to stop.
_ASK = 1.0
#: Seconds between two collections of a run directory that has changed.
_COLLECT = 10.0


def pack(directory: Path) -> bytes | None:
    """A directory as bytes; files that vanish meanwhile (a checkpoint being replaced) are left out.

    Args:
        directory: any.

    Returns:
        A tar archive; None where there is no such directory.
    """
    if not directory.is_dir():
        return None
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(p for p in directory.rglob("*") if p.is_file()):
            try:
                archive.add(path, str(path.relative_to(directory)))
            except FileNotFoundError:
                continue
    return buffer.getvalue()


def unpack(content: bytes, directory: Path) -> None:
    """Put a packed directory in the place of another.

    Args:
        content: as `pack` gave it.
        directory: replaced by it.

    Raises:
        OSError: it cannot be written; the old one is left then.
    """
    new = directory.with_name(f".{directory.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(new, filter="data")
    shutil.rmtree(directory, ignore_errors=True)
    new.rename(directory)


class _Carrier:
    """Hands a run directory over when it has changed."""

    def __init__(self, deliver: Callable[[str, bytes], None], directory: Path) -> None:
        self._deliver, self._directory = deliver, directory
        self._sent: list[tuple[str, int]] = []
        self._at = time.monotonic()

    def bring(self, now: bool = False) -> None:
        if not now and time.monotonic() - self._at < _COLLECT:
            return
        self._at = time.monotonic()
        stamp = []
        for path in sorted(self._directory.rglob("*")):
            try:
                stamp.append((str(path), path.stat().st_mtime_ns))
            except FileNotFoundError:
                continue
        content = pack(self._directory) if stamp and stamp != self._sent else None
        if content is not None:
            self._deliver(self._directory.name, content)
            self._sent = stamp


def attempt(
    path: str,
    plan: Plan,
    index: int,
    asked: Callable[[], bool],
    deliver: Callable[[str, bytes], None],
    *,
    where: str,
    code: str,
    stall: float | None = None,
    gpu: bool = False,
    alone: bool = True,
    packed: tuple[bytes | None, dict[str, Any]] | None = None,
) -> tuple[Verdict, dict[str, Any]]:
    """Run one attempt here, which is the main thread of a process on a node.

    Args:
        path: the sweep's directory on a disk that this node sees; "" to work in a directory of its own.
        plan: of the sweep.
        index: of the trial.
        asked: whether the driver wants it to stop, or is gone.
        deliver: takes a run's name and its packed directory; used without a shared disk.
        where: this node, in words.
        code: `code_version` of the driver.
        stall: seconds without progress after which it is stopped.
        gpu: whether it may use the GPUs that this process sees.
        alone: whether it has its processor to itself.
        packed: without a shared disk, the run directory so far and the trial's state.

    Returns:
        (verdict, state of the trial).

    Raises:
        UserError: this node has another version of the code.
    """
    if code_version() != code:
        host = this_host().partition(":")[0]
        raise UserError("--engine", f"node {host} has code {code_version()}, the driver has {code}", "ray")
    trial = plan.trials[index]
    scratch = None if path else tempfile.mkdtemp(prefix="srat-fast-")
    sweep = SweepDirectory(Path(scratch or path), plan)
    try:
        if packed is not None:
            for name in ("runs", "logs", "state", "recipes"):
                (sweep.path / name).mkdir()
            content, state = packed
            sweep.write_state(trial, {key: value for key, value in state.items() if key != "running"})
            if content is not None:
                unpack(content, sweep.run(trial))
        while still_running(sweep, trial, sweep.state(trial)):  # its node died, but it has yet to end
            time.sleep(_POLL)
        environment = child_environment(sweep.path, None if gpu else 1, None, not gpu)
        process = TrialProcess(sweep, trial, environment, where, alone)
        carrier = _Carrier(deliver, sweep.run(trial)) if packed is not None else None
        try:
            return _watch(process, asked, stall, carrier), process.state
        except BaseException:
            process.kill()
            raise
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _watch(
    process: TrialProcess, asked: Callable[[], bool], stall: float | None, carrier: _Carrier | None
) -> Verdict:
    looked = beaten = time.monotonic()
    while process.process.poll() is None:
        time.sleep(_POLL)
        now = time.monotonic()
        if now - beaten > BEAT:
            beaten = now
            process.beat()
        if now - looked > _ASK:
            looked = now
            if asked():
                process.stop()
            elif carrier is not None:
                carrier.bring()
            if stall is not None:
                process.check_progress(stall)
    verdict = process.finish()
    assert verdict is not None, "the process has ended"
    if carrier is not None:
        carrier.bring(now=True)
    return verdict
