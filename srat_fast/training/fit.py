"""Training loop: epochs, weight averaging, validation, checkpoints and the final evaluation."""

from __future__ import annotations

import copy
import hashlib
import math
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from srat_fast.data.arrays import ImageSet
from srat_fast.errors import Interrupted
from srat_fast.evaluation.judge import eval_settings, judge
from srat_fast.evaluation.samples import sample_examples, save_samples
from srat_fast.hardware import peak_flops, peak_memory
from srat_fast.models.build import adjusted, forward_flops
from srat_fast.models.classifier import Classifier
from srat_fast.models.files import model_from_bytes, save_model
from srat_fast.plugins import described, recorded
from srat_fast.progress import ProgressView
from srat_fast.ranks import fingerprint
from srat_fast.recipe import Recipe, stage_at
from srat_fast.record import BEST, EMA, MODEL, SAMPLES, RunDirectory, versions, worst_class
from srat_fast.registry import term
from srat_fast.training.checkpoint import Checkpoint, Checkpoints
from srat_fast.training.cost import StepProfiler, Stopwatch, memory_errors, to_lower
from srat_fast.training.curves import (
    Curves,
    catastrophic_overfitting,
    curve_points,
    epoch_line,
    overfitting_verdict,
)
from srat_fast.training.feedback import Feedback
from srat_fast.training.parity import CompileFailure
from srat_fast.training.resume import random_state, restore, snapshot
from srat_fast.training.setup import Result, Setup
from srat_fast.training.step import LateReader, NotFinite
from srat_fast.training.stops import CODES, COMPILING, Stops, Watchdog


class MovingAverage:
    """Exponential moving average of a model's parameters; BatchNorm statistics are those of the model.

    Args:
        model: in training.
        decay: share of the old average that stays at each update.
        gated: CFA's: it begins with the first update, and averages the statistics too.
    """

    def __init__(self, model: Classifier, decay: float, gated: bool = False) -> None:
        self._gated = gated
        #: updates so far
        self.taken = 0
        self.module = copy.deepcopy(model).requires_grad_(False)
        self._decay = decay
        self._average: list[Tensor] = list(self.module.parameters())
        self._source: list[Tensor] = list(model.parameters())
        if gated:
            self._average += [own for own in self.module.buffers() if own.is_floating_point()]
            self._source += [own for own in model.buffers() if own.is_floating_point()]
        pairs = list(zip(self.module.buffers(), model.buffers(), strict=True))
        self._buffers = [  # by type: copies of one type are one launch
            (
                [own for own, _ in pairs if own.dtype == kind],
                [source for _, source in pairs if source.dtype == kind],
            )
            for kind in {own.dtype for own, _ in pairs if not (gated and own.is_floating_point())}
        ]

    @torch.no_grad()
    def update(self, frozen: Tensor | None = None) -> None:
        """Average in the model's present weights; once a step or once an epoch."""
        if self._gated and self.taken == 0:
            torch._foreach_copy_(self._average, self._source)
        elif frozen is None:
            torch._foreach_lerp_(self._average, self._source, 1.0 - self._decay)
        else:  # the share is known to the device only
            share = ((1.0 - frozen) * (1.0 - self._decay)).squeeze()
            difference = torch._foreach_sub(self._source, self._average)
            torch._foreach_mul_(difference, share)
            torch._foreach_add_(self._average, difference)
        self.taken += 1
        self.copy_statistics()

    @torch.no_grad()
    def restart(self) -> None:
        """Begin anew with the model's present weights; gated, with those of the next epoch that it takes in."""
        if self._gated:
            self.taken = 0
            return
        torch._foreach_copy_(self._average, self._source)
        self.copy_statistics()

    @torch.no_grad()
    def copy_statistics(self) -> None:
        """Take over the model's BatchNorm statistics."""
        for own, source in self._buffers:
            torch._foreach_copy_(own, source)


_PARTS = ("attack", "step", "data")


class EpochRunner:
    """Runs epochs and keeps their sums; reads the device only once an epoch, or when a person is watching.

    Args:
        setup: the run.
        view: told of progress.
        flops_per_image: of one training image in each stage, for MFU.
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
        flops_per_image: Sequence[int],
        directory: Path,
        before_step: Callable[[bool], None] = lambda compiles: None,
        after_step: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.setup, self._view = setup, view
        self._before_step, self._after_step = before_step, after_step
        self._peak, self._flops = peak_flops(setup.device, setup.recipe.run.precision), flops_per_image
        profiled = setup.recipe.run.profile and setup.ranks.first
        self._profiler = StepProfiler(directory, setup.device) if profiled else None
        self._data_watch = Stopwatch(setup.device)
        self._bad = LateReader(setup.engine.guard.bad)
        self._shapes: set[torch.Size] = set()
        self.training_seconds = 0.0
        self.images = 0
        self.epoch, self.batch, self._seen = 0, 0, 0
        self._count_anew()
        #: seconds: of this epoch so far, of all parts before this process, and the clocks of a part under way.
        self._earlier = {"total": 0.0} | dict.fromkeys(_PARTS, 0.0)
        self._before = dict.fromkeys(_PARTS, 0.0)
        self._clocks: tuple[dict[str, float], float, float] | None = None
        self._aside = 0.0
        optim = setup.recipe.optim
        self.ema = (
            MovingAverage(setup.engine.model, optim.ema_decay, optim.ema_gate > 0)
            if optim.ema_decay > 0
            else None
        )
        self._ema_every = optim.ema_every

    def _count_anew(self) -> None:
        """Sums of an epoch, all 0."""
        #: what `_sums` holds: the losses of a step, and images classified right
        self._summed = ("loss", *self.setup.engine.terms, "correct")
        self._sums = torch.zeros(len(self._summed), dtype=torch.float64, device=self.setup.device)

    def seconds(self) -> dict[str, float]:
        """Seconds of training so far, by part, those of earlier processes included."""
        now = self.setup.engine.stopwatch.seconds() | self._data_watch.seconds()
        return {name: self._before[name] + now.get(name, 0.0) for name in _PARTS}

    def run(self) -> dict[str, Any]:
        """Train to the end of the present epoch; `advance` then goes on to the next."""
        setup, engine = self.setup, self.setup.engine
        self._clocks, self._aside = (self.seconds(), time.perf_counter(), engine.compile_seconds), 0.0
        self._start_epoch()
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
            with memory_errors(f"in epoch {self.epoch + 1}", to_lower(setup.recipe), setup.recipe):
                result = engine.step(images, labels)
                if self.ema is not None and self._ema_every == "step":
                    self.ema.update(engine.guard.found)
                self._add(result, len(labels))
            if setup.ranks.heard("bad", self._bad.poll()):
                self._stop()
            self.batch += 1
            if self._profiler is not None and (table := self._profiler.step()):
                self._view.line(table)
            if self._view.wants_text:
                self._view.advance(self._seen - reported, self._text())
                reported = self._seen
            self._aside += self._after_step()
        self._view.advance(self._seen - reported)
        self.require_finite()
        last = self.epoch + 1 == setup.recipe.optim.epochs
        if last and self._profiler is not None and (table := self._profiler.finish()):
            self._view.line(table)  # the run was shorter than the profile
        return self._line()

    def _start_epoch(self) -> None:
        """Set the engine to the epoch, and where that begins a stage, what follows from it."""
        engine = self.setup.engine
        before = engine.stage
        engine.start_epoch(self.epoch)
        if engine.stage is not before:
            self._shapes.clear()
            self._count_anew()
            if self.ema is not None and engine.stage.train != before.train:
                self.ema.restart()
        if self.epoch == engine.stage.recipe.optim.awp_epoch:
            self._shapes.clear()  # the update is another one from here on

    def advance(self, average: bool = True) -> None:
        """Go on to the next epoch, whose checkpoints have an average by the epoch in them: it is not taken twice.

        `average`: whether the average takes this epoch in.
        """
        if self.ema is not None and self._ema_every == "epoch" and average:
            self.ema.update()
        self.training_seconds += self._spent()["total"]
        self.images += self._seen
        self.epoch, self.batch, self._seen = self.epoch + 1, 0, 0
        self._sums.zero_()
        self._earlier = {"total": 0.0} | dict.fromkeys(_PARTS, 0.0)
        for counter in (self.setup.engine.nonfinite, self.setup.engine.zero):
            counter.zero_()

    def mfu(self, speed: float, flops_per_image: float | None = None) -> float | None:
        """Share of the devices' matrix-product rate that a speed amounts to, in the present stage."""
        flops = self._flops[self.setup.engine.stage.number] if flops_per_image is None else flops_per_image
        return speed * flops / (self._peak * self.setup.ranks.size) if self._peak else None

    @property
    def flops_per_image(self) -> float:
        """A mean over the epochs."""
        lengths = [stage.end - stage.first for stage in self.setup.engine.stages]
        return sum(n * flops for n, flops in zip(lengths, self._flops, strict=True)) / sum(lengths)

    def state(self) -> dict[str, Any]:
        """Where the run stands between two steps; waits for the device. All processes ask for it."""
        engine = self.setup.engine
        self.setup.ranks.to_first_(engine.nonfinite, engine.zero)
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "stage": engine.stage.number,
            "seen": self._seen,
            "sums": dict(zip(self._summed, self._sums.tolist(), strict=True)),
            "nonfinite": int(engine.nonfinite),
            "zero": int(engine.zero),
            "spent": self._spent(),
            "training_seconds": self.training_seconds,
            "images": self.images,
            "stages": self.seconds(),
            "compile": engine.compile_seconds,
            "averaged": 0 if self.ema is None else self.ema.taken,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Stand where another runner stood."""
        engine = self.setup.engine
        self.epoch, self.batch, self._seen = state["epoch"], state["batch"], state["seen"]
        self._count_anew()
        sums = state["sums"]
        if isinstance(sums, Tensor):  # of a checkpoint from before objectives had names
            sums = dict(zip(("loss", "classification", "separation", "correct"), sums.tolist(), strict=True))
        self._sums.copy_(torch.tensor([sums[name] for name in self._summed], dtype=torch.float64))
        if self.setup.ranks.first:
            engine.nonfinite.fill_(state["nonfinite"])
            engine.zero.fill_(state["zero"])
        self._earlier = dict(state["spent"])
        self.training_seconds, self.images = state["training_seconds"], state["images"]
        self._before = dict(state["stages"])
        engine.compile_seconds = state["compile"]
        if self.ema is not None:
            self.ema.taken = state.get("averaged", 0)  # not in checkpoints from before averages had a gate

    def _add(self, result: Result, images: int) -> None:
        """Sum up a step, unless it or one before it was not finite."""
        losses = torch.stack(list(result.losses.values())).double() * images
        step = torch.cat([losses, result.correct.double().reshape(1)])
        self._sums += torch.where(self.setup.engine.guard.bad > 0, 0.0, step)
        self._seen += images

    def require_finite(self) -> None:
        """End where a step so far was not finite; waits for the device."""
        if self._bad.now():
            self._stop()

    def _stop(self) -> None:
        """Go back to the state before the step that was not finite, and end."""
        guard = self.setup.engine.guard
        guard.settle()
        if self.ema is not None and self._ema_every == "step":
            self.ema.copy_statistics()
        step, loss = int(guard.bad), float(guard.loss)
        self.batch = step - 1
        self._seen = min(self.batch * self.setup.loader.batch_size, self.setup.loader.images_per_epoch)
        what = f"the loss is {loss}" if not math.isfinite(loss) else "the gradient's norm is not finite"
        row = self.setup.engine.stage.recipe.row
        own = {name: described(term[name]) for name in (row.base, *row.terms)}
        lines = [f"; the term {name} is {line}" for name, line in own.items() if line is not None]
        raise NotFinite(
            f"{what} in epoch {self.epoch + 1}, step {step} (before its update); try a lower optim.lr, "
            "a longer optim.warmup_epochs or optim.clip_norm" + "".join(lines)
        )

    def _spent(self) -> dict[str, float]:
        """Seconds of the present epoch, in all and by part."""
        if self._clocks is None:
            return dict(self._earlier)
        before, started, compiled = self._clocks
        now, compiling = self.seconds(), self.setup.engine.compile_seconds - compiled
        total = time.perf_counter() - started - compiling - self._aside
        here = {"total": total} | {name: now[name] - before[name] for name in _PARTS}
        return {name: self._earlier[name] + here[name] for name in here}

    def _line(self) -> dict[str, Any]:
        setup, engine = self.setup, self.setup.engine
        setup.ranks.to_first_(engine.nonfinite, engine.zero)
        total, *terms, correct = (self._sums / self._seen).tolist()
        # the clocks stop: what comes between this and the next epoch is evaluation, not training
        seconds = self._earlier = self._spent()
        self._clocks = None
        speed = self._seen / seconds["total"]
        pixels = setup.split.train.images[0].size
        stage = engine.stage
        attacks = stage.recipe.row.adversarial * (1 + (stage.recipe.attack.stop == "both"))
        attacked = self._seen * pixels * stage.recipe.attack.steps * attacks
        return {
            "epoch": self.epoch,
            **({"stage": stage.number} if setup.recipe.stages.lengths else {}),
            "lr": stage.rate(self.epoch),
            "loss": total,
            # L_sep is a column of all twelve methods of the paper, 0 for those without it
            **{"separation": 0.0, **dict(zip(engine.terms, terms, strict=True))},
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
        total, *_, correct = (self._sums / self._seen).tolist()
        mfu = self.mfu(self._seen / self._spent()["total"])
        return f"loss {total:.3f}  train acc {correct:.1%}" + ("" if mfu is None else f"  MFU {mfu:.0%}")


class Fit:
    """The work of one run.

    Args:
        setup: ready to start.
        run: its directory.
        checkpoints: where its state goes.
        view: told of progress.
        curves: live curves.
        flops_per_image: of one training image in each stage, for MFU.
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
        flops_per_image: Sequence[int],
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
        self._ranks, self._evaluated = setup.ranks, 0
        self.feedback = Feedback(setup.recipe, setup.split, setup.engine.rule, setup.ranks)
        setup.engine.steer(self.feedback.rule.effects())
        #: what every checkpoint says of its run.
        self._about = {
            "recipe": setup.recipe.to_dict(),
            "fingerprint": setup.recipe.fingerprint(),
            "data_checksum": setup.split.checksum,
            "versions": versions(),
            "processes": setup.ranks.size,
            **({"plugins": recorded(setup.recipe.plugin)} if setup.recipe.plugin else {}),
        }
        self._started = self._saved_at = time.monotonic()
        self._saved: tuple[int, int] | None = None

    @property
    def step(self) -> int:
        """Steps done since the first epoch."""
        return self.runner.epoch * len(self.setup.loader) + self.runner.batch

    def restore(self, checkpoint: Checkpoint) -> None:
        """Stand where the checkpoint was saved."""
        self._history = restore(self.setup, self.runner, self.run_directory, checkpoint.files)
        if "feedback" in self._history:
            self.feedback.load_state_dict(self._history.pop("feedback"))
            self.setup.engine.steer(self.feedback.rule.effects())
        self._saved = (self.runner.epoch, self.runner.batch)

    def run(self) -> dict[str, Any]:
        """Train what is left, then evaluate; the best epoch is chosen by validation, never by the test set."""
        runner, recipe, curves = self.runner, self.setup.recipe, self._curves
        epochs, images = recipe.optim.epochs, self.setup.loader.images_per_epoch
        gate = recipe.optim.ema_gate
        for warning in self.feedback.warnings():
            self._view.line(f"warning: {warning}")
        self._view.begin("training", epochs * images)
        self._view.advance(min(epochs * images, self.step * self.setup.loader.batch_size))
        while runner.epoch < epochs:
            stages, at = self.setup.engine.stages, stage_at(self.setup.engine.stages, runner.epoch)
            told = f", stage {at.number + 1}/{len(stages)}" if len(stages) > 1 else ""
            self._view.describe(f"epoch {runner.epoch + 1}/{epochs}{told}")
            try:
                metrics = runner.run()
            except NotFinite:
                self._save_last_finite()
                raise
            except CompileFailure:
                if not self._stops.requested:
                    raise
                # Ctrl-C, `timeout` and schedulers signal the whole process group: the C++ compiler died of it
                told = "stopped while compiling; --resume auto begins or goes on"
                raise Interrupted(told, self._stops.code) from None
            if len(self.setup.split.validation):
                metrics["validation"] = verdict = self._validate(runner.epoch)
                present = self.setup.engine.stage.recipe
                overfitted = catastrophic_overfitting(
                    present, runner.epoch, metrics["train_accuracy"], verdict["robust"]
                )
                metrics["catastrophic_overfitting"] = overfitted
                if gate:
                    worst = selected(verdict, "worst")
                    metrics["average"] = {"worst": worst, "taken": worst >= gate}
            if self.feedback.due(runner.epoch):
                metrics["feedback"] = self._measure(runner.epoch)
            self._history["metrics"] = metrics
            if self._ranks.first:
                self.run_directory.append_metrics(metrics)
            curves.epoch(runner.epoch, curve_points(metrics, self.setup.engine.terms))
            runner.advance(not gate or metrics["average"]["taken"])
            if self._ranks.size > 1:
                self._ranks.same(
                    f"their weights after epoch {runner.epoch}", fingerprint(self.setup.engine.model)
                )
            self._view.line(epoch_line(recipe.method, metrics, epochs, runner.training_seconds))
            every = recipe.run.checkpoint_epochs
            if runner.epoch == epochs or (every and runner.epoch % every == 0):
                self.save()
            self._after_step()
        return self._evaluate()

    def save(self) -> float:
        """Save the state between two steps, unless this very state is saved."""
        position = (self.runner.epoch, self.runner.batch)
        if self._saved == position:
            return 0.0
        started, recipe = time.monotonic(), self.setup.recipe
        self._watchdog.beat(COMPILING)  # a slow file system is no hang
        elapsed = self._history["elapsed"] + started - self._started
        history = self._history | {"elapsed": elapsed}
        if recipe.feedback.rule != "off":
            history["feedback"] = self.feedback.state_dict()
        standing = self.runner.state(), self._ranks.objects(random_state(self.setup.device))

        def write() -> int:
            files = snapshot(self.setup, self.runner, self.run_directory, history, label(recipe), standing)
            about = {"epoch": position[0], "batch": position[1], "step": self.step} | self._about
            return self.checkpoints.save(f"{position[0]:06d}-{position[1]:07d}", files, about).bytes

        size = self._ranks.on_first(write)
        self._ranks.clear("due")
        self._saved, self._saved_at = position, time.monotonic()
        seconds = self._saved_at - started
        self._history["saves"] += 1
        self._history["saving"] += seconds
        self._history["bytes"] = size
        self._watchdog.beat()
        return seconds

    def _save_finite(self) -> float:
        """Save, unless a step was not finite: that is heard of some steps later on a GPU, and from other processes."""
        self.runner.require_finite()
        return self.save()

    def _save_last_finite(self) -> None:
        """Save the state before a step that was not finite, where that is one to go on from."""
        if all(bool(torch.isfinite(p).all()) for p in self.setup.engine.model.state_dict().values()):
            self.save()

    def _before_step(self, compiles: bool) -> None:
        self._watchdog.beat(COMPILING if compiles else 0.0)

    def _after_step(self) -> float:
        """What happens between two steps: stop, or save when it is time."""
        self._watchdog.beat()
        self._end_if_asked()
        minutes = self.setup.recipe.run.checkpoint_minutes
        due = minutes > 0 and time.monotonic() - self._saved_at >= 60 * minutes
        seconds = self._save_finite() if self._ranks.heard("due", due) else 0.0
        self._ranks.tick()
        return seconds

    def _end_if_asked(self) -> None:
        """Save and end where a signal has come, to whichever process."""
        asked = (self._stops.signal or signal.SIGTERM) if self._stops.requested else 0
        if number := self._ranks.heard("stop", asked):
            # not noted in `_stops`: of another process's, this one's own would be the second, which ends it at once
            self._save_finite()
            raise self._interrupted(signal.Signals(number))

    def _interrupted(self, came: signal.Signals) -> Interrupted:
        at = f"epoch {self.runner.epoch + 1}, step {self.runner.batch}"
        if self.runner.epoch == self.setup.recipe.optim.epochs:
            at = "the final evaluation"
        return Interrupted(
            f"stopped by {came.name} in {at}; the state is saved, --resume goes on", CODES[came]
        )

    def _validate(self, epoch: int) -> dict[str, Any]:
        before, best = time.monotonic(), self._history["best"]
        model = self._adjusted(self.setup.engine.model)
        verdict = self._judge(model, self.setup.split.validation, lambda images: None)
        by = self.setup.recipe.optim.select
        last = self.setup.engine.stage is self.setup.engine.stages[-1]  # what comes before is another method
        if last and (best is None or selected(verdict, by) > selected(best["validation"], by)):
            self._history["best"] = {"epoch": epoch, "by": by, "validation": verdict}
            about = label(self.setup.recipe) | {"epoch": str(epoch)}
            if self._ranks.first:
                save_model(self.run_directory.path / BEST, model, about)
        self._history["evaluation"] += time.monotonic() - before
        return verdict

    def _measure(self, epoch: int) -> dict[str, Any]:
        """The figures of the classes, after which the rest of training goes by them."""
        before, engine = time.monotonic(), self.setup.engine
        with memory_errors("in the measurement of classes", "--set run.eval_batch_size", self.setup.recipe):
            told = self.feedback.after(epoch, engine.model, self.setup.device, self._between_batches)
        engine.steer(self.feedback.rule.effects())
        self._history["evaluation"] += time.monotonic() - before
        return told

    def _between_batches(self, images: int) -> None:
        """A stop is possible between the batches of an evaluation: of several processes, when each has had one."""
        self._watchdog.beat()
        self._evaluated += 1
        if self._evaluated % self._ranks.size == 0:
            self._end_if_asked()
            self._ranks.tick()

    def _evaluate(self) -> dict[str, Any]:
        """The last weights, the best by validation and the moving average, each judged on the test images."""
        setup, runner, path, view = self.setup, self.runner, self.run_directory.path, self._view
        recipe, test, history = setup.recipe, setup.split.test, self._history
        model = self._adjusted(setup.engine.model)
        checksums = {"last": self._ranks.on_first(lambda: save_model(path / MODEL, model, label(recipe)))}
        before = time.monotonic()
        view.begin("evaluation", 2 * len(test))
        result = self._judge(model, test, view.advance)
        if history["best"] is not None:
            last_epoch = {"epoch": recipe.optim.epochs - 1, "validation": history["metrics"]["validation"]}
            result["last"] = last_epoch | result  # the same as at the top, labelled beside the best
            content = self._ranks.on_first((path / BEST).read_bytes)
            checksums["best"] = hashlib.sha256(content).hexdigest()
            best = model_from_bytes(content, path / BEST).to(setup.device)
            result["best"] = history["best"] | self._judge(best, test, lambda images: None)
        gate, refused = recipe.optim.ema_gate, []
        if gate and runner.ema is not None and runner.ema.taken == 0:
            trained = {stage.train for stage in setup.engine.stages}
            since = " since stages.train changed" if len(trained) > 1 else ""
            refused = [
                f"no moving average: in no epoch{since} had every class a robust accuracy of {gate:g} on held-out "
                "images; a lower optim.ema_gate has one"
            ]
        elif runner.ema is not None:
            average = self._adjusted(runner.ema.module)
            result["ema"] = self._judge(average, test, lambda images: None)
            if gate:
                result["ema"]["epochs"] = runner.ema.taken
            checksums["ema"] = self._ranks.on_first(lambda: save_model(path / EMA, average, label(recipe)))
        if self._ranks.first:
            examples = sample_examples(
                model, test, eval_settings(recipe), device=setup.device, seed=recipe.seed
            )
            save_samples(path / SAMPLES, examples)
        points = {f"test/{kind}": result[kind]["overall"] for kind in ("standard", "robust")}
        self._curves.epoch(recipe.optim.epochs - 1, points)
        evaluation = history["evaluation"] + time.monotonic() - before
        speed = runner.images / runner.training_seconds
        overfitted = overfitting_verdict(setup.engine.stage.recipe, history["metrics"], result["robust"])
        flops = self.feedback.flops(forward_flops(setup.engine.model, recipe.data.image_size))
        return {
            **result,
            **({"feedback_flops": flops} if flops else {}),
            **overfitted,
            "warnings": overfitted["warnings"] + refused + self.feedback.warnings(),
            "weights_checksums": checksums,
            "final_epoch": history["metrics"],
            "images_per_second": speed,
            "mfu": runner.mfu(speed, runner.flops_per_image),
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

    def _adjusted(self, model: Classifier) -> Classifier:
        """The network that is judged and saved: training and its checkpoints go on with the raw one."""
        return adjusted(model, self.setup.recipe, self.setup.split.counts)

    def _judge(self, model: nn.Module, images: ImageSet, progress: Callable[[int], None]) -> dict[str, Any]:
        """Clean and robust accuracy under the run's own evaluation attack; a stop is possible between batches."""
        setup, recipe = self.setup, self.setup.recipe

        def between_batches(done: int) -> None:
            progress(done)
            self._between_batches(done)

        with memory_errors("in evaluation", "--set run.eval_batch_size", recipe):
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
                ranks=self._ranks,
                confident=images is setup.split.test,
            )


def selected(verdict: dict[str, Any], by: str) -> float:
    """The robust accuracy that decides which epoch is the best; classes without held-out images have no say."""
    if by == "worst":
        worst = worst_class(verdict["robust"])
        assert worst is not None
        return worst
    return verdict["robust"][by]


def label(recipe: Recipe) -> dict[str, str]:
    """What a weights file says of itself."""
    return {"fingerprint": recipe.fingerprint(), "method": recipe.method, "data": recipe.data.name}
