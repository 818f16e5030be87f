"""The audit of a finished run, which joins its record, or of a weights file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from torch import nn

from srat_fast.data.memory import MemoryLoader
from srat_fast.errors import UserError
from srat_fast.evaluation.audit.checks import FAILED, PASSED, Check, tail
from srat_fast.evaluation.audit.evidence import Progress
from srat_fast.evaluation.audit.surrogate import train_surrogate
from srat_fast.evaluation.audit.verdict import AUTOATTACK_IMAGES, QUERIES, audit, check_counts, concluded
from srat_fast.evaluation.judge import eval_settings
from srat_fast.evaluation.subject import Judged, Subject, amend_record, is_file, open_file, open_subject
from srat_fast.hardware import neutral
from srat_fast.models.files import model_from_bytes
from srat_fast.plugins import Plugins, load_all
from srat_fast.record import RECORD, WEIGHTS, RunDirectory, git_commit

#: Images of an audit where nothing else is asked for.
SUBSET = 200


@neutral()
def audit_run(
    run: str | Path,
    *,
    subset: int | None = SUBSET,
    threat: str | None = None,
    model: str | None = None,
    weights: str = "last",
    surrogate: str | Path | None = None,
    autoattack: int = AUTOATTACK_IMAGES,
    queries: int = QUERIES,
    changes: dict[str, Any] | None = None,
    device: str = "auto",
    data: Any = None,
    plugin: Plugins = (),
    progress: Progress = lambda name, done, total: None,
) -> dict[str, Any]:
    """Whether the robust accuracy of a run, or of somebody else's model, is to be believed.

    Args:
        run: a run directory; or a weights file as `srat_fast.load` reads it, of which nothing is recorded: its images
            and attack are those of the data set's recipe with `changes`, such as {"data.name": "cifar100"}.
        subset: at most this many test images, evenly over the classes; None for all.
        threat: of a weights file: its threat model, with that one's usual radius; None for the recipe's.
        model: of a weights file: its network, such as "wrn-28-10", where the file does not say it.
        weights: "last", "best" or "ema".
        surrogate: another run of the same classes to transfer from; None trains a small network on the run's images.
        autoattack: images for AutoAttack; 0 leaves it out.
        queries: of the Square attack, for each image; 0 leaves it out.
        changes: recipe fields to change, such as {"data.root": ...}.
        device: "auto", "cpu", "cuda" or "cuda:N".
        data: the images of a run that was trained on images in memory, as `srat_fast.train` took them.
        plugin: file or files of plug-ins that the run was made with; others are refused, and none is run unless given.
        progress: told (attack, images done, images in all).

    Returns:
        As `srat_fast.evaluation.audit.verdict.audit`, with the weights' checksum. Of a run it becomes `audit` in its
        record.json (in its part `best` or `ema` for those weights).

    Raises:
        UserError: not a run, images missing, a surrogate that does not fit.
        Unrecorded: the report, its `result`, could not be written into the record.
    """
    started = time.perf_counter()
    check_counts(autoattack=autoattack, queries=queries)  # before a surrogate is trained
    load_all(plugin)
    limit = {} if subset is None else {"data.test_limit": subset}
    fields, path = (changes or {}) | limit, Path(run)
    subject: Judged
    if is_file(path, model, weights):
        subject = open_file(path, fields, model=model, threat=threat, device=device, data=data)
    else:
        if threat is not None:
            raise UserError("--threat", "is for weights files; a run is audited in its own ball", threat)
        subject = open_subject(run, fields, weights=weights, device=device, data=data)
    settings = eval_settings(subject.recipe)
    other, origin = _surrogate(subject, surrogate, progress)
    batch_size = subject.recipe.run.eval_batch_size
    loader = MemoryLoader(subject.split.test, batch_size=len(subject.split.test), device=subject.device)
    images, labels = next(iter(loader.epoch(0)))
    report = audit(
        subject.model,
        images,
        labels,
        epsilon=settings.epsilon,
        threat=settings.threat,
        step_size=settings.step_size,
        steps=settings.steps,
        surrogate=other,
        surrogate_origin=origin,
        autoattack=autoattack,
        queries=queries,
        batch_size=batch_size,
        seed=subject.recipe.seed,
        deterministic=subject.recipe.run.deterministic,
        progress=progress,
    )
    checks = [Check(**check) for check in report["checks"]]
    if isinstance(subject, Subject):
        record = subject.directory.read_json(RECORD)
        checks += [_choice(record, weights), _recorded(record, weights, report)]
    facts = {name: report[name] for name in ("accuracy", "subset", "attack", "device", "versions")}
    report = concluded(checks, facts) | {
        "weights": weights,
        "weights_checksum": subject.weights_checksum,
        "data_checksum": subject.split.checksum,
        "git_commit": git_commit(),
        "seconds": time.perf_counter() - started,
    }

    def amended(current: dict[str, Any]) -> dict[str, Any]:
        if weights == "last":
            return current | {"audit": report}
        return current | {weights: (current.get(weights) or {}) | {"audit": report}}

    if isinstance(subject, Subject):
        amend_record(subject.directory, amended, report)
    return report


def _surrogate(subject: Judged, run: str | Path | None, progress: Progress) -> tuple[nn.Module, str]:
    """The model to transfer from, and what it is."""
    own, split = subject.model, subject.split
    if run is not None:
        directory = RunDirectory.open(Path(run), "--surrogate")
        content = directory.read_weights("last")
        other = model_from_bytes(content, directory.path / WEIGHTS["last"]).to(subject.device)
        shapes = [(m.classes, m.channels) for m in (own, other)]
        if shapes[0] != shapes[1]:
            needed = f"a run with {shapes[0][0]} classes and {shapes[0][1]} channels is needed"
            raise UserError("--surrogate", needed, str(run))
        if isinstance(subject, Subject) and directory.path.resolve() == subject.directory.path.resolve():
            raise UserError("--surrogate", "another run than the audited one is needed", str(run))
        return other, f"the run {directory.path.name}"
    # a network named within a family (timm:...) has the width of its name
    steps, width = 200, own.width if ":" in own.name else min(8, own.width)
    surrogate = train_surrogate(
        split.train,
        network=own.name,
        classes=len(split.classes),
        ball=eval_settings(subject.recipe).ball,
        device=subject.device,
        width=width,
        steps=steps,
        seed=subject.recipe.seed,
        progress=lambda done: progress("surrogate, steps", done, steps),
    )
    return surrogate, f"a network of width {width}, {steps} steps of FGSM training"


def _choice(record: dict[str, Any], weights: str) -> Check:
    """The judged epoch was not chosen by test images."""
    name, meaning = (
        "choice of the epoch",
        "the best of many epochs by test images is better than any honest one",
    )
    validation = int(record.get("validation_images") or 0)
    if weights == "last":
        return Check(name, PASSED, 0.0, 0.0, "the last epoch: nothing was chosen", meaning)
    if weights == "ema":
        return Check(name, PASSED, 0.0, 0.0, "the average's last state: nothing was chosen", meaning)
    chosen = validation > 0 and "validation" in (record.get("best") or {})
    found = f"best of {validation} held-out training images" if chosen else "no validation is on record"
    return Check(name, PASSED if chosen else FAILED, float(not chosen), 0.0, found, meaning)


def _recorded(record: dict[str, Any], weights: str, report: dict[str, Any]) -> Check:
    """The accuracy that the record quotes is that of these weights, as far as the subset can tell."""
    name = "recorded number"
    meaning = "the quoted accuracy was not measured on these weights and images"
    quoted = (record if weights == "last" else record.get(weights) or {}).get("robust")
    if quoted is None or not report["accuracy"]:
        return Check(
            name, FAILED, None, None, f"{WEIGHTS[weights]} has no robust accuracy on record", meaning
        )
    share, total = float(quoted["overall"]), int(report["subset"])
    seen = report["accuracy"]["robust"]["overall"]
    right = round(seen * total)
    inside = min(max(share, 1e-9), 1 - 1e-9)
    chance = min(tail(right, total, inside), tail(total - right, total, 1 - inside))
    found = f"{100 * share:.1f} % on record, {100 * seen:.1f} % of {total} images here"
    # one run in two thousand is suspected by chance; half a point of slack for another processor's rounding
    near = abs(share - seen) <= 0.005
    return Check(name, PASSED if near or chance > 2.5e-4 else FAILED, abs(share - seen), None, found, meaning)
