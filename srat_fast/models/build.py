"""A recipe's network: with the weights of its seed, and its size and cost without any."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from srat_fast.datasets import DATASETS
from srat_fast.errors import UserError
from srat_fast.methods import METHODS
from srat_fast.models.classifier import TINY, Classifier, CosineLinear, ScaledLinear
from srat_fast.recipe import Recipe, ResolvedRecipe, Stage, stage_at, stages_of
from srat_fast.registry import inner, term
from srat_fast.seeds import seed_for


def build_model(
    recipe: Recipe, *, classes: int, channels: int, moments: tuple[Tensor, Tensor] | None
) -> Classifier:
    """The network of a recipe with weights of its seed, float32 on the CPU; `moments`: per-channel mean and std."""
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
            head=recipe.value("model.head"),
            head_scale=recipe.value("model.head_scale"),
            head_gamma=recipe.value("model.head_gamma"),
        )


@torch.no_grad()
def adjusted(model: Classifier, recipe: ResolvedRecipe, counts: Sequence[int]) -> Classifier:
    """What is judged and saved: a copy with the recipe's inference adjustment in its last layer, or, where there is
    none, the model itself. A scaled head becomes a linear one.

    In this order: w_c / |w_c|^tau without bias, z_c / n_c^tau, the factor on cosines, z_c - tau ln(n_c / N).
    """
    own = recipe.model
    if isinstance(model.linear, ScaledLinear):
        scaled = model.linear
        model = copy.deepcopy(model)
        model.linear = _without_scales(scaled)
    if not (own.inference_norm or own.inference_counts or own.inference_prior or own.inference_scale != 1):
        return model
    model = copy.deepcopy(model)
    head: nn.Linear = model.linear
    images = torch.tensor(list(counts), dtype=torch.float64, device=head.weight.device)
    prior = own.inference_prior * torch.log(images / images.sum())
    if isinstance(head, CosineLinear):
        head.scale *= own.inference_scale
        head.shift.copy_(-prior)
        return model
    weight, bias = head.weight.double(), head.bias.double()
    if own.inference_norm:
        weight = weight / weight.norm(dim=1, keepdim=True).clamp(min=TINY) ** own.inference_norm
        bias = torch.zeros_like(bias)
    factors = images**-own.inference_counts
    head.weight.copy_(weight * factors[:, None])
    head.bias.copy_(bias * factors - prior)
    return model


def _without_scales(head: ScaledLinear) -> nn.Linear:
    """s_c w_c and s_c b_c."""
    plain = nn.Linear(head.in_features, head.out_features, device=head.weight.device, dtype=head.weight.dtype)
    plain.weight.copy_(head.weight * head.scales[:, None])
    plain.bias.copy_(head.bias * head.scales)
    return plain.train(head.training)


@torch.no_grad()
def renew_head(model: Classifier, seed: int) -> None:
    """New weights in the last layer, in place."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = nn.Linear(model.feature_dim, model.classes, bias=model.linear.bias is not None)
    model.linear.weight.copy_(fresh.weight)
    if model.linear.bias is not None:
        model.linear.bias.copy_(fresh.bias)


def _projection_dim(recipe: Recipe) -> int | None:
    rows = [recipe.row, *(METHODS[name] for name in recipe.value("stages.method") if name != "method")]
    head = any(row.separation for row in rows) and recipe.loss.separation_features == "projection"
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
    """FLOPs of one training image by its passes, a mean over epochs (performance.md "The work and its floor").

    A gradient costs a forward pass. An attack step is a pass and the gradient of the input, the clean prediction of a
    loss like kl one more pass an attack; the update has the gradient of the weights too: 10 x 2 + 3 = 23 for PGD-10.
    It takes 3 for each of x and x' that its terms read, 1 where no gradient comes back, and AWP doubles it. Two attacks
    a step are twice the passes, early stops none fewer.
    """
    stages, epochs = _stages(recipe), recipe.optim.epochs
    return round(sum((stage.end - stage.first) * _passes(stage) for stage in stages) / epochs * forward)


def stage_flops(forward: int, stage: Stage) -> int:
    """The same of one stage: where the features rest, no gradient of weights comes back through them."""
    return round(_passes(stage) * forward)


def _stages(recipe: Recipe) -> list[Stage]:
    """Those of a recipe that need not be resolved."""
    if recipe.value("stages.lengths"):
        return stages_of(cast(ResolvedRecipe, recipe.filled()))
    return [Stage(0, 0, recipe.optim.epochs, cast(ResolvedRecipe, recipe))]


def _passes(stage: Stage) -> float:
    recipe, row = stage.recipe, stage.recipe.row
    attack, two = 0, recipe.value("attack.stop") == "both"
    if row.adversarial:
        climbed = inner[recipe.attack.loss or row.inner]
        attack = (1 + two) * (2 * recipe.attack.steps + int(getattr(climbed, "clean", False)))
    with_gradient = 1 if stage.frozen else 3
    branch = recipe.value("loss.branch")
    readers = [name for name in (row.base, *row.terms) if getattr(term[name], "clean", False)]
    # the logits of x' are counted as right or wrong in any case
    update = 1 if branch != "adversarial" and not row.terms else with_gradient
    if branch == "clean" or readers:
        detached = branch != "clean" and readers == ["kl"] and recipe.value("loss.kl_target") == "detached"
        update += 1 if detached else with_gradient
    update += with_gradient * two
    perturbed = 0.0
    if recipe.value("optim.awp_gamma") > 0:
        first = max(stage.first, recipe.value("optim.awp_epoch"))
        perturbed = max(0.0, (stage.end - first) / (stage.end - stage.first))
    return attack + update * (1 + perturbed)


def measured_epochs(recipe: Recipe) -> list[int]:
    """Epochs (from 0) at whose end `feedback.rule` measures classes; after the last it would change nothing."""
    value, epochs = recipe.value, recipe.optim.epochs
    rule = value("feedback.rule")
    if rule in ("off", "faal"):
        return []
    first = value("feedback.start") * epochs - 1e-9
    due = [e for e in range(epochs - 1) if (e + 1) % value("feedback.every") == 0 and e + 1 >= first]
    if value("stages.lengths"):  # stages of other rows go without
        stages = _stages(recipe)
        due = [e for e in due if stage_at(stages, e + 1).recipe.value("feedback.rule") == rule]
    return due[:1] if rule == "dafa" else due  # which goes by its first figures for good


def feedback_flops(forward: int, recipe: Recipe, counts: Sequence[int]) -> int:
    """FLOPs of a run's measurements, of classes of so many images: PGD's steps, and a pass of x and of x' each."""
    images = sum(min(n, recipe.value("feedback.images")) for n in counts)
    steps = recipe.value("feedback.steps") or recipe.attack.steps
    return len(measured_epochs(recipe)) * images * (2 * steps + 2) * forward


def planned_feedback_flops(recipe: Recipe, counts: Sequence[int]) -> int:
    """The same of so many training images a class, hold-out included, before any image is there."""
    data = recipe.data
    if not measured_epochs(recipe):
        return 0
    if recipe.value("feedback.split") == "validation":
        each = sum(counts) / len(counts)
        of = [each] * len(counts) if data.val_source == "balanced" else counts
        counts = [max(1, round(n * data.val_fraction)) for n in of]
    return feedback_flops(_forward_flops(**_planned(recipe)), recipe, counts)


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


def check_batch_norm(recipe: ResolvedRecipe, images: int, model: Classifier, processes: int = 1) -> None:
    """Refuse a last batch of one image where a BatchNorm sees one pixel of it: there is nothing to average.

    With `run.batch_norm = local` the same of each of several processes' shares; of no image there are no statistics.
    """
    size, batch = recipe.data.image_size, recipe.optim.batch_size
    parts = processes if recipe.run.batch_norm == "local" else 1
    shares = {(whole + more) // parts for whole in (batch, images % batch) for more in (0, parts - 1)}
    if 1 in shares and _fewest_values(size, **model.arguments()) == 1:
        what = "a batch" if parts == 1 else "a process's share of a batch"
        raise UserError(
            "optim.batch_size",
            f"leaves {what} of one image ({images} in all), which BatchNorm cannot normalise at {size} pixels; "
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
