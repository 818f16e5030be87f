"""The attempts at more speed, each with its prediction: nothing enters; a list of ways to make an engine leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from benchmarks.attempts.by_hand import FusedConvolution, FusedNorm
from benchmarks.attempts.stems import PaddedStem, TurnedStem
from benchmarks.attempts.variants import halves, loss_inside, with_shadow
from benchmarks.engine.ladder import FAST, PRODUCT, make_engine
from benchmarks.engine.work import COUNTS, DEVICE, UNDER, Work
from srat_fast.models.build import build_model
from srat_fast.training.step import FastEngine


class Attempt(NamedTuple):
    """One idea.

    Attributes:
        name: unique.
        sizes: (batch, attack.bn) at which it is measured, the one that decides first.
        gain: predicted time of the product / time of the attempt, at the first size.
        why: the reasoning, in one line of the table.
        make: size -> engine before its first step, of the product's recipe.
        settings: of torch._inductor.config while the engine compiles.
        cudnn: let cuDNN time its kernels instead of guessing, in a thread of its own: plans are kept by thread.
    """

    name: str
    sizes: tuple[tuple[int, str], ...]
    gain: float
    why: str
    make: Callable[[Work], FastEngine]
    settings: Mapping[str, Any] = MappingProxyType({})
    cudnn: bool = False


def product(work: Work) -> FastEngine:
    """The engine that `srat-fast train` uses."""
    return make_engine(PRODUCT, work)


def uncompiled(work: Work) -> FastEngine:
    """The product without torch.compile: launches are captured all the same."""
    recipe = work.recipe(**{**FAST[PRODUCT], "run.compile": "off"})
    model = build_model(recipe, classes=len(COUNTS), channels=3, moments=None).to(DEVICE)
    return FastEngine(recipe, model, COUNTS, UNDER)


BATCH, RUNNING, LARGE = (128, "batch"), (128, "running"), (512, "running")
#: In the order of expected gain a minute.
ATTEMPTS = (
    Attempt(
        "fused-norm",
        (BATCH, (512, "batch")),
        1.12,
        "inductor launches 3 to 4 kernels a BatchNorm and direction, 141 an attack step (read from its code); here 80",
        lambda work: with_shadow(product(work), FusedNorm, compiled=False),
    ),
    Attempt(
        "fused-convolution",
        (RUNNING, LARGE),
        1.10,
        "bias and ReLU as a pass of their own are 2.4 of 10.6 MB an image and 20 of 82 launches (floor.py)",
        lambda work: with_shadow(product(work), FusedConvolution, compiled=False),
    ),
    Attempt(
        "padded-stem",
        (BATCH, RUNNING),
        1.08,
        "cuDNN has no tensor-core kernel for the gradient of 3 channels: 50 to 200 us where 25 are the floor",
        lambda work: with_shadow(product(work), PaddedStem, compiled=True),
    ),
    Attempt(
        "turned-stem",
        (BATCH, RUNNING),
        1.08,
        "the same gradient as a forward convolution 64 -> 8",
        lambda work: with_shadow(product(work), TurnedStem, compiled=True),
    ),
    Attempt(
        "cudnn-timed",
        (BATCH, RUNNING),
        1.05,
        "timed kernels instead of cuDNN's first guess; the guess is often good, the last stage's 64 tiles rarely",
        product,
        cudnn=True,
    ),
    Attempt(
        "kernels-combined",
        (BATCH, RUNNING),
        1.04,
        "inductor puts independent kernels into one: 27 of 193 launches less an attack step, 73 of 317 an update",
        product,
        settings={"combo_kernels": True},
    ),
    Attempt(
        "launched-early",
        (BATCH, RUNNING),
        1.04,
        "programmatic dependent launch: a kernel's start overlaps the end of the one before; 144 of them, 0.5 us each",
        product,
        settings={"triton.enable_pdl": True},
    ),
    Attempt(
        "halves",
        (RUNNING,),
        1.06,
        "the last two stages fill 64 to 128 of 132 multiprocessors, a launch's start and end none: overlap two streams",
        lambda work: halves(product(work)),
    ),
    Attempt(
        "loss-inside",
        (BATCH, RUNNING),
        1.01,
        "six small launches less of some 190 an attack step",
        lambda work: loss_inside(product(work)),
    ),
    Attempt(
        "uncompiled",
        (BATCH, RUNNING),
        0.75,
        "what compilation is worth beside its minutes: ATen's BatchNorm, ReLU and sum are passes of their own",
        uncompiled,
    ),
    Attempt(
        "pointwise-tuned",
        (BATCH,),
        1.02,
        "Triton's settings timed, cuDNN's convolutions left alone",
        product,
        settings={"max_autotune_pointwise": True},
    ),
)
