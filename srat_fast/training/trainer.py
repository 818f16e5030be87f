"""The main job: train, evaluate and record one run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from srat_fast.data.arrays import ImageArrays
from srat_fast.data.inmemory import arrays_from
from srat_fast.data.plan import resolve_recipe
from srat_fast.datasets import imbalance_label
from srat_fast.errors import DiskFull, Interrupted, TrainingFailure, UserError, failure_of, is_full
from srat_fast.hardware import device_name, neutral, numerics, peak_memory, seed_libraries
from srat_fast.models.build import forward_flops, stage_flops, training_flops
from srat_fast.plugins import plugin_errors, recorded
from srat_fast.progress import ProgressView
from srat_fast.ranks import Ranks, joined
from srat_fast.recipe import Recipe, Stage, radius_title
from srat_fast.record import MUST, RECIPE, RECORD, RunDirectory, git_commit, versions
from srat_fast.seeds import seed_for
from srat_fast.training.cost import memory_errors, out_of_memory
from srat_fast.training.curves import Curves
from srat_fast.training.fit import Fit
from srat_fast.training.resume import Begin, begin_together, check_data
from srat_fast.training.setup import Setup, prepare
from srat_fast.training.step import FastEngine
from srat_fast.training.stops import Stops, Watchdog
from srat_kernels import resolve_backend


def default_out(recipe: Recipe) -> Path:
    """Where a run goes that names no directory: its data, method and seed in words, its identity as a suffix."""
    data = recipe.data
    shape = imbalance_label(data.imbalance, data.ratio)
    method = recipe.method.replace(":", "-")  # Windows and scp read a colon otherwise
    return Path("runs") / f"{data.name}-{shape}-{method}-seed{recipe.seed}-{recipe.fingerprint()}"


@neutral()
def train(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    console: Console | None = None,
    resume: str | None = None,
    stops: Stops | None = None,
    data: Any = None,
) -> dict[str, Any]:
    """Train, evaluate and record one run (Algorithm 1, then clean and PGD accuracy of the last epoch).

    SIGTERM, SIGUSR1 and Ctrl-C are handled meanwhile, where this runs in the main thread. Started by torchrun in
    several processes they train one run together: the first one writes, all return the record.

    Args:
        recipe: what to compute.
        out: the run's directory; None for `default_out(recipe)`.
        console: where progress is shown; None for a silent run.
        resume: None needs a new or empty directory; "must" continues the run that is in it; "auto" begins, continues,
            or returns the record of a finished run, whichever it finds.
        stops: where requests to stop are noted; None to handle the signals here.
        data: images in memory, in place of `data.name` (which the record then calls "arrays"): `ImageArrays`, or a
            dictionary with train and test as `srat_fast.data.inmemory.arrays_from` takes it.

    Returns:
        The content of the run's record.json (docs/reference/record.md).

    Raises:
        UserError: bad input; nothing is left behind, and a run that had begun is as it was.
        TrainingFailure: loss or gradient not finite, memory or disk full; the record says so.
        Interrupted: a signal asked for it; the state is saved, and `resume` goes on from there.
    """
    if not isinstance(recipe, Recipe):
        raise UserError("recipe", "a Recipe is needed: build_recipe(name or file, changes) gives one", recipe)
    console = console or Console(quiet=True)
    with (
        contextlib.nullcontext(stops) if stops is not None else Stops() as asked,
        joined(recipe.run.device, recipe.run.peer_seconds) as ranks,
    ):
        if not ranks.first:
            console = Console(quiet=True)
        started = time.perf_counter()
        arrays = None if data is None else arrays_from(data, recipe.data.image_size)
        written = recipe if arrays is None else recipe.replace({"data.name": "arrays"})
        resolved = resolve_recipe(written, arrays)
        if ranks.size > 1:
            resolved = resolved.replace({"run.device": ranks.device(recipe.run.device)})
        if resume != MUST:  # which reads it from the run, and other machines need not see that
            ranks.same("their recipes", resolved.fingerprint())
        path = Path(out) if out is not None else default_out(resolved)
        start = begin_together(ranks, resolved, path, resume, arrays)
        if start.finished is not None:
            if ranks.first:
                start.checkpoints.remove()  # where a kill came between the record and this
            return start.finished
        try:
            with numerics(start.recipe.run.deterministic):
                return _work(start, ranks, asked, console, started, arrays)
        finally:
            start.run.release()


def _work(
    start: Begin,
    ranks: Ranks,
    stops: Stops,
    console: Console,
    started: float,
    arrays: ImageArrays | None,
) -> dict[str, Any]:
    """A run from its preparation to its record."""
    recipe, run = start.recipe, start.run
    try:
        with (
            plugin_errors(),
            memory_errors("while preparing", "data.limit or model.width, or choose another --device"),
        ):
            setup = prepare(recipe, start.device, arrays, start.checkpoint is None, ranks)
        seed_libraries(seed_for(recipe.seed, "libraries", ranks.rank))
        if start.checkpoint is not None:
            check_data(setup, start.checkpoint)
        purge = start.checkpoint.about["epoch"] if start.checkpoint else 0 if start.entries else None
        record = _describe(setup)
        ranks.same("versions, recipe or images", (versions(), recipe.fingerprint(), setup.split.checksum))
        if any(ranks.objects(stops.requested)):
            told = "stopped before the first step; --resume auto begins or goes on"
            raise Interrupted(told, max(ranks.objects(stops.code)))
        with _full_disk(run):
            curves = Curves(run.path, recipe.run.tensorboard and ranks.first, purge)
            if ranks.first:
                run.write_json(RECIPE, recipe.to_dict())
                run.write_plugins(recipe.plugin)
                start.note()
    except BaseException:
        run.discard()
        raise
    if start.entries:
        record["resumed"] = start.entries

    def conclude(problem: str, failure: str | None) -> None:
        status = "interrupted" if failure is None else "failed"
        if ranks.first:
            run.write_json(RECORD, record | {"status": status, "problem": problem, "failure": failure})

    seconds = recipe.run.watchdog_seconds if ranks.first else 0.0  # the others wait for it, and it for them
    watchdog = Watchdog(seconds, run.path, lambda problem: conclude(problem, "hang"))
    with ProgressView(recipe.method, console) as view, watchdog:
        view.line(_headline(setup, run.path))
        flops = [part["flops_per_image"] for part in record.get("stages", (record,))]
        fit = Fit(setup, run, start.checkpoints, view, curves, flops, stops, watchdog)
        try:
            with plugin_errors(), _full_disk(run):
                _continue(fit, start, view)
                record |= fit.run()
            record |= _finish(setup, record, started)
        except UserError:
            raise  # of a checkpoint that is refused: the run is as it was
        except BaseException as error:
            record |= {"epoch": fit.runner.epoch, "step": fit.step}
            known = isinstance(error, (TrainingFailure, Interrupted))
            problem = str(error) if known else type(error).__name__
            # on a full disk there may be no room for this either; the error itself is told in any case
            with contextlib.suppress(OSError):
                asked = isinstance(error, (Interrupted, KeyboardInterrupt))
                kind = None if asked else "memory" if out_of_memory(error) else failure_of(error)
                conclude(problem, kind)
            raise
        finally:
            setup.loader.close()
            setup.engine.close()
            with contextlib.suppress(OSError):
                curves.close()

    def finish() -> dict[str, Any]:
        run.write_json(RECORD, record)
        start.checkpoints.remove()
        return record

    return ranks.on_first(finish)


def _continue(fit: Fit, start: Begin, view: ProgressView) -> None:
    """Put a run that is taken up again back to its checkpoint, or to its beginning where it had none."""
    if start.checkpoint is not None:
        fit.restore(start.checkpoint)
    elif start.entries and fit.setup.ranks.first:
        start.run.set_metrics(b"")
    if start.entries:
        if processes := start.entries[-1].get("processes"):
            were, now = processes
            view.line(f"{were} process(es) before, {now} now: {_SUMS[fit.setup.recipe.run.batch_norm]}")
        for problem in start.entries[-1].get("fallback", ()):
            view.line(f"damaged checkpoint passed over: {problem}")
        at = f"epoch {fit.runner.epoch + 1}, step {fit.runner.batch}"
        view.line(f"continued from {at}" if start.checkpoint else "no checkpoint yet: begun again")


#: What another number of processes changes, by `run.batch_norm`.
_SUMS = {
    "sync": "the same images and noise, sums in another order: equal up to rounding, not to the bit",
    "local": "BatchNorm has statistics of other shares from here on (run.batch_norm = local)",
}


@contextlib.contextmanager
def _full_disk(run: RunDirectory) -> Iterator[None]:
    """A full disk in words, wherever it is met."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise DiskFull(
            f"the disk of {run.path} is full; make room and go on with --resume from the last checkpoint"
        ) from None


def _describe(setup: Setup) -> dict[str, Any]:
    """The part of the record that is known before training."""
    recipe, split = setup.recipe, setup.split
    forward = forward_flops(setup.engine.model, split.train.images.shape[1])
    stages = setup.engine.stages
    terms = dict.fromkeys(("classification", *(t for stage in stages for t in stage.recipe.row.terms)))
    return {
        "recipe": recipe.to_dict(),
        **({"plugins": recorded(recipe.plugin)} if recipe.plugin else {}),
        "title": recipe.row.title,
        "fingerprint": recipe.fingerprint(),
        "classes": list(split.classes),
        "terms": list(terms),
        "counts": split.counts,
        "well": split.well,
        "under": split.under,
        "validation_images": len(split.validation),
        "test_images": len(split.test),
        "data_checksum": split.checksum,
        "device": device_name(setup.device),
        "processes": setup.ranks.size,
        "backend": "reference" if recipe.run.engine == "reference" else resolve_backend("auto", setup.device),
        "versions": versions(),
        "git_commit": git_commit(),
        "parameters": sum(p.numel() for p in setup.engine.model.parameters()),
        "flops_per_image": training_flops(forward, recipe),
        **({"stages": [_stage(stage, forward) for stage in stages]} if recipe.stages.lengths else {}),
    }


def _stage(stage: Stage, forward: int) -> dict[str, Any]:
    """A stage of the plan, as the record has it."""
    return {
        "first_epoch": stage.first,
        "epochs": stage.end - stage.first,
        "method": stage.recipe.method,
        "adversarial": stage.recipe.row.adversarial,
        "train": stage.train,
        "sampler": stage.sampler,
        "flops_per_image": stage_flops(forward, stage),
    }


def _headline(setup: Setup, path: Path) -> str:
    recipe, data = setup.recipe, setup.recipe.data
    shape = data.imbalance if data.imbalance == "none" else f"{data.imbalance} {data.ratio:g}"
    images, classes = len(setup.split.train), len(setup.split.classes)
    return (
        f"{recipe.method} on {data.name} ({shape}: {images} images, {classes} classes), {recipe.model.name} of width "
        f"{recipe.model.width}, {radius_title(vars(recipe.attack), always=True)}, "
        f"{recipe.optim.epochs} epochs, {recipe.run.engine} engine, {recipe.run.precision}, {_place(setup)} -> {path}"
    )


def _place(setup: Setup) -> str:
    """The device in words, with what several processes are."""
    size, recipe = setup.ranks.size, setup.recipe
    if size == 1:
        return str(setup.device)
    alone = isinstance(setup.engine, FastEngine) and setup.engine.captures_attack
    graphs = f", {'the attack alone' if alone else 'nothing'} captured" if recipe.run.capture == "on" else ""
    return f"{size} processes on {setup.device.type}, BatchNorm {recipe.run.batch_norm}{graphs}"


def _finish(setup: Setup, record: dict[str, Any], started: float) -> dict[str, Any]:
    """The figures that need the whole run."""
    seconds = record["seconds"]
    return {
        "seconds": seconds | {"total": seconds["total"] + time.perf_counter() - started},
        "peak_memory_bytes": peak_memory(setup.device),
        "status": "finished",
    }
