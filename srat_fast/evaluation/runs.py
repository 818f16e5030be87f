"""Accuracies of a finished run, which join its record, or of a weights file."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from srat_fast.attacks.named import NamedAttack, parse_attacks
from srat_fast.data.memory import MemoryLoader
from srat_fast.data.notices import LOG
from srat_fast.errors import UserError
from srat_fast.evaluation.accuracy import accuracies, collapsed_class
from srat_fast.evaluation.intervals import intervals
from srat_fast.evaluation.judge import eval_settings
from srat_fast.evaluation.partial import load_partial, partial_path, remove_partials, save_partial
from srat_fast.evaluation.subject import Judged, Subject, amend_record, is_file, open_file, open_subject
from srat_fast.evaluation.survivors import Outcome, attack_images
from srat_fast.hardware import device_name, neutral, numerics
from srat_fast.plugins import Plugins, load_all
from srat_fast.recipe import ResolvedRecipe, recipe_from_dict
from srat_fast.record import RECORD, RunDirectory, git_commit, versions

#: A state is written at most this often; a killed evaluation loses no more than this and the round under way.
KEEP_EVERY = 2.0
#: Packages whose version may change the numbers.
_DECISIVE = ("torch", "srat-fast", "pyautoattack")
Progress = Callable[[str, int, int], None]


@neutral()
def evaluate(
    run: str | Path,
    attacks: str = "clean,pgd-20",
    *,
    epsilons: Sequence[float | str] | float | str = (),
    threat: str | None = None,
    model: str | None = None,
    weights: str = "last",
    changes: dict[str, Any] | None = None,
    device: str = "auto",
    data: Any = None,
    plugin: Plugins = (),
    fresh: bool = False,
    progress: Progress = lambda name, done, total: None,
) -> dict[str, Any]:
    """Accuracies of a run's saved model, or of somebody else's, on test images, in fp32, eager and eval mode.

    An evaluation that was killed is taken up where it stopped when it is asked for again with the same weights, images,
    attacks and versions, and gives the numbers that it would have given; a finished one is measured anew.

    Args:
        run: a run directory; or a weights file as `srat_fast.load` reads it, of which nothing is recorded: its images
            and attacks are those of the data set's recipe with `changes`, such as {"data.name": "cifar100"}.
        attacks: comma-separated, as in `srat_fast.attacks.named.NAMES`.
        epsilons: radius or radii, such as ["4/255", 0.1]; none for the run's own. Step sizes of PGD and CW scale along.
        threat: threat model; None for the run's own, another one needs `epsilons` (a file takes its usual radius).
        model: of a weights file: its network, such as "wrn-28-10", where the file does not say it.
        weights: "last", "best" (by validation) or "ema".
        changes: recipe fields to change, such as {"data.root": ..., "data.test_limit": 1000}.
        device: "auto", "cpu", "cuda" or "cuda:N".
        data: the images of a run that was trained on images in memory, as `srat_fast.train` took them.
        plugin: file or files of plug-ins that the run was made with; others are refused, and none is run unless given.
        fresh: leave aside what an interrupted evaluation kept.
        progress: told (row, images done, images in all).

    Returns:
        Row -> {"overall", "well", "under", "balanced", "per_class", "intervals", "seconds", "images", attack
        parameters}. A row is an attack's name, with the threat model behind it where that is not the run's own and
        " eps E" where there are several radii; `worst-case`
        (an image counts as right where every attack of the call leaves it right) follows where several attacks are
        asked for. The same joins `evaluations` in the run's record.json, with weights, versions and whether the
        images are the run's own.

    Raises:
        UserError: not a run, an unknown attack, a radius out of range, images missing.
        EvaluationFailure: non-finite logits, or an attack that left its ball: no number is given.
        Unrecorded: the rows, its `result`, could not be written into the record.
    """
    if isinstance(epsilons, (str, float, int)):
        epsilons = [epsilons]
    load_all(plugin)
    changes, path = changes or {}, Path(run)
    subject: Judged | None = None
    if is_file(path, model, weights):
        subject = open_file(path, changes, model=model, threat=threat, device=device, data=data)
        own, classes = subject.recipe, len(subject.split.classes)
    else:
        directory = RunDirectory.open(path)
        own = recipe_from_dict(directory.read_recipe()).replace(changes).resolve()
        classes = len(directory.read_json(RECORD)["classes"])
    settings = eval_settings(own)
    ball = settings.threat if threat is None else threat
    of_another = "" if ball == settings.threat else f" {ball}"
    if of_another and not epsilons:
        raise UserError(
            "eval_attack.epsilon",
            f"a radius in {ball} is needed (--eps): the run's own is one in {settings.threat}",
        )
    radii = _radii(own, ball, epsilons)
    chosen = {
        radius: parse_attacks(
            attacks,
            threat_model=ball,
            epsilon=radius,
            step_size=settings.step_size,
            classes=classes,
            own_epsilon=settings.epsilon,
        )
        for radius in radii
    }
    if subject is None:
        subject = open_subject(run, changes, weights=weights, device=device, data=data)
    started = time.perf_counter()
    rows: dict[str, dict[str, Any]] = {}
    partials: list[Path | None] = []
    for radius, of_radius in chosen.items():
        predictions: dict[str, Tensor] = {}
        at = "" if len(radii) == 1 else f" eps {radius:.4g}"
        for name, attack in of_radius.items():
            row = name if attack.epsilon is None else name + of_another + at
            outcome, labels, kept = _attacked(subject, attack, row, fresh, progress)
            partials.append(kept)
            predictions[row] = outcome.predictions
            rows[row] = _row(outcome.predictions, labels, subject, outcome.seconds) | {
                "collapsed": collapsed_class(outcome.predictions)
            }
            if attack.epsilon is not None:
                rows[row] |= attack.parameters | {"epsilon": attack.epsilon, "overshoot": outcome.overshoot}
        if len([a for a in of_radius.values() if a.epsilon is not None]) > 1:
            right = torch.stack([p == labels for p in predictions.values()]).all(dim=0)
            row = "worst-case" + of_another + at
            rows[row] = _row(torch.where(right, labels, -1), labels, subject, 0.0) | {
                "of": list(predictions),
                "threat": ball,
                "epsilon": radius,
            }
    if not isinstance(subject, Subject):
        return rows
    entry = _entry(subject, rows, time.perf_counter() - started)
    amend_record(
        subject.directory,
        lambda record: record | {"evaluations": [*record.get("evaluations", []), entry]},
        rows,
    )
    remove_partials([kept for kept in partials if kept is not None])
    return rows


def _radii(recipe: ResolvedRecipe, ball: str, epsilons: Sequence[float | str]) -> list[float]:
    """The radii, checked as the recipe's field is; each once."""
    found = []
    for value in epsilons:
        changes = {"eval_attack.threat": ball, "eval_attack.epsilon": value, "eval_attack.step_size": None}
        found.append(eval_settings(recipe.replace(changes)).epsilon)
    return list(dict.fromkeys(found)) or [eval_settings(recipe).epsilon]


def _attacked(
    subject: Judged, attack: NamedAttack, row: str, fresh: bool, progress: Progress
) -> tuple[Outcome, Tensor, Path | None]:
    """One attack; of a run, taken up where an earlier attempt stopped."""
    recipe, total = subject.recipe, len(subject.split.test)
    loader = MemoryLoader(subject.split.test, batch_size=recipe.run.eval_batch_size, device=subject.device)
    identity = {
        "weights": subject.weights_checksum,
        "data": subject.split.checksum,
        "attack": [attack.name, attack.epsilon, attack.parameters],
        "seed": recipe.seed,
        "batch": recipe.run.eval_batch_size,
        "device": device_name(subject.device),
        "versions": {name: version for name, version in versions().items() if name in _DECISIVE},
    }
    path = None
    if isinstance(subject, Subject):
        path = partial_path(subject.directory.path, attack.name, identity)
    if fresh and path is not None:
        remove_partials([path])
    kept, done, told = time.monotonic(), 0, False

    def keep(outcome: Outcome) -> None:
        nonlocal kept, told
        if path is not None and (time.monotonic() - kept >= KEEP_EVERY or outcome.batch == len(loader)):
            try:
                save_partial(path, outcome)
            except OSError as error:  # the numbers do not need it
                if not told:
                    LOG.warning(
                        "%s cannot be written, so a kill loses what is done: %s", path, error.strerror
                    )
                told = True
            kept = time.monotonic()

    def report(images: int) -> None:
        nonlocal done
        done += images
        progress(row, done, total)

    progress(row, 0, total)
    with numerics(recipe.run.deterministic):
        outcome, labels = attack_images(
            subject.model,
            loader,
            attack,
            seed=recipe.seed,
            outcome=None if path is None else load_partial(path, total),
            progress=report,
            keep=keep,
        )
    return outcome, labels, path


def _row(predictions: Tensor, labels: Tensor, subject: Judged, seconds: float) -> dict[str, Any]:
    """Accuracies with their intervals and conditions."""
    well, under = subject.split.well, subject.split.under
    return accuracies(predictions, labels, well, under) | {
        "intervals": intervals(predictions, labels, well, under),
        "images": len(labels),
        "seconds": seconds,
        "device": device_name(subject.device),
    }


def _entry(subject: Subject, rows: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What joins the record."""
    return {
        "attacks": rows,
        "weights": subject.weights,
        "weights_checksum": subject.weights_checksum,
        "data_checksum": subject.split.checksum,
        "same_data": subject.same_data,
        "seed": subject.recipe.seed,
        "batch_size": subject.recipe.run.eval_batch_size,
        "precision": "fp32",
        "seconds": seconds,
        "versions": versions(),
        "git_commit": git_commit(),
    }
