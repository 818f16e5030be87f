"""A recipe's network: with the weights of its seed, and its size and cost without any."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from srat_fast.datasets import DATASETS
from srat_fast.errors import UserError
from srat_fast.models.classifier import Classifier
from srat_fast.recipe import Recipe, ResolvedRecipe
from srat_fast.seeds import seed_for


def build_model(
    recipe: Recipe, *, classes: int, channels: int, moments: tuple[Tensor, Tensor] | None
) -> Classifier:
    """The network of a recipe with weights from the recipe's seed, float32 on the CPU.

    Args:
        recipe: resolved.
        classes: C.
        channels: of the images.
        moments: per-channel (mean, std) for `model.normalize = dataset`, else None.
    """
    mean, std = moments if moments is not None else (None, None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(recipe.seed, "weights"))
        return Classifier(
            recipe.model.name,
            classes,
            channels=channels,
            width=recipe.model.width,
            projection_dim=_projection_dim(recipe),
            mean=mean,
            std=std,
        )


def _projection_dim(recipe: Recipe) -> int | None:
    head = recipe.row.separation and recipe.loss.separation_features == "projection"
    return recipe.model.feature_dim if head else None


def forward_flops(model: Classifier, size: int) -> int:
    """FLOPs of the forward pass of one image of size x size (a multiply-add counts as two), projection included."""
    return _forward_flops(size, **model.arguments())


@functools.cache
def _forward_flops(size: int, **arguments: Any) -> int:
    model = _outline(arguments)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        features = model.features(torch.empty(1, model.channels, size, size, device="meta"))
        model.linear(features)
        if model.projection is not None:
            model.projection(features)
    return counter.get_total_flops()


def training_flops(forward: int, recipe: Recipe) -> int:
    """FLOPs of one training image (performance.md "The work and its floor").

    An attack step is a forward pass and the gradient of the input (2 forwards); the training step adds the weights'
    gradient (3): 10 x 2 + 3 = 23 forwards for PGD-10.
    """
    attack = 2 * recipe.attack.steps if recipe.row.adversarial else 0
    return (attack + 3) * forward


def planned_flops(recipe: Recipe) -> int:
    """FLOPs of one training image before any image is there, at 32 pixels where only the images tell."""
    return training_flops(_forward_flops(**_planned(recipe)), recipe)


def _planned(recipe: Recipe) -> dict[str, Any]:
    """Size of the images and arguments of the network, as far as they are known before any image is there."""
    facts = DATASETS[recipe.data.name]
    return {
        "size": recipe.data.image_size or facts.image_size or facts.resize_to or 32,
        "name": recipe.model.name,
        "classes": len(facts.classes) or 10,
        "channels": facts.channels,
        "width": recipe.model.width,
        "projection_dim": _projection_dim(recipe),
    }


#: device -> (bytes of a process before its first tensor, memory held for each byte of tensors). The CPU's are measured:
#: seven runs of ResNet-18 and WRN-28-10 took 0.77 to 1.11 of the estimate (blocks below malloc's 32 MiB leave gaps).
#: The GPU's are not measured.
_PROCESS = {"cpu": (0.42 * 2**30, 1.6), "cuda": (1.0 * 2**30, 1.25)}


def planned_memory(recipe: Recipe, images: int, device: str) -> int:
    """Bytes of memory that a run with so many training images will hold at most, on a "cpu" or on "cuda".

    On a CPU within a third. Twice the training images stand for them and for the test images.
    """
    planned = _planned(recipe)
    process, held = _PROCESS[device]
    pixels = planned["channels"] * planned["size"] ** 2
    return int(process + 2 * images * pixels + held * tensor_bytes(recipe, device))


def tensor_bytes(recipe: Recipe, device: str) -> int:
    """Bytes of weights, gradients, momentum, averages and what the larger one of a step and an evaluation keeps."""
    weights, kept = _kept_bytes(**_planned(recipe))
    optim, run = recipe.optim, recipe.run
    half = run.precision == "bf16" or (run.precision == "auto" and device == "cuda")
    cast = 0.5 if half else float(recipe.attack.bn == "running")  # what the attack has of its own
    copies = 3 + (optim.ema_decay > 0) + cast
    judged = run.eval_batch_size
    if recipe.data.test_limit is not None:
        judged = min(judged, recipe.data.test_limit)
    return int(copies * weights + kept * max(optim.batch_size * (0.5 if half else 1), judged))


def image_bytes(recipe: Recipe) -> int:
    """Bytes that a float32 forward pass keeps of one image for its gradient."""
    return _kept_bytes(**_planned(recipe))[1]


@functools.cache
def _kept_bytes(size: int, **arguments: Any) -> tuple[int, int]:
    """(Bytes of the weights, bytes that a forward pass keeps of one image for its gradient), float32."""
    model = _outline(arguments).train()
    weights = [*model.parameters(), *model.buffers()]
    own = {t.untyped_storage()._cdata for t in weights}
    kept: dict[int, Tensor] = {}  # the tensors too: an address that is free may be another's
    images = 2  # BatchNorm of a single pixel needs them

    def keep(tensor: Tensor) -> Tensor:
        if (address := tensor.untyped_storage()._cdata) not in own:
            kept[address] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = model.features(torch.empty(images, model.channels, size, size, device="meta"))
        model.linear(features)
        if model.projection is not None:
            model.projection(features)
    total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return sum(t.numel() * t.element_size() for t in weights), total // images


def check_batch_norm(recipe: ResolvedRecipe, images: int, model: Classifier) -> None:
    """Refuse a last batch of one image where a BatchNorm sees one pixel of it: there is nothing to average.

    Args:
        recipe: resolved.
        images: training images an epoch.
        model: on any device.
    """
    size, batch = recipe.data.image_size, recipe.optim.batch_size
    if (batch == 1 or images % batch == 1) and _fewest_values(size, **model.arguments()) == 1:
        raise UserError(
            "optim.batch_size",
            f"leaves a batch of one image ({images} in all), which BatchNorm cannot normalise at {size} pixels; "
            "take another size",
            batch,
        )


def _fewest_values(size: int, **arguments: Any) -> int:
    """Values per channel that the BatchNorm of the smallest map has of one image; 2 without BatchNorm."""
    found = [2]

    def count(module: nn.Module, inputs: tuple[Tensor]) -> None:
        found.append(inputs[0].numel() // inputs[0].shape[1])

    model = _outline(arguments)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.register_forward_pre_hook(count)
    with torch.no_grad():
        model.features(torch.empty(1, model.channels, size, size, device="meta"))
    return min(found)


def _outline(arguments: dict[str, Any]) -> Classifier:
    """A network of shapes only: no memory, no random numbers, no time to speak of."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return Classifier(**arguments).to("meta").eval()  # also what was not made on the default device
