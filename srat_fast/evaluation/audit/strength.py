"""Checks of the attack's strength: PGD against its stronger and weaker relatives."""

from __future__ import annotations

import torch

from srat_fast.evaluation.audit.checks import OTHER_LOSS, UNCONVERGED, WHOLE_RANGE, Check, at_most, few
from srat_fast.evaluation.audit.evidence import Evidence

#: LDAM trains at 30 times the logits that are attacked.
LDAM_SCALE = "30"
#: Median margins at which cross-entropy is neither flat nor saturated.
MARGINS = (1.0, 4.0, 16.0)


def below_clean(evidence: Evidence) -> Check:
    """Robust accuracy is at most the clean one.

    Args:
        evidence: of the audit.

    Returns:
        The check; its figure is how much it is above.
    """
    clean, robust = (float(evidence.right(name).float().mean()) for name in ("clean", evidence.quoted))
    found = f"{100 * robust:.1f} % under {evidence.quoted}, {100 * clean:.1f} % clean"
    meaning = "the attack helps the model: wrong labels, wrong sign, or not the same images"
    return at_most("robust at most clean", robust - clean, 0.0, found, meaning)


def more_steps(evidence: Evidence) -> Check:
    """Five times the steps find hardly anything more.

    Args:
        evidence: of the audit.

    Returns:
        The check; its figure is the share of images that fall to them only.
    """
    return _stronger(
        evidence, "more steps", f"pgd-{5 * evidence.steps}", UNCONVERGED, "PGD has not converged"
    )


def restarts(evidence: Evidence) -> Check:
    """Five starts find hardly anything more than one.

    Args:
        evidence: of the audit.

    Returns:
        The check; its figure is the share of images that fall to them only.
    """
    meaning = "the loss has many poor maxima: one start is not enough"
    return _stronger(evidence, "restarts", f"{evidence.quoted}x5", UNCONVERGED, meaning)


def margin_loss(evidence: Evidence) -> Check:
    """PGD on the margin, which no scale of the logits changes, finds little more than PGD on cross-entropy.

    Args:
        evidence: of the audit.

    Returns:
        The check; its figure is the share of images that fall to it only.
    """
    meaning = (
        "cross-entropy is a poor guide for this model: saturated or flat, as LDAM's small logits can make it"
    )
    return _stronger(evidence, "margin loss", f"cw-{evidence.steps}", OTHER_LOSS, meaning)


def logit_scale(evidence: Evidence) -> Check:
    """Multiplying the logits before cross-entropy (the prediction stays the same) finds little more.

    The factors are LDAM's own and those that bring the median clean margin to `MARGINS`, whatever scale the model has.

    Args:
        evidence: of the audit.

    Returns:
        The check; its figure is the share of images that fall at the worst single factor only.
    """
    top = torch.cat([evidence.logits(images).topk(2, dim=1).values for images, _ in evidence.batches.epoch()])
    margin = float((top[:, 0] - top[:, 1]).median())  # [N, 2] -> scalar
    usual = {_factor(wanted / margin) for wanted in MARGINS} if margin > 0 else set()
    base = evidence.right(evidence.quoted)
    counts = {
        factor: int((base & ~evidence.right(f"{evidence.quoted}@{factor}")).sum())
        for factor in (LDAM_SCALE, *sorted(usual - {LDAM_SCALE, "1"}, key=float))
    }
    worst = max(counts, key=lambda factor: counts[factor])
    found = (
        f"{counts[worst]} of {len(evidence)} images fall to {evidence.quoted} on {worst} x logits only, "
        f"{counts[LDAM_SCALE]} on {LDAM_SCALE} x"
    )
    meaning = (
        "the scale of the logits hides the gradient: it is attacked at another scale than it was trained at"
    )
    return few("logit scale", counts[worst], len(evidence), OTHER_LOSS, found, meaning)


def _factor(value: float) -> str:
    """A factor as attack names spell it: two digits that count, between 10^-6 and 10^6."""
    digits = min(max(float(f"{value:.2g}"), 1e-6), 999999.0)
    return f"{digits:.6f}".rstrip("0").rstrip(".")


def _stronger(evidence: Evidence, name: str, attack: str, threshold: float, meaning: str) -> Check:
    """Images that the quoted attack leaves right and `attack` does not."""
    count = int((evidence.right(evidence.quoted) & ~evidence.right(attack)).sum())
    found = f"{count} of {len(evidence)} images survive {evidence.quoted} and fall to {attack}"
    return few(name, count, len(evidence), threshold, found, meaning)


def larger_radius(evidence: Evidence) -> Check:
    """Accuracy falls as the ball grows, to nothing where it is the whole range of pixels.

    Args:
        evidence: of the audit.

    Returns:
        The check; its figure is the accuracy at the largest radius.
    """
    whole = evidence.ball.diameter(evidence.batches.images.shape[1:])
    radii = sorted({min(whole, evidence.epsilon * factor) for factor in (2, 4, 8)} | {whole})
    curve = [(r, float(evidence.right(evidence.quoted, r).float().mean())) for r in radii]
    found = "accuracy " + ", ".join(f"{100 * accuracy:.1f} % at eps {r:.3g}" for r, accuracy in curve)
    meaning = "an image that may be anything is still recognised: the attack does not follow the model"
    return at_most("larger radius", curve[-1][1], WHOLE_RANGE, found, meaning)


def random_noise(evidence: Evidence) -> Check:
    """Random corners of the ball find nothing that PGD misses.

    Args:
        evidence: of the audit.

    Returns:
        The check; its figure is the share of images that fall to chance only.
    """
    fooled = ~evidence.right("noise-5")
    count = int((evidence.right(evidence.quoted) & fooled).sum())
    found = f"noise fools {int(fooled.sum())} of {len(evidence)} images, {count} of which survive {evidence.quoted}"
    meaning = "chance beats the gradient"
    return few("random noise", count, len(evidence), UNCONVERGED, found, meaning)


def inside(evidence: Evidence) -> Check:
    """Every adversarial image so far was inside the ball and [0, 1].

    Args:
        evidence: of the audit, after the attacks.

    Returns:
        The check; its figure is the largest excess.
    """
    found = f"{evidence.examined} adversarial images, the farthest {evidence.overshoot:.1e} outside"
    return at_most(
        "threat model",
        evidence.overshoot,
        evidence.ball.tolerance,
        found,
        "the attack had more than it may have",
    )


def white_box(evidence: Evidence) -> torch.Tensor:
    """Images that survive PGD and CW with the quoted number's steps: what a black box is held against.

    Args:
        evidence: of the audit.

    Returns:
        [N] bool.
    """
    return evidence.right(evidence.quoted) & evidence.right(f"cw-{evidence.steps}")
