"""What the hardware allows, a prediction: FLOPs, least bytes and floor times of the network by stage and pass.

`python benchmarks/floor.py` prints the table of docs/explanation/performance.md; with --stages each stage and pass of
one size, to stand beside a profile.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from srat_fast.models.classifier import Classifier
from srat_fast.tables import Table

FLOPS, BANDWIDTH = (
    790e12,
    4.3e12,
)  # an H200: bf16 matrix products and memory (docs/explanation/performance.md)
HALF, FULL = 2, 4  # bytes of bfloat16 and float32
STEPS = 10
STAGES = ("stem", "layer1", "layer2", "layer3", "layer4", "head")
PASSES = ("forward", "input gradient", "weight gradient")
#: Reads and writes of a convolution's output besides the convolutions' own, by pass. batch: statistics read it, the
#: normalisation reads it and writes what the next layer reads; back, the sums read the gradient and the output, and so
#: does what writes the next gradient. running: bias and ReLU are a pass of their own (as torch.compile does it); back,
#: the ReLU's mask. fused: bias and ReLU inside of the convolution; the mask still has to be read.
TOUCHES = {
    "batch": {"forward": 3, "input gradient": 5},
    "running": {"forward": 2, "input gradient": 1},
    "fused": {"forward": 0, "input gradient": 1},
}
#: Launches for the normalisation of all 20 layers, forward and back, as counted in what torch 2.11 writes for sm_90
#: (statistics in two or three stages); fused is what is left of running.
LAUNCHES = {"batch": (66, 75), "running": (17, 17), "fused": (0, 17)}
#: All other launches but those of convolutions and matrix products: loss, pooling, the step on the images; in an update
#: also 41 casts, the gradient's norm, the guard and the optimiser. With them an attack step is 193, an update 317.
OTHERS = {"attack": 10, "update": 108}
#: What kernels of a good library reach of the two rates (64 tiles for 132 multiprocessors in the last stage, 64 columns
#: in the first), what the shortest kernel takes, and what the next one of a CUDA graph waits for it.
CONVOLUTION, MEMORY, LATENCY, GAP = 0.52, 0.8, 2e-6, 0.9e-6


class Layer(NamedTuple):
    """A convolution or linear layer; elements and FLOPs (a multiply-add is two) of an image."""

    stage: str  # of `STAGES`
    name: str
    inputs: int
    outputs: int
    weights: int
    flops: int  # of its forward pass


class Cell(NamedTuple):
    """One pass of one stage on a batch."""

    stage: str  # of `STAGES`
    passed: str  # of `PASSES`
    flops: int
    bytes: int  # least memory traffic
    kernels: float  # launches
    floor: (
        float  # seconds at the full rates: each convolution the longer of its two times, all else its bytes
    )
    expected: float  # seconds at what good kernels reach


def layers(width: int = 64, size: int = 32, classes: int = 10) -> list[Layer]:
    """Every layer with weights, measured on the network itself (which computes nothing here)."""
    with torch.device("meta"):
        model = Classifier("resnet18", classes, width=width, projection_dim=128).eval()
    found: list[Layer] = []

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
            stage = name.split(".")[0] if name.startswith("layer") else "stem" if name == "conv1" else "head"
            pixels = output[0, 0].numel()  # 1 of a linear layer
            flops = 2 * module.weight.numel() * pixels
            found.append(Layer(stage, name, inputs[0].numel(), output.numel(), module.weight.numel(), flops))

        return hook

    for full, module in model.named_modules():
        name = full.removeprefix("backbone.")
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(note(name))
    features = model.features(torch.empty(1, 3, size, size, device="meta"))
    model.linear(features)
    assert model.projection is not None
    model.projection(features)
    return found


def cells(batch: int, bn: str, update: bool, found: list[Layer]) -> Iterator[Cell]:
    """What one attack step (forward, input gradient) or one update (weight gradient too) takes, by stage and pass.

    An update always has batch statistics. The head's own traffic is counted as that of any layer; the loss is not.
    """
    bn = "batch" if update else bn
    touches = TOUCHES[bn]
    normalisations = sum(layer.stage != "head" for layer in found)
    for stage in STAGES:
        own = [
            layer for layer in found if layer.stage == stage and (update or "projection" not in layer.name)
        ]
        for number, passed in enumerate(PASSES if update else PASSES[:2]):
            flops = moved = 0
            kernels = floor = expected = 0.0
            if stage == "head" and number == 0:
                kernels = OTHERS["update" if update else "attack"]
                expected = kernels * (LATENCY + GAP)
            for layer in own:
                # nobody asks for the images' gradient; what lies behind the convolution has its own all the same
                asked = not (update and layer.name == "conv1" and passed == "input gradient")
                work = asked * batch * layer.flops
                ends = asked * HALF * (batch * (layer.inputs + layer.outputs) + layer.weights)
                normalised = stage != "head" and number < 2
                around = HALF * batch * layer.outputs * touches[passed] if normalised else 0
                # a block's sum: the other branch is read; back, its gradient is written once and read once
                if layer.name.endswith("conv2") and number < 2:
                    around += HALF * batch * layer.outputs * (1 if passed == "forward" else 2)
                flops, moved = flops + work, moved + ends + around
                extra = LAUNCHES[bn][number] / normalisations if normalised else 0
                kernels += asked + extra
                floor += max(work / FLOPS, ends / BANDWIDTH) + around / BANDWIDTH
                slow = max(work / FLOPS / CONVOLUTION, ends / BANDWIDTH / MEMORY, asked * LATENCY)
                expected += slow + max(around / BANDWIDTH / MEMORY, extra * LATENCY) + (asked + extra) * GAP
            yield Cell(stage, passed, flops, moved, kernels, floor, expected)


def weights_seconds(found: list[Layer]) -> float:
    """Seconds a batch of what only touches weights: their cast, gradients written and read, SGD with momentum."""
    elements = sum(layer.weights for layer in found)
    return elements * (FULL + HALF + 2 * FULL + 4 * FULL) / BANDWIDTH


def predicted(batch: int, bn: str, found: list[Layer] | None = None) -> dict[str, float]:
    """A PGD-10 step: FLOPs an image; bytes an image and launches of an attack step; floor and expected images/s."""
    found = layers() if found is None else found
    attack, update = (list(cells(batch, bn, part, found)) for part in (False, True))
    flops = STEPS * sum(c.flops for c in attack) + sum(c.flops for c in update)
    seconds = {
        kind: STEPS * sum(getattr(c, kind) for c in attack)
        + sum(getattr(c, kind) for c in update)
        + weights_seconds(found)
        for kind in ("floor", "expected")
    }
    return {
        "flops_per_image": flops / batch,
        "bytes_per_attack_step": sum(c.bytes for c in attack) / batch,
        "kernels": sum(c.kernels for c in attack),
        **{kind: batch / taken for kind, taken in seconds.items()},
    }


def table() -> str:
    """The page's table."""
    heads = (
        "MB an image and attack step",
        "launches an attack step",
        "floor, images/s",
        "expected, images/s",
    )
    made, found = Table("batch", "`attack.bn`", *heads), layers()
    names = {"batch": "batch", "running": "running", "fused": "running, bias and ReLU in the convolution"}
    for batch in (128, 512):
        for bn, name in names.items():
            row = predicted(batch, bn, found)
            cells = (f"{row['bytes_per_attack_step'] / 1e6:.1f}", f"{row['kernels']:.0f}")
            made.add(str(batch), name, *cells, f"{row['floor']:,.0f}", f"{row['expected']:,.0f}")
    return made.markdown()


def stages_table(batch: int, bn: str) -> str:
    """Each stage and pass of an attack step and of an update, microseconds a batch."""
    made, found = (
        Table("part", "stage", "pass", "GFLOP", "MB", "floor us", "expected us", right=range(3, 7)),
        layers(),
    )
    for part, update in (("attack", False), ("update", True)):
        for cell in cells(batch, bn, update, found):
            figures = (cell.flops / 1e9, cell.bytes / 1e6, cell.floor * 1e6, cell.expected * 1e6)
            made.add(part, cell.stage, cell.passed, *(f"{figure:.1f}" for figure in figures))
    return "\n".join(made.lines(200))


def main() -> None:
    """Print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", action="store_true", help="each stage and pass of one size")
    parser.add_argument("--batch", type=int, default=128, help="images a step, with --stages")
    parser.add_argument("--bn", choices=tuple(TOUCHES), default="batch", help="with --stages")
    arguments = parser.parse_args()
    print(stages_table(arguments.batch, arguments.bn) if arguments.stages else table())


if __name__ == "__main__":
    main()
