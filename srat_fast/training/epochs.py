"""The epochs of a run: a ready setup enters, one dictionary of numbers an epoch leaves; between any two steps its
position can be taken as plain state, and given to a new runner."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from srat_fast.hardware import peak_flops, peak_memory
from srat_fast.training.ema import MovingAverage
from srat_fast.training.guard import LateReader, NotFinite
from srat_fast.training.memory import memory_errors
from srat_fast.training.profile import StepProfiler
from srat_fast.training.progress import ProgressView
from srat_fast.training.schedule import learning_rate
from srat_fast.training.setup import Result, Setup
from srat_fast.training.stopwatch import Stopwatch

_STAGES = ("attack", "step", "data")


class EpochRunner:
    """Runs epochs and keeps their sums; reads the device only once an epoch, or when a person is watching.

    Args:
        setup: the run.
        view: told of progress.
        flops_per_image: of one training image, for MFU.
        directory: receives a profile, where one is asked for.
        before_step: called before each step, with whether it may compile.
        after_step: called after each step, when `state` is whole; returns seconds that are not training's.

    Attributes:
        epoch: the present one, from 0.
        batch: batches of it that are done.
        training_seconds: of the epochs before.
        images: of the epochs before.
        ema: moving average of the weights, or None.
    """

    def __init__(
        self,
        setup: Setup,
        view: ProgressView,
        flops_per_image: int,
        directory: Path,
        before_step: Callable[[bool], None] = lambda compiles: None,
        after_step: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.setup, self._view = setup, view
        self._before_step, self._after_step = before_step, after_step
        peak = peak_flops(setup.device, setup.recipe.run.precision)
        self._mfu_per_speed = flops_per_image / peak if peak else None
        self._profiler = StepProfiler(directory, setup.device) if setup.recipe.run.profile else None
        self._data_watch = Stopwatch(setup.device)
        self._bad = LateReader(setup.engine.guard.bad)
        self._shapes: set[torch.Size] = set()
        self.training_seconds = 0.0
        self.images = 0
        self.epoch, self.batch, self._seen = 0, 0, 0
        self._sums = torch.zeros(4, dtype=torch.float64, device=setup.device)  # total, L_cls, L_sep, correct
        #: seconds: of this epoch so far, of all stages before this process, and the clocks of a part under way.
        self._earlier = {"total": 0.0} | dict.fromkeys(_STAGES, 0.0)
        self._stages = dict.fromkeys(_STAGES, 0.0)
        self._clocks: tuple[dict[str, float], float, float] | None = None
        self._aside = 0.0
        decay = setup.recipe.optim.ema_decay
        self.ema = MovingAverage(setup.engine.model, decay) if decay > 0 else None

    def seconds(self) -> dict[str, float]:
        """Seconds of training so far, by stage, those of earlier processes included.

        Returns:
            {"attack", "step", "data"}.
        """
        now = self.setup.engine.stopwatch.seconds() | self._data_watch.seconds()
        return {name: self._stages[name] + now.get(name, 0.0) for name in _STAGES}

    def run(self) -> dict[str, Any]:
        """Train to the end of the present epoch; `advance` then goes on to the next.

        Returns:
            The epoch's line of metrics.jsonl.

        Raises:
            NotFinite: a loss or gradient is not finite; the model is as it was before that step.
            TrainingFailure: the device's memory is full.
        """
        setup, engine = self.setup, self.setup.engine
        self._clocks, self._aside = (self.seconds(), time.perf_counter(), engine.compile_seconds), 0.0
        engine.start_epoch(self.epoch)
        engine.guard.steps.fill_(self.batch)
        reported = self._seen
        batches = setup.loader.epoch(self.epoch, self.batch)
        while True:
            with self._data_watch.region("data"), memory_errors("while loading images", "--batch-size"):
                batch = next(batches, None)
            if batch is None:
                break
            images, labels = batch
            self._before_step(self._may_compile(images))
            with memory_errors(f"in epoch {self.epoch + 1}", "--batch-size or --set model.width"):
                result = engine.step(images, labels)
                if self.ema is not None:
                    self.ema.update(engine.guard.found)
                self._add(result, len(labels))
            if self._bad.poll():
                self._stop()
            self.batch += 1
            if self._profiler is not None and (table := self._profiler.step()):
                self._view.line(table)
            if self._view.wants_text:
                self._view.advance(self._seen - reported, self._text())
                reported = self._seen
            self._aside += self._after_step()
        self._view.advance(self._seen - reported)
        if self._bad.now():  # waits for the device
            self._stop()
        last = self.epoch + 1 == setup.recipe.optim.epochs
        if last and self._profiler is not None and (table := self._profiler.finish()):
            self._view.line(table)  # the run was shorter than the profile
        return self._line()

    def advance(self) -> None:
        """Go on to the next epoch."""
        self.training_seconds += self._spent()["total"]
        self.images += self._seen
        self.epoch, self.batch, self._seen = self.epoch + 1, 0, 0
        self._sums.zero_()
        self._earlier = {"total": 0.0} | dict.fromkeys(_STAGES, 0.0)
        for counter in (self.setup.engine.nonfinite, self.setup.engine.zero):
            counter.zero_()

    def mfu(self, speed: float) -> float | None:
        """Share of the device's matrix-product rate that a speed amounts to.

        Args:
            speed: training images a second.

        Returns:
            The share, or None where the device's rate is not known.
        """
        return None if self._mfu_per_speed is None else speed * self._mfu_per_speed

    def state(self) -> dict[str, Any]:
        """Where the run stands between two steps; waits for the device.

        Returns:
            Plain values and tensors on the CPU, for `restore`.
        """
        engine = self.setup.engine
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "seen": self._seen,
            "sums": self._sums.cpu(),
            "nonfinite": int(engine.nonfinite),
            "zero": int(engine.zero),
            "spent": self._spent(),
            "training_seconds": self.training_seconds,
            "images": self.images,
            "stages": self.seconds(),
            "compile": engine.compile_seconds,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Stand where another runner stood.

        Args:
            state: as `state` gave it.
        """
        engine = self.setup.engine
        self.epoch, self.batch, self._seen = state["epoch"], state["batch"], state["seen"]
        self._sums.copy_(state["sums"])
        engine.nonfinite.fill_(state["nonfinite"])
        engine.zero.fill_(state["zero"])
        self._earlier = dict(state["spent"])
        self.training_seconds, self.images = state["training_seconds"], state["images"]
        self._stages = dict(state["stages"])
        engine.compile_seconds = state["compile"]

    def _add(self, result: Result, images: int) -> None:
        """Sum up a step, unless it or one before it was not finite."""
        losses = torch.stack([result.total, result.classification, result.separation]).double() * images
        step = torch.cat([losses, result.correct.double().reshape(1)])
        self._sums += torch.where(self.setup.engine.guard.bad > 0, 0.0, step)
        self._seen += images

    def _stop(self) -> None:
        """Go back to the state before the step that was not finite, and end.

        Raises:
            NotFinite: always.
        """
        guard = self.setup.engine.guard
        guard.settle()
        if self.ema is not None:
            self.ema.copy_statistics()
        step, loss = int(guard.bad), float(guard.loss)
        self.batch = step - 1
        self._seen = min(self.batch * self.setup.loader.batch_size, self.setup.loader.images_per_epoch)
        what = f"the loss is {loss}" if not math.isfinite(loss) else "the gradient's norm is not finite"
        raise NotFinite(
            f"{what} in epoch {self.epoch + 1}, step {step} (before its update); try a lower optim.lr, "
            "a longer optim.warmup_epochs or optim.clip_norm"
        )

    def _spent(self) -> dict[str, float]:
        """Seconds of the present epoch, in all and by stage."""
        if self._clocks is None:
            return dict(self._earlier)
        before, started, compiled = self._clocks
        now, compiling = self.seconds(), self.setup.engine.compile_seconds - compiled
        total = time.perf_counter() - started - compiling - self._aside
        here = {"total": total} | {name: now[name] - before[name] for name in _STAGES}
        return {name: self._earlier[name] + here[name] for name in here}

    def _line(self) -> dict[str, Any]:
        setup, engine = self.setup, self.setup.engine
        total, classification, separation, correct = (self._sums / self._seen).tolist()
        # the clocks stop: what comes between this and the next epoch is evaluation, not training
        seconds = self._earlier = self._spent()
        self._clocks = None
        speed = self._seen / seconds["total"]
        pixels = setup.split.train.images[0].size
        attacked = self._seen * pixels * setup.recipe.attack.steps if setup.recipe.row.adversarial else 0
        return {
            "epoch": self.epoch,
            "lr": learning_rate(setup.recipe, self.epoch),
            "loss": total,
            "classification": classification,
            "separation": separation,
            "train_accuracy": correct,
            "images_per_second": speed,
            "mfu": self.mfu(speed),
            "peak_memory_bytes": peak_memory(setup.device),
            "nonfinite_gradients": int(engine.nonfinite),
            "zero_gradient_share": int(engine.zero) / attacked if attacked else None,
            "seconds": seconds,
        }

    def _may_compile(self, images: Tensor) -> bool:
        """Whether a step on these is the first of its shape in a compiled or captured run."""
        new = images.shape not in self._shapes
        self._shapes.add(images.shape)
        run = self.setup.recipe.run
        return new and "on" in (run.compile, run.capture)

    def _text(self) -> str:
        total, _, _, correct = (self._sums / self._seen).tolist()
        mfu = self.mfu(self._seen / self._spent()["total"])
        return f"loss {total:.3f}  train acc {correct:.1%}" + ("" if mfu is None else f"  MFU {mfu:.0%}")
