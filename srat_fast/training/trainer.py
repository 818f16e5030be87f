"""The main job: a recipe enters; a trained, evaluated and recorded run leaves."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from srat_fast.data.arrays import ImageSet
from srat_fast.errors import TrainingFailure
from srat_fast.evaluation.judge import eval_settings, judge
from srat_fast.hardware import device_name, numerics, peak_memory
from srat_fast.models.files import load_model, save_model
from srat_fast.recipe import Recipe
from srat_fast.record import BEST, EMA, MODEL, RECIPE, RECORD, RunDirectory, git_commit, versions
from srat_fast.training.curves import Curves
from srat_fast.training.epochs import EpochRunner
from srat_fast.training.flops import forward_flops, training_flops
from srat_fast.training.lines import curve_points, epoch_line
from srat_fast.training.progress import ProgressView
from srat_fast.training.setup import Setup, prepare, resolve_hardware
from srat_kernels import resolve_backend


def default_out(recipe: Recipe) -> Path:
    """Where a run goes that names no directory: its data, method and seed in words, its identity as a suffix.

    Args:
        recipe: any.

    Returns:
        Such as runs/cifar10-exp-100-srat-ldam-seed0-1a2b3c4d5e6f.
    """
    data = recipe.data
    shape = data.imbalance if data.imbalance == "none" else f"{data.imbalance}-{data.ratio:g}"
    return Path("runs") / f"{data.name}-{shape}-{recipe.method}-seed{recipe.seed}-{recipe.fingerprint()}"


def train(recipe: Recipe, out: str | Path | None = None, *, console: Console | None = None) -> dict[str, Any]:
    """Train, evaluate and record one run (Algorithm 1, then clean and PGD accuracy of the last epoch).

    Args:
        recipe: what to compute.
        out: a new or empty directory for the run; None for `default_out(recipe)`.
        console: where progress is shown; None for a silent run.

    Returns:
        The content of the run's record.json (house.md "Names that others rely on").

    Raises:
        UserError: bad input; nothing is left behind.
        TrainingFailure: the loss is no longer finite; the record says so.
    """
    console = console or Console(quiet=True)
    started = time.perf_counter()
    recipe, device = resolve_hardware(recipe)
    run = RunDirectory.create(Path(out) if out is not None else default_out(recipe))
    with numerics(recipe.run.deterministic):
        try:
            setup = prepare(recipe, device)
            curves = Curves(run.path, recipe.run.tensorboard)
            record = _describe(setup)
            run.write_json(RECIPE, recipe.to_dict())
        except BaseException:
            run.discard()
            raise
        with ProgressView(recipe.method, console) as view:
            view.line(_headline(setup, run.path))
            try:
                record |= _fit(setup, run, view, curves, record["flops_per_image"])
                record |= _finish(setup, record, started)
            except BaseException as error:
                problem = str(error) if isinstance(error, TrainingFailure) else type(error).__name__
                status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
                run.write_json(RECORD, record | {"status": status, "problem": problem})
                raise
            finally:
                curves.close()
        run.write_json(RECORD, record)
    return record


def _describe(setup: Setup) -> dict[str, Any]:
    """The part of the record that is known before training."""
    recipe, split = setup.recipe, setup.split
    _, height, _, channels = split.train.images.shape
    return {
        "recipe": recipe.to_dict(),
        "fingerprint": recipe.fingerprint(),
        "classes": list(split.classes),
        "counts": split.counts,
        "well": split.well,
        "under": split.under,
        "validation_images": len(split.validation),
        "test_images": len(split.test),
        "data_checksum": split.checksum,
        "device": device_name(setup.device),
        "backend": "reference" if recipe.run.engine == "reference" else resolve_backend("auto", setup.device),
        "versions": versions(),
        "git_commit": git_commit(),
        "parameters": sum(p.numel() for p in setup.engine.model.parameters()),
        "flops_per_image": training_flops(forward_flops(setup.engine.model, channels, height), recipe),
    }


def _headline(setup: Setup, path: Path) -> str:
    recipe, data = setup.recipe, setup.recipe.data
    shape = data.imbalance if data.imbalance == "none" else f"{data.imbalance} {data.ratio:g}"
    images, classes = len(setup.split.train), len(setup.split.classes)
    return (
        f"{recipe.method} on {data.name} ({shape}: {images} images, {classes} classes), "
        f"{recipe.optim.epochs} epochs, {recipe.run.engine} engine, {recipe.run.precision}, {setup.device} -> {path}"
    )


def _fit(
    setup: Setup, run: RunDirectory, view: ProgressView, curves: Curves, flops_per_image: int
) -> dict[str, Any]:
    """All epochs; the best epoch by validation is kept in a file of its own, never chosen by the test set."""
    recipe, split, model = setup.recipe, setup.split, setup.engine.model
    runner = EpochRunner(setup, view, flops_per_image, run.path)
    best: dict[str, Any] | None = None
    validation_seconds, epochs = 0.0, recipe.optim.epochs
    metrics: dict[str, Any] = {}
    view.begin("training", epochs * len(split.train))
    for epoch in range(epochs):
        view.describe(f"epoch {epoch + 1}/{epochs}")
        metrics = runner.run(epoch)
        if len(split.validation):
            before = time.perf_counter()
            metrics["validation"] = verdict = judge_run(setup, model, split.validation)
            validation_seconds += time.perf_counter() - before
            if best is None or verdict["robust"]["balanced"] > best["validation"]["robust"]["balanced"]:
                best = {"epoch": epoch, "validation": verdict}
                save_model(run.path / BEST, model.state_dict(), _label(recipe) | {"epoch": str(epoch)})
        run.append_metrics(metrics)
        curves.epoch(epoch, curve_points(metrics))
        view.line(epoch_line(recipe.method, metrics, epochs, runner.training_seconds))
    save_model(run.path / MODEL, model.state_dict(), _label(recipe))

    before = time.perf_counter()
    view.begin("evaluation", 2 * len(split.test))
    result = judge_run(setup, model, split.test, view)
    if best is not None:
        result["best"] = best | judge_run(setup, load_model(run.path / BEST).to(setup.device), split.test)
    if runner.ema is not None:
        result["ema"] = judge_run(setup, runner.ema.module, split.test)
        save_model(run.path / EMA, runner.ema.module.state_dict(), _label(recipe))
    curves.epoch(epochs - 1, {f"test/{kind}": result[kind]["overall"] for kind in ("standard", "robust")})
    return {
        **result,
        "final_epoch": metrics,
        "images_per_second": runner.images / runner.training_seconds,
        "mfu": runner.mfu(runner.images / runner.training_seconds),
        "seconds": {
            **runner.seconds(),
            "evaluation": time.perf_counter() - before + validation_seconds,
            "compile": setup.engine.compile_seconds,
        },
    }


def _finish(setup: Setup, record: dict[str, Any], started: float) -> dict[str, Any]:
    """The figures that need the whole run."""
    return {
        "seconds": {"total": time.perf_counter() - started} | record["seconds"],
        "peak_memory_bytes": peak_memory(setup.device),
        "status": "finished",
    }


def _label(recipe: Recipe) -> dict[str, str]:
    """What a weights file says of itself."""
    return {"fingerprint": recipe.fingerprint(), "method": recipe.method, "data": recipe.data.name}


def judge_run(
    setup: Setup, model: nn.Module, images: ImageSet, view: ProgressView | None = None
) -> dict[str, Any]:
    """Clean and robust accuracy of a model under the run's own evaluation attack.

    Args:
        setup: the run.
        model: on its device.
        images: test or validation images.
        view: told of progress, where given.

    Returns:
        As `srat_fast.evaluation.judge.judge`.
    """
    recipe = setup.recipe
    return judge(
        model,
        images,
        well=setup.split.well,
        under=setup.split.under,
        attack=eval_settings(recipe),
        batch_size=recipe.run.eval_batch_size,
        device=setup.device,
        seed=recipe.seed,
        progress=view.advance if view is not None else lambda done: None,
    )
