"""One attempt at a trial as a process: a claimed trial and a slot enter; its ending, written into its state, leaves."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from srat_fast.record import METRICS
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.sweep.hosts import identity_of, this_host
from srat_fast.sweep.outcome import TAIL, Verdict, attempt_entry, judge, read_ending
from srat_fast.sweep.plan import Trial

#: What a trial's process runs; its arguments are this process's id, then a command and its options.
CHILD = [sys.executable, "-m", "srat_fast.sweep.child"]


def child_environment(sweep: Path, threads: int | None, gpu: str | None, cpu_only: bool) -> dict[str, str]:
    """The environment of a trial: its share of the processor, and compile caches that the trials share.

    Args:
        sweep: the sweep's directory; it holds the caches unless the user has chosen others.
        threads: of a trial on a CPU; None leaves the choice to torch.
        gpu: the GPU that it sees, as CUDA_VISIBLE_DEVICES names it; None for what this process sees.
        cpu_only: whether it sees none.

    Returns:
        A whole environment.
    """
    environment = dict(os.environ)
    for name, folder in (("TORCHINDUCTOR_CACHE_DIR", "inductor"), ("TRITON_CACHE_DIR", "triton")):
        environment.setdefault(name, str(sweep.absolute() / "cache" / folder))
    if threads is not None:
        environment["OMP_NUM_THREADS"] = environment["MKL_NUM_THREADS"] = str(threads)
    if cpu_only:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    elif gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    return environment


def spawn(arguments: list[str], environment: dict[str, str], log: Any) -> subprocess.Popen:
    """Start a process that ends with this one; call it from the main thread, whose end is what the kernel watches.

    Args:
        arguments: as for `srat-fast`, or "prepare" and a recipe.
        environment: whole.
        log: open file for both of its streams.

    Returns:
        The process, in a session of its own: a Ctrl-C at the terminal reaches the driver only.
    """
    command = [*CHILD, str(os.getpid()), *arguments]
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )


class TrialProcess:
    """A running attempt. Its claim is held by whoever makes it.

    Args:
        sweep: the sweep.
        trial: which one.
        environment: of the process.
        where: its slot, in words.
        alone: whether no other trial shares its processor.
    """

    def __init__(
        self, sweep: SweepDirectory, trial: Trial, environment: dict[str, str], where: str, alone: bool
    ) -> None:
        self.sweep, self.trial, self.where, self.alone = sweep, trial, where, alone
        self.started = time.time()
        self.asked = self.hung = self.hopeless = False
        self._killed_at: float | None = None
        self._speed: tuple[float, float] = (0.0, 0.0)
        self.state = sweep.state(trial)
        recipe = sweep.write_recipe(trial)
        log = sweep.log(trial)
        with log.open("ab") as file:
            self._offset = file.tell()
            number = len(self.state["attempts"]) + 1
            file.write(f"== attempt {number}, {time.ctime(self.started)}, {where}\n".encode())
            file.flush()
            out = str(sweep.run(trial))
            self.process = spawn(
                ["train", "--recipe", str(recipe), "--out", out, "--resume", "auto"], environment, file
            )
        self.state |= {
            "status": "running",
            "running": identity_of(self.process.pid) | {"where": where, "started": self.started},
        }
        try:
            sweep.write_state(trial, self.state)
        except BaseException:
            self.kill()
            self.process.wait()
            raise

    def beat(self) -> None:
        """Show drivers on other hosts that the trial is being watched."""
        with contextlib.suppress(OSError):
            os.utime(self.sweep.state_path(self.trial))

    def stop(self) -> None:
        """Ask it to save and exit (SIGTERM); asking again does nothing, for a second signal would not wait."""
        if not self.asked:
            self.asked = True
            self.process.terminate()

    def kill(self) -> None:
        """End it and what it started, at once."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            self.process.kill()

    def check_progress(self, limit: float, grace: float = 10.0) -> None:
        """Stop it if nothing of it was written for too long: SIGTERM, and SIGKILL if that does not help.

        Args:
            limit: seconds without a change of its log, metrics or checkpoint.
            grace: seconds between the two signals.
        """
        now = time.time()
        if self._killed_at is not None:
            if now - self._killed_at > grace:
                self.kill()
        elif now - max(self.started, self._last_sign()) > limit:
            self.hung, self._killed_at = True, now
            self.process.terminate()

    def _last_sign(self) -> float:
        run = self.sweep.run(self.trial)
        paths = [self.sweep.log(self.trial), run, run / METRICS, run / "checkpoint"]
        return max((path.stat().st_mtime for path in paths if path.exists()), default=0.0)

    def images_per_second(self) -> float:
        """Training speed by its last epoch.

        Returns:
            Images a second; 0 before its first epoch is done.
        """
        path = self.sweep.run(self.trial) / METRICS
        try:
            changed = path.stat().st_mtime
            if changed != self._speed[0]:
                self._speed = changed, float(last_line(path).get("images_per_second") or 0.0)
        except OSError:
            return 0.0
        return self._speed[1]

    def finish(self) -> Verdict | None:
        """What follows from its end, written into the trial's state.

        Returns:
            The verdict, or None while it runs.

        Raises:
            OSError: the state cannot be written.
        """
        code = self.process.poll()
        if code is None:
            return None
        record = self.sweep.record(self.trial)
        log = tail(self.sweep.log(self.trial), self._offset)
        ending = read_ending(code, record, log, asked=self.asked, hung=self.hung)
        attempts = self.state["attempts"]
        verdict = Verdict("pruned", "stopped early: others were ahead of it")
        if not (self.hopeless and ending.kind == "stopped"):
            verdict = judge(ending, attempts, self.sweep.plan.retries, self.alone)
        attempts.append(attempt_entry(ending, code, self.started, time.time(), f"{this_host()} {self.where}"))
        self.state.pop("running", None)
        self.state |= {"status": "queued" if verdict.status == "retry" else verdict.status}
        self.state["reason"] = verdict.reason
        if verdict.status == "done" and record is not None:
            self.state |= finished_fields(record)
        self.sweep.write_state(self.trial, self.state)
        return verdict


def finished_fields(record: dict[str, Any]) -> dict[str, Any]:
    """What a finished trial's state keeps of its record, for quick answers.

    Args:
        record: of a finished run.

    Returns:
        {"images_per_second", "seconds"}.
    """
    return {
        "images_per_second": record.get("images_per_second"),
        "seconds": (record.get("seconds") or {}).get("total"),
    }


def last_line(path: Path) -> dict[str, Any]:
    """The last whole line of metrics.jsonl.

    Args:
        path: the file.

    Returns:
        Its content; {} where there is none.

    Raises:
        OSError: it cannot be read.
    """
    for line in reversed(tail(path, 0).splitlines()):
        try:
            found = json.loads(line)
        except ValueError:  # torn
            continue
        if isinstance(found, dict):
            return found
    return {}


def tail(path: Path, offset: int) -> str:
    """The end of a text file.

    Args:
        path: the file.
        offset: not further back than this byte.

    Returns:
        At most `TAIL` bytes of it; "" where it is not there.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(offset, size - TAIL))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
