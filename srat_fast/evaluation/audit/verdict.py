"""The audit of any classifier: a model, images and the quoted attack enter; checks and one verdict leave."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from srat_fast.errors import EvaluationFailure, UserError
from srat_fast.evaluation.audit import blackbox, network, strength
from srat_fast.evaluation.audit.checks import FAILED, NOT_RUN, Check
from srat_fast.evaluation.audit.evidence import Evidence, Progress, TensorBatches
from srat_fast.evaluation.intervals import wilson
from srat_fast.hardware import device_name, numerics
from srat_fast.record import versions

#: The queries of the black-box check and the images of AutoAttack, where nothing else is asked for.
QUERIES, AUTOATTACK_IMAGES = 500, 64


def audit(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
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
        step_size: of its PGD; None for a quarter of the radius.
        steps: of its PGD.
        surrogate: another model of the same classes, for the transfer check; None leaves that out.
        surrogate_origin: what it is, for the record.
        autoattack: images for AutoAttack; 0 leaves it out.
        queries: of the Square attack, for each image.
        batch_size: images a step.
        seed: of every attack.
        deterministic: as `run.deterministic`.
        progress: told (attack, images done, images in all).

    Returns:
        {"verdict": "reliable" or "suspicious", "problems": failed checks in words, "not_run": names, "checks":
        [{"name", "verdict", "figure", "threshold", "found", "meaning"}], "accuracy": {"clean", "robust"} each with
        its interval, "subset": N, "attack", "seconds", "device", "versions"}.

    Raises:
        UserError: images, labels, radius or steps that cannot be.
    """
    _check_input(images, labels, epsilon, step_size, steps)
    started = time.perf_counter()
    images = images.detach()
    evidence = Evidence(
        model,
        TensorBatches(images, labels.to(images.device), batch_size),
        epsilon,
        epsilon / 4 if step_size is None else step_size,
        steps,
        classes=int(Evidence.logits_of(model, images[:2]).shape[1]),
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
    with numerics(deterministic):
        checks, accuracy = _all(of_evidence, evidence)
    attack = {"name": evidence.quoted, "epsilon": epsilon, "step_size": evidence.step_size, "steps": steps}
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
    return done, accuracy


def _check_input(images: Tensor, labels: Tensor, epsilon: float, step_size: float | None, steps: int) -> None:
    """One line for each thing that would make the audit meaningless."""
    if images.dim() != 4 or images.dtype != torch.float32:
        raise UserError("images", "[N, C, H, W] float32 is needed", f"{list(images.shape)} {images.dtype}")
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64 or not len(labels):
        raise UserError("labels", "[N] int64, one for each image", f"{list(labels.shape)} {labels.dtype}")
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise UserError(
            "images", "pixels must lie in [0, 1]", f"{float(images.min())} to {float(images.max())}"
        )
    if not 0 < epsilon <= 1:
        raise UserError("epsilon", "a number > 0 and <= 1", epsilon)
    if step_size is not None and not 0 < step_size <= 1:
        raise UserError("step_size", "a number > 0 and <= 1", step_size)
    if steps < 1:
        raise UserError("steps", "an integer >= 1", steps)
