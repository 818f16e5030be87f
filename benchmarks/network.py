"""FLOP/s of each stage of the network by pass: `python benchmarks/network.py [--batch 128]`.

Each stage runs alone on the activations that a batch gives it, compiled and replayed as a CUDA graph as in a captured
step. Forward and input gradient are the attack's (the shadow's stage), the weight gradient is the update's (the model's
stage under autocast). A gradient's time is a difference: forward and backward together, less what came before.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.ladder import PRODUCT, precision_of
from benchmarks.measure import DEVICE, ON_GPU, captured, parsed, parser, record, take_turns
from benchmarks.rows import Row
from benchmarks.work import COUNTS, Work, batch_of, with_size, work_of
from srat_fast.attacks.engine import compile_mode, compile_settings
from srat_fast.attacks.shadow import Shadow
from srat_fast.models.build import build_model
from srat_fast.models.classifier import Classifier

STAGES = ("stem", "layer1", "layer2", "layer3", "layer4", "head")
PASSES = ("forward", "input gradient", "weight gradient")
Functions = dict[str, Callable[[], object]]


class Stem(nn.Module):
    """First convolution, its BatchNorm and ReLU, as `ResNet.features` has them."""

    def __init__(self, network: Classifier) -> None:
        super().__init__()
        self.conv1, self.bn1 = network.backbone.conv1, network.backbone.bn1

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] in [0, 1] -> [B, width, H, W]."""
        return functional.relu(self.bn1(self.conv1(images.to(self.conv1.weight.dtype))))


class Head(nn.Module):
    """Pooling and the linear layer."""

    def __init__(self, network: Classifier) -> None:
        super().__init__()
        self.linear = network.linear

    def forward(self, x: Tensor) -> Tensor:
        """[B, 8 * width, h, w] -> logits [B, classes]."""
        with torch.autocast(x.device.type, enabled=False):
            return self.linear(x.to(self.linear.weight.dtype).mean(dim=(2, 3)))


def parts_of(network: Classifier) -> dict[str, nn.Module]:
    """The stages of a network, in order; one after another they are its forward pass (without normalisation)."""
    layers = {name: getattr(network.backbone, name) for name in STAGES[1:-1]}
    return {"stem": Stem(network), **layers, "head": Head(network)}


def network_row(work: Work, rounds: int, block: float) -> dict[str, Any]:
    """Every stage and pass; with bn = "running" without the weight gradient, as update and attack differ there."""
    recipe = work.recipe()
    model = build_model(recipe, classes=len(COUNTS), channels=3, moments=None).to(DEVICE)
    model.train().to(memory_format=torch.channels_last)
    half = precision_of(PRODUCT, work) == "bf16"
    shadow = Shadow(model, dtype=torch.bfloat16 if half else torch.float32, bn=work.bn)
    images, _ = batch_of(work)
    attacked, trained = parts_of(shadow.network), parts_of(model)
    found, x = [], images
    for name in STAGES:
        flops = _forward_flops(trained[name], x)
        with compile_settings(DEVICE):
            functions = _functions(attacked[name], trained[name], x, half, work.bn == "batch")
        times = {key: median(turns) for key, turns in take_turns(functions, rounds, block).items()}
        found += _entries(name, flops, times)
        with torch.no_grad():
            x = attacked[name](x)
    repeats = {"forward": work.steps + 1, "input gradient": work.steps + 1, "weight gradient": 1}
    for part in found:
        part["microseconds_a_step"] = round(part["microseconds"] * repeats[part["pass"]], 1)
    whole = sum(part["microseconds_a_step"] for part in found)
    for part in found:
        part["share"] = round(part["microseconds_a_step"] / whole, 4)
    about = work._asdict() | {"precision": precision_of(PRODUCT, work)}
    return {
        "op": "network", "implementation": PRODUCT, **about, "parts": found, "microseconds_a_step": round(whole, 1)
    }  # fmt: skip


def _functions(attacked: nn.Module, trained: nn.Module, x: Tensor, half: bool, weights: bool) -> Functions:
    """Pass -> a call that does it and all before it."""
    given = x.detach().clone(memory_format=torch.preserve_format).requires_grad_(True)
    if ON_GPU:
        mode = compile_mode("default")
        torch.compiler.reset()
        attacked, trained = (
            torch.compile(part, dynamic=False, fullgraph=True, mode=mode) for part in (attacked, trained)
        )
    parameters = [p for p in trained.parameters() if p.requires_grad]

    def update() -> Tensor:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=half):
            return trained(given)

    outputs = {"forward": lambda: attacked(given), "update": update}
    seeds = {name: torch.randn_like(output().detach()) for name, output in outputs.items()}
    functions: Functions = {
        "forward": outputs["forward"],
        "input gradient": lambda: torch.autograd.grad(outputs["forward"](), given, seeds["forward"]),
    }
    if weights:
        functions["weight gradient"] = lambda: torch.autograd.grad(
            update(), (given, *parameters), seeds["update"]
        )
    return {name: captured(function) if ON_GPU else function for name, function in functions.items()}


def _entries(stage: str, flops: int, times: dict[str, float]) -> list[dict[str, Any]]:
    """One entry a pass; `tflops` is None where its time could not be told from nothing."""
    entries, before = [], 0.0
    for name, reached in times.items():
        spent = max(reached - before, 0.0)
        # a difference within the noise is no rate
        tera = round(flops / spent / 1e6, 3) if spent > 0.02 * reached else None
        entries.append(
            {"stage": stage, "pass": name, "flops": flops, "microseconds": round(spent, 2), "tflops": tera}
        )
        before = reached
    return entries


def _forward_flops(part: nn.Module, x: Tensor) -> int:
    """FLOPs of a forward pass, of the input gradient and of the weight gradient alike (performance.md)."""
    plain = copy.deepcopy(part).float().cpu().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        plain(torch.empty(1, *x.shape[1:]))
    return counter.get_total_flops() * len(x)


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    return parsed(with_size(parser(__doc__)), arguments)


def measured(found: argparse.Namespace) -> Iterator[Row]:
    """One row."""
    yield network_row(work_of(found), found.rounds, found.block / 6)


if __name__ == "__main__":
    chosen = options()
    record(measured(chosen), chosen.out)
