"""What a person sees of a sweep: counts and trials enter; a live table on a terminal, lines elsewhere, leave."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from srat_fast.console import interactive, unheard
from srat_fast.sweep.estimate import Estimate, clock, duration
from srat_fast.tables import Table, visible


@dataclass(frozen=True)
class Running:
    """A trial that runs.

    Attributes:
        name: of its directory.
        where: its slot.
        started: seconds since the epoch.
        speed: training images/s; 0 before its first epoch is done.
        attempt: from 1.
    """

    name: str
    where: str
    started: float
    speed: float
    attempt: int


@dataclass(frozen=True)
class Snapshot:
    """A sweep at a moment.

    Attributes:
        done: trials.
        failed: trials.
        queued: trials that wait here, or run under another driver.
        running: trials of this driver.
        left: estimate for what is not done.
    """

    done: int
    failed: int
    queued: int
    running: list[Running]
    left: Estimate

    def text(self) -> str:
        """One line.

        Returns:
            Such as "3 of 24 done, 2 running, 19 queued; 120 images/s; 12 min left".
        """
        total = self.done + self.failed + self.queued + len(self.running)
        parts = [f"{self.done} of {total} done", f"{len(self.running)} running", f"{self.queued} queued"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        speed = sum(trial.speed for trial in self.running)
        line = ", ".join(parts) + (f"; {speed:,.0f} images/s" if speed else "")
        if self.left.seconds is not None and (self.queued or self.running):
            line += f"; about {duration(self.left.seconds)} left ({clock(self.left.seconds)})"
        return line


class SweepView:
    """A sweep's progress.

    Args:
        title: of the sweep.
        console: where it is shown.
        every: seconds between summaries where the console is no terminal.
    """

    def __init__(self, title: str, console: Console, every: float = 60.0) -> None:
        self._title, self._console, self._every = title, console, every
        self._live: Live | None = None
        self._shown = time.monotonic()

    def __enter__(self) -> SweepView:
        if interactive(self._console):
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            with unheard(self._console):
                self._live.start()
            if self._console.quiet:
                self._live = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._live is not None:
            with unheard(self._console):
                self._live.stop()

    def line(self, text: str) -> None:
        """One line that stays.

        Args:
            text: without markup.
        """
        with unheard(self._console):
            self._console.print(
                visible(text, lines=True), markup=False, emoji=False, highlight=False, soft_wrap=True
            )

    @property
    def due(self) -> bool:
        """Whether it is time for a snapshot: twice a second on a terminal, once a minute elsewhere."""
        return time.monotonic() - self._shown > (0.5 if self._live is not None else self._every)

    def update(self, snapshot: Snapshot) -> None:
        """Show how far it is.

        Args:
            snapshot: now.
        """
        self._shown = time.monotonic()
        if self._live is None:
            self.line(snapshot.text())
        else:
            with unheard(self._console):
                self._live.update(self._render(snapshot), refresh=True)

    def _render(self, snapshot: Snapshot) -> Group:
        total = snapshot.done + snapshot.failed + snapshot.queued + len(snapshot.running)
        parts: list[RenderableType] = [Text(visible(self._title))]
        if snapshot.running:
            table = Table(
                "running", "slot", "attempt", "images/s", "for", right=(2, 3), spare=("attempt", "slot")
            )
            for trial in snapshot.running:
                speed = f"{trial.speed:,.0f}" if trial.speed else "-"
                table.add(
                    trial.name, trial.where, str(trial.attempt), speed, duration(time.time() - trial.started)
                )
            parts.append(table)
        bar = ProgressBar(total=total, completed=snapshot.done, width=min(60, self._console.width))
        return Group(*parts, bar, Text(), Text(snapshot.text()))  # a bar by itself does not end its line
