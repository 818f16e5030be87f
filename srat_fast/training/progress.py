"""What a person sees of a run: counts and losses enter; a bar on a terminal, plain lines elsewhere, leave."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from srat_fast.console import Bar, interactive, unheard
from srat_fast.tables import visible


class _Rate(ProgressColumn):
    """Images a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} img/s" if task.speed else "- img/s", style="cyan")


class ProgressView:
    """Progress of training and evaluation.

    Args:
        title: of the run.
        console: where it is shown; a bar if it is a terminal, else one line an epoch. It may fail: the run goes on.
    """

    def __init__(self, title: str, console: Console) -> None:
        self._console, self._title = console, title
        self._bar: Bar | None = None
        self._started = time.monotonic()
        self._phase, self._text = "", ""
        self._shown = 0.0

    def __enter__(self) -> ProgressView:
        if interactive(self._console):
            self._bar = Bar(
                self._console,
                SpinnerColumn("dots" if self._console.encoding.startswith("utf") else "line"),
                TextColumn("{task.fields[title]}", style="bold", markup=False),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f}%"),
                _Rate(),
                TimeRemainingColumn(elapsed_when_finished=True),
                TextColumn("{task.fields[text]}", markup=False),
            )
            with unheard(self._console):
                self._bar.start()
            if self._console.quiet:
                self._bar = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._bar is not None:
            with unheard(self._console):
                self._bar.stop()

    def begin(self, phase: str, images: int) -> None:
        """A new phase of `images` images.

        Args:
            phase: such as "training".
            images: how many it handles in all.
        """
        self._phase = phase
        if self._bar is not None:
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            self._bar.add_task(phase, total=images, title=self._title, text="")

    def advance(self, images: int, text: str | None = None) -> None:
        """`images` more are done.

        Args:
            images: since the last call.
            text: losses and accuracies to show beside the bar; None keeps what is there.
        """
        if self._bar is not None:
            task = self._bar.task_ids[0]
            if text is None:
                self._bar.update(task, advance=images)
            else:
                self._bar.update(task, advance=images, text=text)

    @property
    def wants_text(self) -> bool:
        """Whether it is time to read the losses: twice a second on a terminal, never elsewhere.

        Reading them makes the host wait for the device, so it is rationed.
        """
        now = time.monotonic()
        if self._bar is None or now - self._shown < 0.5:
            return False
        self._shown = now
        return True

    def describe(self, text: str) -> None:
        """Change the phase's description, such as "epoch 3/40".

        Args:
            text: the new one.
        """
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], description=text)

    def line(self, text: str) -> None:
        """One line that stays: an epoch's summary.

        Args:
            text: without markup.
        """
        with unheard(self._console):
            self._console.print(
                visible(text, lines=True), markup=False, emoji=False, highlight=False, soft_wrap=True
            )
