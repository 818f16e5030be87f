"""Commands under a deadline: `srat-fast` arguments enter, exit codes leave; at the deadline they save and end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from benchmarks.paper.judging import Job
from srat_fast.sweep.process import spawn, tail

#: Seconds that commands have for saving after the deadline; a state of width 64 is 184 MB, several save at once.
GRACE = 30.0
#: Seconds that starting a command is worth at least.
WORTH = 15.0


class Asked(Exception):
    """A signal asks for the end.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 130 if number == signal.SIGINT else 143


class Children:
    """Runs commands until a deadline.

    Args:
        logs: folder for what they print.
        stop_at: when they are asked to save and end, of `time.monotonic`.
        environment: of theirs.
    """

    def __init__(self, logs: Path, stop_at: float, environment: dict[str, str]) -> None:
        self.logs, self.stop_at, self.environment = logs, stop_at, environment
        logs.mkdir(parents=True, exist_ok=True)

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.stop_at - time.monotonic()

    def run(self, job: Job) -> int | None:
        """Run one command to its end or to the deadline.

        Args:
            job: the command.

        Returns:
            Its exit code; None where the deadline came first.
        """
        return self.run_all([job], 1)[job.name]

    def run_all(self, jobs: list[Job], at_a_time: int) -> dict[str, int | None]:
        """Run commands side by side.

        Args:
            jobs: with distinct names.
            at_a_time: how many.

        Returns:
            Name -> exit code; None for those that the deadline ended or kept from starting.
        """
        ended: dict[str, int | None] = {job.name: None for job in jobs}
        waiting, running = list(jobs), {}
        try:
            while running or (waiting and self.left > WORTH):
                while waiting and len(running) < at_a_time and self.left > WORTH:
                    job = waiting.pop(0)
                    running[job.name] = self._start(job)
                for name, process in list(running.items()):
                    if process.poll() is not None:
                        ended[name] = process.returncode
                        del running[name]
                if self.left <= 0:
                    break
                time.sleep(0.05)
        finally:
            self._end(running)
        return ended

    def _start(self, job: Job) -> subprocess.Popen:
        with self.log(job).open("ab") as log:
            log.write(f"== {time.ctime()}: srat-fast {' '.join(job.arguments)}\n".encode())
            log.flush()
            return spawn(job.arguments, self.environment, log)

    def log(self, job: Job) -> Path:
        """What a command printed, all attempts after one another.

        Args:
            job: the command.

        Returns:
            Its path, there or not.
        """
        return self.logs / f"{job.name}.txt"

    def last_words(self, job: Job, lines: int) -> str:
        """The end of what a command printed.

        Args:
            job: the command.
            lines: at most so many.

        Returns:
            The text, indented.
        """
        said = [line.rstrip() for line in tail(self.log(job), 0).splitlines() if line.strip()]
        return "\n".join(f"   {line[:300]}" for line in said[-lines:])

    @staticmethod
    def _end(running: dict[str, subprocess.Popen]) -> None:
        """Ask what runs to save and end; what does not is killed."""
        for process in running.values():
            process.terminate()
        patience = time.monotonic() + GRACE
        for process in running.values():
            try:
                process.wait(max(0.1, patience - time.monotonic()))
            except subprocess.TimeoutExpired:
                # a killed sweep's trials are told by the kernel, and end too
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def asked(number: int, frame: object) -> None:
    """A signal's handler: whatever is under way ends its commands and goes on to what must be kept.

    Args:
        number: of the signal.
        frame: not used.

    Raises:
        Asked: always.
    """
    raise Asked(number)
