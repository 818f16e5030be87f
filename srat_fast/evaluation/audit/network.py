"""Checks of the network itself: mode, finiteness, repeatability, gradients."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from srat_fast.attacks.inner import ce, margin
from srat_fast.evaluation.audit.checks import (
    DERIVATIVE,
    FAILED,
    RECOMPOSED,
    REPEATED,
    ZERO_GRADIENT,
    Check,
    at_most,
    not_run,
)
from srat_fast.evaluation.audit.evidence import Evidence
from srat_fast.models.batch import Batch
from srat_fast.seeds import seed_for

#: Images for the checks that need few.
_FEW = 32


def mode(evidence: Evidence) -> Check:
    """Eval mode, float32, eager, no autocast: looked up in the model and in a pass through it.

    Args:
        evidence: of the audit.

    Returns:
        The check; its figure counts the violations.
    """
    model, wrong = evidence.model, []
    for name, module in model.named_modules():
        if module.training:
            wrong.append(f"{name or 'the model'} is in training mode")
        if hasattr(module, "_orig_mod") or isinstance(module, torch.jit.ScriptModule):
            wrong.append(f"{name or 'the model'} is compiled")
    floats = {t.dtype for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()}
    wrong += [f"weights are {str(dtype).removeprefix('torch.')}" for dtype in floats - {torch.float32}]
    if torch.is_autocast_enabled(evidence.batches.device.type):
        wrong.append("autocast is on")
    logits = evidence.logits(evidence.first(2)[0])
    if logits.dtype != torch.float32:
        wrong.append(f"logits are {str(logits.dtype).removeprefix('torch.')}")
    found = "; ".join(wrong[:3] + [f"and {len(wrong) - 3} more"] * (len(wrong) > 3)) or "eval, fp32, eager"
    meaning = "what was measured is not the model that is used, or not in the precision it is quoted for"
    return at_most("mode", len(wrong), 0, found, meaning)


def finite(evidence: Evidence) -> Check:
    """Logits of the clean images are numbers.

    Args:
        evidence: of the audit.

    Returns:
        The check; its figure counts images.
    """
    broken = sum(
        int((~evidence.logits(images).isfinite()).any(dim=1).sum()) for images, _ in evidence.batches.epoch()
    )
    found = f"{broken} of {len(evidence)} images have NaN or infinite logits"
    return at_most("finite logits", broken, 0, found, "NaN compares as wrong or right by accident")


def _difference(a: Tensor, b: Tensor) -> float:
    """Largest difference relative to the largest magnitude; 0 for two tensors of zeros."""
    scale = float(torch.maximum(a.abs().max(), b.abs().max()))
    return float((a - b).abs().max()) / scale if scale else 0.0


def repeatable(evidence: Evidence) -> Check:
    """The same images give the same logits, three times.

    Args:
        evidence: of the audit.

    Returns:
        The check; its figure is the largest relative difference.
    """
    images, _ = evidence.first(_FEW)
    passes = [evidence.logits(images) for _ in range(3)]
    figure = max(_difference(passes[0], other) for other in passes[1:])
    found = f"two passes differ by {figure:.1e} of the largest logit"
    meaning = "the model is randomised: an attack has to average over its draws, and this one does not"
    return at_most("repeatability", figure, REPEATED, found, meaning)


def independent(evidence: Evidence) -> Check:
    """Logits do not depend on batch size, order or company.

    Args:
        evidence: of the audit.

    Returns:
        The check; its figure is the largest relative difference.
    """
    images, _ = evidence.first(_FEW)
    together = evidence.logits(images)
    generator = torch.Generator(images.device).manual_seed(seed_for(evidence.seed, "audit", "company"))
    noise = torch.rand(images.shape, generator=generator, device=images.device)
    among = evidence.logits(torch.cat([noise, images]))[len(images) :]
    backwards = evidence.logits(images.flip(0)).flip(0)
    name, meaning = (
        "batch independence",
        "images are judged with the help of their neighbours, as by batch statistics (which change logits by a "
        "hundredth and more; within ten times the threshold it may be rounding of other kernels for other batch sizes)",
    )
    try:
        alone = torch.cat([evidence.logits(image) for image in images.split(1)])
    except (ValueError, RuntimeError) as error:  # BatchNorm in training mode refuses a batch of one
        reason = f"a single image cannot be judged: {str(error).splitlines()[0]}"
        return Check(name, FAILED, None, RECOMPOSED, reason, meaning)
    figure = max(_difference(together, other) for other in (among, backwards, alone))
    found = f"batch size, order and company change logits by {figure:.1e} of the largest one"
    return at_most(name, figure, RECOMPOSED, found, meaning)


def zero_gradients(evidence: Evidence) -> Check:
    """Share of exact zeros in the gradient that PGD follows, at clean images and at random starts.

    Args:
        evidence: of the audit.

    Returns:
        The check; its figure is the share.
    """
    device = evidence.batches.device
    generator = torch.Generator(device).manual_seed(seed_for(evidence.seed, "audit", "starts"))
    zeros = entries = 0
    for images, labels in evidence.batches.epoch():
        for point in (images, evidence.ball.random_start(images, generator)):
            gradient = _gradient(evidence.model, point, labels)
            zeros += int((gradient == 0).sum())
            entries += gradient.numel()
    figure = zeros / entries
    found = f"{100 * figure:.2f} % of the loss's gradient is exactly zero"
    meaning = "PGD stands still at these pixels: saturated, quantised or cut off"
    return at_most("zero gradients", figure, ZERO_GRADIENT, found, meaning)


def _gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Gradient of the summed cross-entropy; zeros where the graph does not reach the images."""
    point = images.detach().clone().requires_grad_(True)
    with torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
        value = ce(Batch(None, point, labels, forward=model)) * len(labels)
    if not value.requires_grad:
        return torch.zeros_like(images)
    (gradient,) = torch.autograd.grad(value, point, allow_unused=True)
    return torch.zeros_like(images) if gradient is None else gradient


def derivatives(evidence: Evidence) -> Check:
    """Autograd's derivative of the margin is the derivative: against central differences, in float64.

    Args:
        evidence: of the audit.

    Returns:
        The check; its figure is the median relative error over images and directions.
    """
    name = "gradient against differences"
    meaning = "a part of the network is cut off from the gradient (detached, replaced, rounded away)"
    images, labels = evidence.first(_FEW)
    try:
        model = copy.deepcopy(evidence.model).double()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        return not_run(name, f"the model cannot be copied to float64: {error}", meaning)
    images, step, errors = images.double(), 1e-4, []
    generator = torch.Generator(images.device).manual_seed(seed_for(evidence.seed, "audit", "directions"))

    def margins(of: Tensor) -> Tensor:
        logits = model(of)
        rows = zip(logits.split(1), labels.split(1), strict=True)
        return torch.stack(
            [margin(Batch(None, row, label, forward=lambda given: given)) for row, label in rows]
        )

    try:
        for _ in range(4):
            direction = torch.randn(images.shape, generator=generator, device=images.device).double()
            direction /= direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            point = images.clone().requires_grad_(True)
            value = margins(point)
            gradient = torch.zeros_like(images)
            if value.requires_grad:
                (found_gradient,) = torch.autograd.grad(value.sum(), point, allow_unused=True)
                gradient = gradient if found_gradient is None else found_gradient
            analytic = (gradient * direction).flatten(1).sum(dim=1)
            with torch.no_grad():
                ahead, behind = margins(images + step * direction), margins(images - step * direction)
            measured = (ahead - behind).double() / (2 * step)
            larger = torch.maximum(analytic.abs(), measured.abs())
            errors.append(torch.where(larger > 0, (analytic - measured).abs() / larger, 0.0))
    except RuntimeError as error:  # a layer without float64
        return not_run(name, f"the model does not compute in float64: {str(error).splitlines()[0]}", meaning)
    figure = float(torch.cat(errors).median())
    found = f"directional derivatives are off by {figure:.1e} (median, relative)"
    return at_most(name, figure, DERIVATIVE, found, meaning)
