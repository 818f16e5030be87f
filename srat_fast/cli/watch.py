"""Progress of an evaluation: a bar or lines with the time left."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from srat_fast.console import Bar, interactive


class Watch:
    """Called with the progress of one thing after the other.

    Args:
        console: a bar if it is a terminal, else a line every `every` seconds.
        every: seconds between two lines.
    """

    def __init__(self, console: Console, every: float = 10.0) -> None:
        self._console, self._every = console, every
        self._bar: Bar | None = None
        self._name, self._since, self._from, self._told = "", 0.0, 0, 0.0

    def __enter__(self) -> Watch:
        if interactive(self._console):
            self._bar = Bar(
                self._console,
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(elapsed_when_finished=True),
            )
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, name: str, done: int, total: int) -> None:
        """Say how far it is.

        Args:
            name: of the attack or check.
            done: images so far.
            total: images in all.
        """
        now = time.monotonic()
        if name != self._name:
            # images that an earlier attempt had done come at once: they say nothing about the speed
            self._name, self._since, self._from, self._told = name, now, done, now
            if self._bar is not None:
                for task in self._bar.task_ids:
                    self._bar.remove_task(task)
                self._bar.add_task(name, total=total)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done)
        elif now - self._told >= self._every and done > self._from:
            left = (total - done) * (now - self._since) / (done - self._from)
            self._told = now
            self._console.print(
                f"{name}: {done}/{total}, {left:.0f} s left", markup=False, highlight=False, soft_wrap=True
            )
