"""Checks without the model's gradient, and AutoAttack: what PGD misses."""

from __future__ import annotations

import importlib.util

import torch
from torch import nn

from srat_fast.attacks.autoattack import FEWEST_CLASSES, STANDARD_PARTS, PackageRound, too_small
from srat_fast.attacks.named import GradientRound
from srat_fast.evaluation.audit.checks import AUTOATTACK, UNCONVERGED, Check, few, not_run
from srat_fast.evaluation.audit.evidence import Evidence
from srat_fast.evaluation.audit.strength import white_box
from srat_fast.seeds import seed_for

_NOT_INSTALLED = "pyautoattack is not installed: pip install 'srat-fast[audit]'"
#: A surrogate below this multiple of guessing has nothing to transfer.
_LEARNED = 3.0


def _missing(evidence: Evidence) -> str | None:
    """Why AutoAttack's parts cannot run."""
    if evidence.ball.autoattack is None:
        return f"AutoAttack has no {evidence.ball.title}"
    if not importlib.util.find_spec("pyautoattack"):
        return _NOT_INSTALLED
    return too_small("square", evidence.ball, evidence.batches.images)


def transfer(evidence: Evidence, surrogate: nn.Module | None, origin: str) -> Check:
    """Adversarial images made on another model find nothing that PGD and CW on this one miss.

    Args:
        evidence: of the audit.
        surrogate: in eval mode, on the images' device; None where there is none.
        origin: what it is, for the record.

    Returns:
        The check; its figure is the share of images that fall to the transfer only.
    """
    name, meaning = "transfer", "another model's gradient is a better guide than this one's own: it is masked"
    if surrogate is None:
        return not_run(name, "no surrogate was given", meaning)
    survives = white_box(evidence)
    step = GradientRound(evidence.ball, evidence.steps, evidence.step_size, "ce", "transfer")
    device = evidence.batches.device
    generator = torch.Generator(device).manual_seed(seed_for(evidence.seed, "audit", "transfer"))
    fooled, learned = [], 0
    for images, labels in evidence.batches.epoch():
        examples = step.examples(surrogate, images, labels, step.start(images, generator), 0)
        evidence.overshoot = max(evidence.overshoot, float(evidence.ball.overshoot(examples, images).max()))
        evidence.examined += len(labels)
        fooled.append(evidence.logits(examples).argmax(dim=1) != labels)
        learned += int((evidence.logits_of(surrogate, images).argmax(dim=1) == labels).sum())
    accuracy = learned / len(evidence)
    if accuracy * evidence.classes < min(_LEARNED, 0.75 * evidence.classes):
        return not_run(name, f"the surrogate ({origin}) is right on {100 * accuracy:.0f} % only", meaning)
    count = int((survives & torch.cat(fooled).cpu()).sum())
    found = (
        f"{origin} ({100 * accuracy:.0f} % right) fools {int(torch.cat(fooled).sum())} of {len(evidence)} images, "
        f"{count} of which survive PGD and CW"
    )
    return few(name, count, len(evidence), UNCONVERGED, found, meaning)


def square(evidence: Evidence, queries: int) -> Check:
    """The Square attack, which sees logits only, finds nothing that PGD and CW miss.

    Args:
        evidence: of the audit.
        queries: for each image; 0 leaves it out.

    Returns:
        The check; its figure is the share of images that fall to it only.
    """
    name, meaning = "black box", "random search beats the gradient: it is masked"
    if not queries:
        return not_run(name, "left out", meaning)
    if (reason := _missing(evidence)) is not None:
        return not_run(name, reason, meaning)
    survives = white_box(evidence)
    part = PackageRound(evidence.ball, "square", evidence.classes, queries)
    count = int((survives & ~evidence.survivors("square", (part,), survives)).sum())
    found = f"{count} of {len(evidence)} images survive PGD and CW and fall to {queries} queries of Square"
    return few(name, count, len(evidence), UNCONVERGED, found, meaning)


def autoattack(evidence: Evidence, images: int) -> Check:
    """AutoAttack on some of the images finds little more than the quoted PGD.

    Args:
        evidence: of the audit.
        images: at most so many, spread over the set; 0 leaves it out.

    Returns:
        The check; its figure is the share of them that fall to AutoAttack only.
    """
    name, meaning = "AutoAttack", "the quoted number is far above what the standard ensemble leaves"
    if not images:
        return not_run(name, "left out", meaning)
    if (reason := _missing(evidence)) is not None:
        return not_run(name, reason, meaning)
    parts = tuple(part for part in STANDARD_PARTS if FEWEST_CLASSES[part] <= evidence.classes)
    quoted, sample = evidence.right(evidence.quoted), evidence.sample(images)
    rounds = tuple(PackageRound(evidence.ball, part, evidence.classes) for part in parts)
    left = quoted & sample & evidence.survivors("autoattack", rounds, quoted & sample)
    total, count = int(sample.sum()), int((quoted & sample).sum()) - int(left.sum())
    found = (
        f"{100 * int(left.sum()) / total:.1f} % of {total} images survive {evidence.quoted} and AutoAttack, "
        f"{100 * int((quoted & sample).sum()) / total:.1f} % {evidence.quoted} alone"
    )
    if parts != STANDARD_PARTS:
        found += f" ({', '.join(parts)} only: {evidence.classes} classes)"
    return few(name, count, total, AUTOATTACK, found, meaning)
