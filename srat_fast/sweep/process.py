"""Processes of trials: start, watch, stop, and read how an attempt ended."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from srat_fast.errors import UserError
from srat_fast.record import METRICS
from srat_fast.sweep.child import TORCHRUN
from srat_fast.sweep.claims import LEASE, alive, process_identity, seconds_since, this_host
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.sweep.outcome import TAIL, Action, attempt_entry, next_action, read_exit
from srat_fast.sweep.plan import Finished, Progress, Trial

#: What a trial's process runs; its arguments are this process's id, then a command and its options.
CHILD = [sys.executable, "-m", "srat_fast.sweep.child"]
#: Seconds that a trial has for saving after its driver died.
_GRACE = 60.0
_first_seen: dict[tuple[int, int], float] = {}  # (process id, its start) of such trials -> when


def child_environment(sweep: Path, threads: int | None, gpu: str | None, cpu_only: bool) -> dict[str, str]:
    """The environment of a trial: its share of the processor, and compile caches that the trials share."""
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


def spawn(
    arguments: list[str], environment: dict[str, str], log: Any, processes: int = 1
) -> subprocess.Popen:
    """Start `srat-fast ARGUMENTS` in a session of its own, so that Ctrl-C reaches the driver only; it ends with us.
    With several `processes` it is a torchrun of them.

    Call it from the main thread: a thread's end is what the kernel watches.
    """
    together = [TORCHRUN, str(processes)] if processes > 1 else []
    command = [*CHILD, str(os.getpid()), *together, *arguments]
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )


class TrialProcess:
    """One attempt at a trial, whose claim the caller holds."""

    def __init__(
        self, sweep: SweepDirectory, trial: Trial, environment: dict[str, str], where: str, alone: bool
    ) -> None:
        self.sweep, self.trial, self.where, self.alone = sweep, trial, where, alone
        self.started = time.time()
        self.asked = self.hung = self.pruned = False
        self.lost = False  # another driver has the trial, whose state is its own to write
        self._sign = 0.0, time.monotonic()  # the last sign of progress, and when it was seen first
        self._killed_at: float | None = None
        self._progress: tuple[float, Progress] = (0.0, read_progress(sweep, trial))
        self.state = sweep.state(trial)
        self._earlier = sweep.record(trial)  # of an earlier attempt
        recipe = sweep.write_recipe(trial)
        log = sweep.log(trial)
        with log.open("ab") as file:
            number = len(self.state["attempts"]) + 1
            file.write(f"== attempt {number}, {time.ctime(self.started)}, {where}\n".encode())
            file.flush()
            self._offset = file.tell()
            out = str(sweep.run(trial))
            self.process = spawn(
                ["train", "--recipe", str(recipe), "--out", out, "--resume", "auto"], environment, file,
                sweep.plan.gpus_per_trial,
            )  # fmt: skip
        self.state |= {
            "status": "running",
            "running": process_identity(self.process.pid) | {"where": where, "started": self.started},
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
        """Stop it if nothing of it was written for too long: SIGTERM, and SIGKILL if that does not help."""
        now, sign = (
            time.monotonic(),
            self._last_sign(),
        )  # no file's time is held against a clock: they may differ
        if sign != self._sign[0]:
            self._sign = sign, now
        if self._killed_at is not None:
            if now - self._killed_at > grace:
                self.kill()
        elif now - self._sign[1] > limit:
            self.hung, self._killed_at = True, now
            self.process.terminate()

    def _last_sign(self) -> float:
        run = self.sweep.run(self.trial)
        paths = [self.sweep.log(self.trial), run, run / METRICS, run / "checkpoint"]
        found = []
        for path in paths:
            with contextlib.suppress(OSError):
                found.append(path.stat().st_mtime)
        return max(found, default=0.0)

    def progress(self) -> Progress:
        """Its epochs and speed; read when there is a new epoch."""
        try:
            changed = (self.sweep.run(self.trial) / METRICS).stat().st_mtime
        except OSError:
            return self._progress[1]
        if changed != self._progress[0]:
            self._progress = changed, read_progress(self.sweep, self.trial)
        return self._progress[1]

    def finish(self) -> Action | None:
        """What follows from its end, which is written into its state; None while it runs, or where it is lost."""
        code = self.process.poll()
        if code is None or self.lost:
            return None
        record = self.sweep.record(self.trial)
        if code != 0 and record == self._earlier:
            record = None
        log = tail(self.sweep.log(self.trial), self._offset)
        exit = read_exit(code, record, log, asked=self.asked, hung=self.hung)
        attempts = self.state["attempts"]
        action = Action("pruned", "stopped early: others were ahead of it")
        if not (self.pruned and exit.kind == "stopped"):
            action = next_action(exit, attempts, self.sweep.plan.retries, self.alone)
        attempts.append(attempt_entry(exit, code, self.started, time.time(), f"{this_host()} {self.where}"))
        self.state.pop("running", None)
        self.state |= {"status": "queued" if action.status == "retry" else action.status}
        self.state["reason"] = action.reason
        if action.status == "done" and record is not None:
            self.state |= finished_fields(record)
        self.sweep.write_state(self.trial, self.state)
        return action


def finished_fields(record: dict[str, Any]) -> dict[str, Any]:
    """What a finished trial's state keeps of its record, for quick answers."""
    return {
        "images_per_second": record.get("images_per_second"),
        "seconds": (record.get("seconds") or {}).get("total"),
        "compile_seconds": (record.get("seconds") or {}).get("compile"),
    }


def finished_trial(trial: Trial, state: dict[str, Any]) -> Finished:
    """The same, for estimates."""
    return Finished(trial, float(state.get("seconds") or 0), state.get("images_per_second"))


def read_progress(sweep: SweepDirectory, trial: Trial) -> Progress:
    """A running trial's epochs and speed, from its metrics."""
    try:
        line = last_line(sweep.run(trial) / METRICS)
    except OSError:
        line = {}
    epochs, speed = sweep.plan.recipe(trial).optim.epochs, float(line.get("images_per_second") or 0.0)
    return Progress(trial, int(line.get("epoch", -1)) + 1, epochs, speed)


def last_line(path: Path) -> dict[str, Any]:
    """The last whole line of a metrics.jsonl; {} where there is none."""
    for line in reversed(tail(path, 0).splitlines()):
        try:
            found = json.loads(line)
        except ValueError:  # torn
            continue
        if isinstance(found, dict):
            return found
    return {}


def tail(path: Path, offset: int) -> str:
    """At most the last `TAIL` bytes of a text file, from byte `offset` on; "" where it is not there."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(offset, size - TAIL))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def still_running(sweep: SweepDirectory, trial: Trial, state: dict[str, Any]) -> bool:
    """Whether a trial's last process still lives, though nobody holds its claim: two must never write one directory.

    The kernel told it to save and exit when its driver died. After a minute it is killed. Of another host's nothing is
    known but the state file, which whoever watches the trial touches: it counts as running until a lease after that.
    """
    running = state.get("running")
    living = alive(running) if running else False
    if living is None:
        with contextlib.suppress(FileNotFoundError):
            return seconds_since(sweep.state_path(trial)) < LEASE
    if not running or not living:
        return False
    key = int(running["pid"]), int(running.get("ticks", 0))
    if time.monotonic() - _first_seen.setdefault(key, time.monotonic()) > _GRACE:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(key[0], signal.SIGKILL)  # with what it started, such as the processes of a torchrun
    return True


def cache_data(
    sweep: SweepDirectory, trials: list[Trial], say: Callable[[str], None], until: float = math.inf
) -> bool:
    """Download, check and cache each data set of the trials once, in a process of its own whose memory goes back.

    Whether that was done before a time `until` of `time.monotonic`.
    """
    seen = set()
    for trial in trials:
        data = sweep.plan.recipes[trial.cell]
        key = tuple(str(data.get(f"data.{name}")) for name in ("name", "root", "image_size"))
        if key in seen or key[0] == "digits":  # comes with scikit-learn
            continue
        seen.add(key)
        say(f"preparing {key[0]} ({key[1]})")
        path = sweep.path / "logs" / f"data-{len(seen)}.txt"
        with path.open("wb") as log:
            process = spawn(["load-data", str(sweep.write_recipe(trial))], dict(os.environ), log)
            try:
                code = process.wait(None if until == math.inf else max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                return False
            except BaseException:
                process.kill()
                raise
        if code != 0:
            lines = [line for line in tail(path, 0).splitlines() if line.strip()]
            problem = lines[-1].removeprefix("error: ") if lines else f"exit code {code}"
            raise UserError("data", f"cannot be prepared: {problem} ({path})", key[0])
    return True
