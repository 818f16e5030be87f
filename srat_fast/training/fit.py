"""All epochs of a run and its final evaluation: a setup enters, the measured part of the record leaves; state is saved
on the way, when it is time, when a signal asks for it, and at the end of training."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from srat_fast.data.arrays import ImageSet
from srat_fast.errors import Interrupted
from srat_fast.evaluation.judge import eval_settings, judge
from srat_fast.evaluation.samples import sample_examples, save_samples
from srat_fast.models.files import model_from_bytes, save_model
from srat_fast.recipe import Recipe
from srat_fast.record import BEST, EMA, MODEL, SAMPLES, RunDirectory, versions
from srat_fast.training import state
from srat_fast.training.checkpoint import Checkpoint, Checkpoints
from srat_fast.training.curves import Curves
from srat_fast.training.epochs import EpochRunner
from srat_fast.training.guard import NotFinite
from srat_fast.training.lines import curve_points, epoch_line
from srat_fast.training.memory import memory_errors
from srat_fast.training.overfitting import catastrophic_overfitting, overfitting_verdict
from srat_fast.training.progress import ProgressView
from srat_fast.training.setup import Setup
from srat_fast.training.stops import Stops
from srat_fast.training.watchdog import COMPILING, Watchdog


class Fit:
    """The work of one run.

    Args:
        setup: ready to start.
        run: its directory.
        checkpoints: where its state goes.
        view: told of progress.
        curves: live curves.
        flops_per_image: of one training image, for MFU.
        stops: asked at each step boundary.
        watchdog: told of each step.
    """

    def __init__(
        self,
        setup: Setup,
        run: RunDirectory,
        checkpoints: Checkpoints,
        view: ProgressView,
        curves: Curves,
        flops_per_image: int,
        stops: Stops,
        watchdog: Watchdog,
    ) -> None:
        self.setup, self.run_directory, self.checkpoints = setup, run, checkpoints
        self._view, self._curves, self._stops, self._watchdog = view, curves, stops, watchdog
        self.runner = EpochRunner(setup, view, flops_per_image, run.path, self._before_step, self._after_step)
        #: kept in checkpoints: best epoch so far, last line of metrics, and what was spent outside of training.
        self._history: dict[str, Any] = {
            "best": None, "metrics": {}, "evaluation": 0.0, "elapsed": 0.0, "saves": 0, "saving": 0.0, "bytes": 0,
        }  # fmt: skip
        #: what every checkpoint says of its run.
        self._about = {
            "recipe": setup.recipe.to_dict(),
            "fingerprint": setup.recipe.fingerprint(),
            "data_checksum": setup.split.checksum,
            "versions": versions(),
        }
        self._started = self._saved_at = time.monotonic()
        self._saved: tuple[int, int] | None = None

    @property
    def step(self) -> int:
        """Steps done since the first epoch."""
        return self.runner.epoch * len(self.setup.loader) + self.runner.batch

    def restore(self, checkpoint: Checkpoint) -> None:
        """Stand where the checkpoint was saved.

        Args:
            checkpoint: of this run, verified.

        Raises:
            UserError: its state is not one of ours.
        """
        self._history = state.restore(self.setup, self.runner, self.run_directory, checkpoint.files)
        self._saved = (self.runner.epoch, self.runner.batch)

    def run(self) -> dict[str, Any]:
        """Train what is left, then evaluate; the best epoch is chosen by validation, never by the test set.

        Returns:
            Accuracies, speed and seconds for the record.

        Raises:
            Interrupted: a signal asked for it; the state is saved.
            TrainingFailure: see `EpochRunner.run`; or the state could not be saved.
        """
        runner, recipe, curves = self.runner, self.setup.recipe, self._curves
        epochs, images = recipe.optim.epochs, self.setup.loader.images_per_epoch
        self._view.begin("training", epochs * images)
        self._view.advance(min(epochs * images, self.step * self.setup.loader.batch_size))
        while runner.epoch < epochs:
            self._view.describe(f"epoch {runner.epoch + 1}/{epochs}")
            try:
                metrics = runner.run()
            except NotFinite:
                self._save_last_finite()
                raise
            if len(self.setup.split.validation):
                metrics["validation"] = verdict = self._validate(runner.epoch)
                overfitted = catastrophic_overfitting(recipe, metrics["train_accuracy"], verdict["robust"])
                metrics["catastrophic_overfitting"] = overfitted
            self._history["metrics"] = metrics
            self.run_directory.append_metrics(metrics)
            curves.epoch(runner.epoch, curve_points(metrics))
            runner.advance()
            self._view.line(epoch_line(recipe.method, metrics, epochs, runner.training_seconds))
            every = recipe.run.checkpoint_epochs
            if runner.epoch == epochs or (every and runner.epoch % every == 0):
                self.save()
            self._after_step()
        return self._evaluate()

    def save(self) -> float:
        """Save the state between two steps, unless this very state is saved.

        Returns:
            Seconds that it took.

        Raises:
            TrainingFailure: the disk is full.
        """
        position = (self.runner.epoch, self.runner.batch)
        if self._saved == position:
            return 0.0
        started, recipe = time.monotonic(), self.setup.recipe
        self._watchdog.beat(COMPILING)  # a slow file system is no hang
        elapsed = self._history["elapsed"] + started - self._started
        files = state.capture(
            self.setup, self.runner, self.run_directory, self._history | {"elapsed": elapsed}, label(recipe)
        )
        about = {"epoch": position[0], "batch": position[1], "step": self.step} | self._about
        saved = self.checkpoints.save(f"{position[0]:06d}-{position[1]:07d}", files, about)
        self._saved, self._saved_at = position, time.monotonic()
        seconds = self._saved_at - started
        self._history["saves"] += 1
        self._history["saving"] += seconds
        self._history["bytes"] = saved.bytes
        self._watchdog.beat()
        return seconds

    def _save_last_finite(self) -> None:
        """Save the state before a step that was not finite, where that is one to go on from."""
        if all(bool(torch.isfinite(p).all()) for p in self.setup.engine.model.state_dict().values()):
            self.save()

    def _before_step(self, compiles: bool) -> None:
        self._watchdog.beat(COMPILING if compiles else 0.0)

    def _after_step(self) -> float:
        """What happens between two steps: stop, or save when it is time."""
        self._watchdog.beat()
        if self._stops.requested:
            self.save()
            raise self._interrupted()
        minutes = self.setup.recipe.run.checkpoint_minutes
        if minutes > 0 and time.monotonic() - self._saved_at >= 60 * minutes:
            return self.save()
        return 0.0

    def _interrupted(self) -> Interrupted:
        signal = self._stops.signal
        at = f"epoch {self.runner.epoch + 1}, step {self.runner.batch}"
        if self.runner.epoch == self.setup.recipe.optim.epochs:
            at = "the final evaluation"
        return Interrupted(
            f"stopped by {signal.name if signal else 'a signal'} in {at}; the state is saved, --resume goes on",
            self._stops.code,
        )

    def _validate(self, epoch: int) -> dict[str, Any]:
        before, best, model = time.monotonic(), self._history["best"], self.setup.engine.model
        verdict = self._judge(model, self.setup.split.validation, lambda images: None)
        if best is None or verdict["robust"]["balanced"] > best["validation"]["robust"]["balanced"]:
            self._history["best"] = {"epoch": epoch, "validation": verdict}
            about = label(self.setup.recipe) | {"epoch": str(epoch)}
            save_model(self.run_directory.path / BEST, model.state_dict(), about)
        self._history["evaluation"] += time.monotonic() - before
        return verdict

    def _evaluate(self) -> dict[str, Any]:
        """The last weights, the best by validation and the moving average, each judged on the test images."""
        setup, runner, path, view = self.setup, self.runner, self.run_directory.path, self._view
        recipe, model, test, history = setup.recipe, setup.engine.model, setup.split.test, self._history
        checksums = {"last": save_model(path / MODEL, model.state_dict(), label(recipe))}
        before = time.monotonic()
        view.begin("evaluation", 2 * len(test))
        result = self._judge(model, test, view.advance)
        if history["best"] is not None:
            last_epoch = {"epoch": recipe.optim.epochs - 1, "validation": history["metrics"]["validation"]}
            result["last"] = last_epoch | result  # the same as at the top, labelled beside the best
            content = (path / BEST).read_bytes()
            checksums["best"] = hashlib.sha256(content).hexdigest()
            best = model_from_bytes(content, path / BEST).to(setup.device)
            result["best"] = history["best"] | self._judge(best, test, lambda images: None)
        if runner.ema is not None:
            result["ema"] = self._judge(runner.ema.module, test, lambda images: None)
            checksums["ema"] = save_model(path / EMA, runner.ema.module.state_dict(), label(recipe))
        examples = sample_examples(model, test, eval_settings(recipe), device=setup.device, seed=recipe.seed)
        save_samples(path / SAMPLES, examples)
        points = {f"test/{kind}": result[kind]["overall"] for kind in ("standard", "robust")}
        self._curves.epoch(recipe.optim.epochs - 1, points)
        evaluation = history["evaluation"] + time.monotonic() - before
        speed = runner.images / runner.training_seconds
        return {
            **result,
            **overfitting_verdict(recipe, history["metrics"], result["robust"]),
            "weights_checksums": checksums,
            "final_epoch": history["metrics"],
            "images_per_second": speed,
            "mfu": runner.mfu(speed),
            "seconds": {
                "total": history["elapsed"],  # of earlier processes; the caller adds this one's
                **runner.seconds(),
                "evaluation": evaluation,
                "compile": setup.engine.compile_seconds,
            },
            "checkpoints": {
                "saves": history["saves"],
                "seconds": history["saving"],
                "bytes": history["bytes"],
                "share_of_training": history["saving"] / runner.training_seconds,
            },
        }

    def _judge(self, model: nn.Module, images: ImageSet, progress: Callable[[int], None]) -> dict[str, Any]:
        """Clean and robust accuracy under the run's own evaluation attack; a stop is possible between batches."""
        setup, recipe = self.setup, self.setup.recipe

        def between_batches(done: int) -> None:
            progress(done)
            self._watchdog.beat()
            if self._stops.requested:
                self.save()
                raise self._interrupted()

        with memory_errors("in evaluation", "--set run.eval_batch_size"):
            return judge(
                model,
                images,
                well=setup.split.well,
                under=setup.split.under,
                attack=eval_settings(recipe),
                batch_size=recipe.run.eval_batch_size,
                device=setup.device,
                seed=recipe.seed,
                progress=between_batches,
            )


def label(recipe: Recipe) -> dict[str, str]:
    """What a weights file says of itself.

    Args:
        recipe: of the run.

    Returns:
        Plain text for the file's header.
    """
    return {"fingerprint": recipe.fingerprint(), "method": recipe.method, "data": recipe.data.name}
