"""The epochs of a run: a ready setup enters, one dictionary of numbers an epoch leaves."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from srat_fast.errors import TrainingFailure
from srat_fast.hardware import peak_flops, peak_memory
from srat_fast.training.ema import MovingAverage
from srat_fast.training.profile import StepProfiler
from srat_fast.training.progress import ProgressView
from srat_fast.training.schedule import learning_rate
from srat_fast.training.setup import Setup
from srat_fast.training.stopwatch import Stopwatch


class EpochRunner:
    """Runs epochs and keeps their sums; reads the device only once an epoch, or when a person is watching.

    Args:
        setup: the run.
        view: told of progress.
        flops_per_image: of one training image, for MFU.
        directory: receives a profile, where one is asked for.
    """

    def __init__(self, setup: Setup, view: ProgressView, flops_per_image: int, directory: Path) -> None:
        self.setup, self._view = setup, view
        peak = peak_flops(setup.device, setup.recipe.run.precision)
        self._mfu_per_speed = flops_per_image / peak if peak else None
        self._profiler = StepProfiler(directory, setup.device) if setup.recipe.run.profile else None
        self._data_watch = Stopwatch(setup.device)
        self.training_seconds = 0.0
        self.images = 0
        decay = setup.recipe.optim.ema_decay
        self.ema = MovingAverage(setup.engine.model, decay) if decay > 0 else None

    def seconds(self) -> dict[str, float]:
        """Seconds of training so far, by stage.

        Returns:
            {"attack", "step", "data"}.
        """
        return {"attack": 0.0} | self.setup.engine.stopwatch.seconds() | self._data_watch.seconds()

    def run(self, epoch: int) -> dict[str, Any]:
        """Train for one epoch.

        Args:
            epoch: from 0.

        Returns:
            Its line of metrics.jsonl.

        Raises:
            TrainingFailure: the loss is no longer finite, or the device's memory is full.
        """
        setup, engine = self.setup, self.setup.engine
        before, started = self.seconds(), time.perf_counter()
        engine.start_epoch(epoch)
        engine.nonfinite.zero_()
        engine.zero.zero_()
        compiling = engine.compile_seconds
        sums = torch.zeros(4, dtype=torch.float64, device=setup.device)  # total, L_cls, L_sep, correct
        seen, reported = 0, 0
        batches = setup.loader.epoch(epoch)
        while True:
            with self._data_watch.region("data"):
                batch = next(batches, None)
            if batch is None:
                break
            images, labels = batch
            try:
                result = engine.step(images, labels)
            except torch.OutOfMemoryError:
                raise TrainingFailure(
                    f"out of memory in epoch {epoch + 1}; lower --batch-size or --set model.width"
                ) from None
            if self.ema is not None:
                self.ema.update()
            if self._profiler is not None and (table := self._profiler.step()):
                self._view.line(table)
            losses = torch.stack([result.total, result.classification, result.separation]).double()
            sums[:3] += losses * len(labels)
            sums[3] += result.correct
            seen += len(labels)
            if self._view.wants_text:
                self._view.advance(
                    seen - reported, self._text(sums, seen, seen / (time.perf_counter() - started))
                )
                reported = seen
        self._view.advance(seen - reported)
        last = epoch + 1 == setup.recipe.optim.epochs
        if last and self._profiler is not None and (table := self._profiler.finish()):
            self._view.line(table)  # the run was shorter than the profile
        total, classification, separation, correct = (sums / seen).tolist()  # waits for the device
        seconds = time.perf_counter() - started - (engine.compile_seconds - compiling)
        if not math.isfinite(total):
            raise TrainingFailure(
                f"the loss is {total} in epoch {epoch + 1}; try a lower optim.lr or a longer optim.warmup_epochs"
            )
        self.training_seconds += seconds
        self.images += seen
        after = self.seconds()
        channels_and_pixels = setup.split.train.images[0].size
        attacked = (
            seen * channels_and_pixels * setup.recipe.attack.steps if setup.recipe.row.adversarial else 0
        )
        return {
            "epoch": epoch,
            "lr": learning_rate(setup.recipe, epoch),
            "loss": total,
            "classification": classification,
            "separation": separation,
            "train_accuracy": correct,
            "images_per_second": seen / seconds,
            "mfu": self.mfu(seen / seconds),
            "peak_memory_bytes": peak_memory(setup.device),
            "nonfinite_gradients": int(engine.nonfinite),
            "zero_gradient_share": int(engine.zero) / attacked if attacked else None,
            "seconds": {"total": seconds} | {name: after[name] - before.get(name, 0.0) for name in after},
        }

    def mfu(self, speed: float) -> float | None:
        """Share of the device's matrix-product rate that a speed amounts to.

        Args:
            speed: training images a second.

        Returns:
            The share, or None where the device's rate is not known.
        """
        return None if self._mfu_per_speed is None else speed * self._mfu_per_speed

    def _text(self, sums: Tensor, seen: int, speed: float) -> str:
        total, _, _, correct = (sums / seen).tolist()
        mfu = self.mfu(speed)
        return f"loss {total:.3f}  train acc {correct:.1%}" + ("" if mfu is None else f"  MFU {mfu:.0%}")
