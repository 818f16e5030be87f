"""The audit of any classifier: all checks and one verdict."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn

from srat_fast import registry
from srat_fast.errors import EvaluationFailure, UserError
from srat_fast.evaluation.accuracy import accuracies
from srat_fast.evaluation.audit import blackbox, network, strength
from srat_fast.evaluation.audit.checks import FAILED, NOT_RUN, Check
from srat_fast.evaluation.audit.evidence import Evidence, Progress, TensorBatches
from srat_fast.evaluation.intervals import intervals, wilson
from srat_fast.hardware import device_name, neutral, numerics
from srat_fast.recipe.sections import Attack
from srat_fast.record import versions

#: The queries of the black-box check and the images of AutoAttack, where nothing else is asked for.
QUERIES, AUTOATTACK_IMAGES = 500, 64


@neutral(keep_autocast=True)  # the check of the mode tells of autocast
def audit(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    threat: str = Attack.threat,
    step_size: float | None = None,
    steps: int = 20,
    surrogate: nn.Module | None = None,
    surrogate_origin: str = "the given surrogate",
    autoattack: int = AUTOATTACK_IMAGES,
    queries: int = QUERIES,
    batch_size: int = 250,
    seed: int = 0,
    deterministic: bool = False,
    progress: Progress = lambda name, done, total: None,
) -> dict[str, Any]:
    """Whether a classifier's accuracy under PGD is to be believed.

    Args:
        model: images in [0, 1] -> logits [B, C], as it is used: in eval mode, float32, not compiled.
        images: [N, C, H, W] float32 in [0, 1], on the model's device.
        labels: [N] int64.
        epsilon: radius of the quoted number, pixel range [0, 1].
        threat: its threat model, by name.
        step_size: of its PGD; None for a quarter of the radius.
        steps: of its PGD.
        surrogate: another model of the same classes, for the transfer check; None leaves that out.
        surrogate_origin: what it is, for the record.
        autoattack: images for AutoAttack; 0 leaves it out.
        queries: of the Square attack, for each image; 0 leaves it out.
        batch_size: images a step.
        seed: of every attack.
        deterministic: as `run.deterministic`.
        progress: told (attack, images done, images in all).

    Returns:
        {"verdict": "reliable" or "suspicious", "problems": failed checks in words, "not_run": names, "checks":
        [{"name", "verdict", "figure", "threshold", "found", "meaning"}], "accuracy": {"clean", "robust"} each with
        its interval, overall and of the worst class, "subset": N, "attack", "seconds", "device", "versions"}.

    Raises:
        UserError: a model, images, labels or numbers that cannot be.
    """
    _check_lengths(threat, epsilon, step_size)
    check_counts(autoattack=autoattack, queries=queries, batch_size=batch_size, seed=seed, steps=steps)
    _check_images(images, labels)
    started = time.perf_counter()
    # copies: no attack can change the caller's, and none is a tensor of inference mode, which keeps no gradient
    images, labels = images.detach().clone(), labels.to(images.device, copy=True)
    classes = _classes(model, "model", images)
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise UserError(
            "labels",
            f"0 to {classes - 1}: the model gives {classes} logits",
            f"{int(labels.min())} to {int(labels.max())}",
        )
    if surrogate is not None:
        if surrogate is model:
            raise UserError("surrogate", "another model than the audited one is needed")
        if (other := _classes(surrogate, "surrogate", images)) != classes:
            raise UserError("surrogate", f"a model of {classes} classes, as the audited one", other)
    evidence = Evidence(
        model,
        TensorBatches(images, labels, batch_size),
        threat,
        epsilon,
        epsilon / 4 if step_size is None else step_size,
        steps,
        classes=classes,
        seed=seed,
        progress=progress,
    )
    of_evidence: tuple[Callable[[Evidence], Check], ...] = (
        network.mode,
        network.finite,
        network.repeatable,
        network.independent,
        network.derivatives,
        network.zero_gradients,
        strength.below_clean,
        strength.more_steps,
        strength.restarts,
        strength.margin_loss,
        strength.logit_scale,
        strength.larger_radius,
        strength.random_noise,
        lambda e: blackbox.transfer(e, surrogate, surrogate_origin),
        lambda e: blackbox.square(e, queries),
        lambda e: blackbox.autoattack(e, autoattack),
        strength.inside,
    )
    with numerics(deterministic), _buffers_kept(model):
        checks, accuracy = _all(of_evidence, evidence)
    attack = {
        "name": evidence.quoted,
        "threat": threat,
        "epsilon": epsilon,
        "step_size": evidence.step_size,
        "steps": steps,
    }
    return concluded(
        checks,
        {
            "accuracy": accuracy,
            "subset": len(evidence),
            "attack": attack,
            "device": device_name(images.device),
            "versions": versions(),
            "seconds": time.perf_counter() - started,
        },
    )


def concluded(checks: list[Check], facts: dict[str, Any]) -> dict[str, Any]:
    """The report of some checks.

    Args:
        checks: in order.
        facts: what else belongs into it.

    Returns:
        As `audit`.
    """
    failed = [check for check in checks if check.verdict == FAILED]
    return {
        "verdict": "suspicious" if failed else "reliable",
        "problems": [f"{check.name}: {check.found}" for check in failed],
        "not_run": [check.name for check in checks if check.verdict == NOT_RUN],
        "checks": [check.as_dict() for check in checks],
    } | facts


def summary(report: dict[str, Any]) -> str:
    """An audit in one line.

    Args:
        report: as `audit` gives it.

    Returns:
        Such as "reliable", "reliable (not run: transfer)" or "suspicious: margin loss: 11 of 200 images ...".
    """
    line = str(report["verdict"])
    if report["problems"]:
        line += ": " + "; ".join(report["problems"])
    return line + (f" (not run: {', '.join(report['not_run'])})" if report["not_run"] else "")


def _all(
    checks: tuple[Callable[[Evidence], Check], ...], evidence: Evidence
) -> tuple[list[Check], dict[str, Any]]:
    """Every check, and the accuracies; what cannot be measured is a failed check, and ends the attacks."""
    done: list[Check] = []
    for check in checks:
        try:
            done.append(check(evidence))
        except EvaluationFailure as failure:
            meaning = "no accuracy can be measured at all"
            done.append(Check("measurable", FAILED, None, None, str(failure), meaning))
            return done, {}
    accuracy = {}
    for kind, name in (("clean", "clean"), ("robust", evidence.quoted)):
        right = int(evidence.right(name).sum())
        accuracy[kind] = {"overall": right / len(evidence), "interval": list(wilson(right, len(evidence)))}
        accuracy[kind] |= _worst(evidence.right(name), evidence.labels)
    return done, accuracy


def _worst(right: Tensor, labels: Tensor) -> dict[str, Any]:
    """The worst class of those that were looked at, with an interval that holds for whichever it is."""
    present, ranks = labels.unique(return_inverse=True)
    judged = torch.where(right, ranks, -1), ranks, list(range(len(present))), list[int]()
    return {"worst": accuracies(*judged)["worst"], "worst_interval": intervals(*judged)["worst"]}


def _check_lengths(threat: str, epsilon: float, step_size: float | None) -> None:
    """One line for a radius or a step that cannot be."""
    most = registry.threat[threat].largest
    for name, value in (("epsilon", epsilon), ("step_size", step_size)):
        if name == "step_size" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value <= most:
            raise UserError(name, f"a number > 0 and <= {most:g}", value)


def check_counts(**counts: int) -> None:
    """One line for a count that cannot be, by name: steps and the batch size from 1 on, the others from 0."""
    for name, count in counts.items():
        least = 1 if name in ("steps", "batch_size") else 0
        if isinstance(count, bool) or not isinstance(count, Integral) or count < least:
            raise UserError(name, f"an integer >= {least}", count)


def _check_images(images: Tensor, labels: Tensor) -> None:
    """One line for images or labels that would make the audit meaningless."""
    for name, value in (("images", images), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise UserError(name, "one tensor with all of them is needed", type(value).__name__)
    if images.dim() != 4 or images.dtype != torch.float32 or not len(images):
        raise UserError("images", "[N, C, H, W] float32 is needed", f"{list(images.shape)} {images.dtype}")
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise UserError("labels", "[N] int64, one for each image", f"{list(labels.shape)} {labels.dtype}")
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise UserError(
            "images", "pixels must lie in [0, 1]", f"{float(images.min())} to {float(images.max())}"
        )


def _classes(model: nn.Module, name: str, images: Tensor) -> int:
    """How many logits a model gives, tried on two images; refused where it is none that can be audited."""
    if not isinstance(model, nn.Module):
        raise UserError(name, "a torch.nn.Module is needed", type(model).__name__)
    tensors = [*model.parameters(), *model.buffers()]
    elsewhere = {str(t.device) for t in tensors if t.device != images.device}
    if elsewhere:
        raise UserError(name, f"is on {', '.join(sorted(elsewhere))} and the images are on {images.device}")
    if any(t.is_inference() for t in tensors):
        raise UserError(
            name, "was made in torch.inference_mode, where there are no gradients; make it outside"
        )
    given = images[:2].clone()
    try:
        with _buffers_kept(model):
            logits = Evidence.logits_of(model, given)
    except Exception as error:  # a model of the user's may raise anything; its own error is the cause
        reason = " ".join(str(error).split())[:200]
        problem = f"fails on images {list(given.shape)}: {type(error).__name__}: {reason}"
        raise UserError(name, problem) from error
    if not isinstance(logits, Tensor):
        raise UserError(name, "must return its logits and nothing else", type(logits).__name__)
    if (
        logits.dim() != 2
        or len(logits) != len(given)
        or logits.shape[1] < 2
        or not logits.is_floating_point()
    ):
        raise UserError(
            name,
            f"logits [{len(given)}, classes] of two or more classes are needed",
            f"{list(logits.shape)} {logits.dtype}",
        )
    if not torch.equal(given, images[:2]):
        raise UserError(name, "changes the images that it is given; have it work on a copy of them")
    return int(logits.shape[1])


@contextlib.contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """A model in training mode moves its running statistics in each pass: they are put back."""
    before = [
        (buffer, buffer.clone()) for buffer in model.buffers() if any(m.training for m in model.modules())
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, old in before:
                buffer.copy_(old)
