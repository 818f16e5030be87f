"""Progress of long work: a bar or a live view on a terminal, lines elsewhere; a console that breaks ends nothing."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from rich import progress
from rich.console import Console, RenderableType
from rich.live import Live
from rich.measure import Measurement
from rich.text import Text

from srat_fast.console import interactive, unheard
from srat_fast.tables import visible


class Bar(progress.Progress):
    """A bar on one line that goes when it is done; columns that do not fit are left out, from the right."""

    def __init__(self, console: Console, *columns: progress.ProgressColumn) -> None:
        self._shown_on = console
        super().__init__(*columns, console=console, transient=True)

    def make_tasks_table(self, tasks: Any) -> Any:
        """The line, of as many columns as fit."""
        kept: list[progress.ProgressColumn] = []
        every, room = self.columns, self._shown_on.width
        for column in every:
            assert isinstance(column, progress.ProgressColumn)
            needs = [
                Measurement.get(self._shown_on, self._shown_on.options, column(task)).maximum
                for task in tasks
            ]
            room -= max(needs, default=0)
            if room < 0 and kept:
                break
            kept.append(column)
            room -= 1
        self.columns = tuple(kept)
        try:
            return super().make_tasks_table(tasks)
        finally:
            self.columns = every


class View:
    """Something drawn over for as long as a block runs, on a terminal where that is possible; and lines that stay."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Bar | Live | None = None

    def drawn(self) -> Bar | Live:
        """What is drawn over."""
        return Live(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        if interactive(self._console):
            self._live = self.drawn()
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
        """One line that stays."""
        with unheard(self._console):
            self._console.print(
                visible(text, lines=True), markup=False, emoji=False, highlight=False, soft_wrap=True
            )


class LiveView(View):
    """A view that is made anew at each look: twice a second on a terminal, a line every `every` seconds elsewhere."""

    def __init__(self, console: Console, every: float = 60.0) -> None:
        super().__init__(console)
        self._every, self._shown = every, time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time to show how far it is."""
        return time.monotonic() - self._shown > (0.5 if self._live is not None else self._every)

    def show(self, drawn: RenderableType, text: str) -> None:
        """Draw it, or print the line."""
        self._shown = time.monotonic()
        if isinstance(self._live, Live):
            with unheard(self._console):
                self._live.update(drawn, refresh=True)
        else:
            self.line(text)


class BarView(View):
    """A bar for one phase after the other, of these columns; nothing elsewhere."""

    def __init__(self, console: Console, *columns: progress.ProgressColumn) -> None:
        super().__init__(console)
        self._columns = columns

    def drawn(self) -> Bar:
        """The bar."""
        return Bar(self._console, *self._columns)

    def begin(self, phase: str, total: int) -> None:
        """A new phase of `total` images, or bytes."""
        if isinstance(self._live, Bar):
            for task in self._live.task_ids:
                self._live.remove_task(task)
            self._live.add_task(phase, total=total, text="")

    def update(self, **changes: Any) -> None:
        """`advance` by, or `completed` to, a number; a new `description` or `text`."""
        if isinstance(self._live, Bar):
            self._live.update(self._live.task_ids[0], **changes)


def _text(field: str, **options: Any) -> progress.TextColumn:
    """Text as it is."""
    return progress.TextColumn(field, markup=False, **options)


class _Rate(progress.ProgressColumn):
    """Images a second."""

    def render(self, task: progress.Task) -> Text:
        return Text(f"{task.speed:,.0f} img/s" if task.speed else "- img/s", style="cyan")


class ProgressView(BarView):
    """Progress of training and its evaluation; elsewhere than on a terminal `line` prints one line an epoch."""

    def __init__(self, title: str, console: Console) -> None:
        super().__init__(
            console,
            progress.SpinnerColumn("dots" if console.encoding.startswith("utf") else "line"),
            _text(title.replace("{", "{{").replace("}", "}}"), style="bold"),
            _text("{task.description}"),
            progress.BarColumn(bar_width=24),
            progress.TextColumn("{task.percentage:>3.0f}%"),
            _Rate(),
            progress.TimeRemainingColumn(elapsed_when_finished=True),
            _text("{task.fields[text]}"),
        )
        self._shown = 0.0

    @property
    def wants_text(self) -> bool:
        """Whether it is time to read the losses: twice a second on a terminal, never elsewhere.

        Reading them makes the host wait for the device, so it is rationed.
        """
        now = time.monotonic()
        if self._live is None or now - self._shown < 0.5:
            return False
        self._shown = now
        return True

    def advance(self, images: int, text: str | None = None) -> None:
        """`images` more are done."""
        self.update(advance=images, **({} if text is None else {"text": text}))

    def describe(self, text: str) -> None:
        """Change the phase's description, such as "epoch 3/40"."""
        self.update(description=text)


class Watch(BarView):
    """Called with the progress of one attack or check after the other; a line every `every` seconds elsewhere."""

    def __init__(self, console: Console, every: float = 10.0) -> None:
        super().__init__(
            console,
            _text("{task.description}"),
            progress.BarColumn(bar_width=24),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(elapsed_when_finished=True),
        )
        self._every = every
        self._name, self._since, self._from, self._told = "", 0.0, 0, 0.0

    def __call__(self, name: str, done: int, total: int) -> None:
        """`done` of `total` images, of what `name` says."""
        now = time.monotonic()
        if name != self._name:
            # images that an earlier attempt had done come at once: they say nothing about the speed
            self._name, self._since, self._from, self._told = name, now, done, now
            self.begin(name, total)
        if self._live is not None:
            self.update(completed=done)
        elif now - self._told >= self._every and done > self._from:
            left = (total - done) * (now - self._since) / (done - self._from)
            self._told = now
            self.line(f"{name}: {done}/{total}, {left:.0f} s left")


class AmountView(BarView):
    """A bar of what is prepared, of images or bytes, in all."""

    def __init__(self, console: Console, title: str, total: int, in_bytes: bool) -> None:
        amount = (
            (progress.DownloadColumn(), progress.TransferSpeedColumn())
            if in_bytes
            else (progress.MofNCompleteColumn(),)
        )
        columns = (_text("{task.description}"), progress.BarColumn(), *amount, progress.TimeRemainingColumn())
        super().__init__(console, *columns)
        self._title, self._total = title, total

    def __enter__(self) -> Self:
        super().__enter__()
        self.begin(self._title, self._total)
        return self
