"""Every kernel against its references: `python benchmarks/kernels.py [--only srat_loss] [--only "B=4096 D=512"]`.

Implementations of an op: "triton" (GPU only: the interpreter is never timed), "eager" (the torch reference) and
"compiled" (the same through torch.compile). Modes: "forward" (everything saved for a backward), "forward+backward".
On a CPU only the compiled reference is compared with the eager one, at a small size.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.measure import DEVICE, ON_GPU, Case, captured, parsed, parser, peak_bytes, record, rows
from benchmarks.rows import Row
from srat_kernels import last_backend, linf_step, margin_loss, separation_loss, srat_loss
from tests.kernels.accuracy import assert_as_accurate

IMPLEMENTATIONS = ("triton", "compiled", "eager") if ON_GPU else ("compiled", "eager")
MODES = ("forward", "forward+backward")
LOSSES = ("srat_loss", "separation_loss", "margin_loss")
EPSILON = 8 / 255


class Size(NamedTuple):
    """B, D, C of a loss; for the image step B images of 3 x 32 x 32, D and C unused (0)."""

    batch: int
    dims: int
    classes: int


def loss_sizes(op: str) -> list[Size]:
    """The sizes of the performance goals on a GPU; one small one on a CPU."""
    if not ON_GPU:
        return [Size(128, 128 if op != "margin_loss" else 0, 10 if op != "separation_loss" else 0)]
    batches = (128, 256, 512, 1024, 4096)
    dims = (0,) if op == "margin_loss" else (128, 512)
    classes = (0,) if op == "separation_loss" else (10, 100)
    return [Size(*each) for each in product(batches, dims, classes)]


def linf_sizes() -> list[Size]:
    """Batches of CIFAR images."""
    return [Size(batch, 0, 0) for batch in ((128, 512, 4096) if ON_GPU else (64,))]


def all_sizes() -> Iterator[tuple[str, str, Size]]:
    """(op, mode, size) of every case."""
    for op in LOSSES:
        for size, mode in product(loss_sizes(op), MODES):
            yield op, mode, size
    for size in linf_sizes():
        yield "linf_step", "forward", size


def name_of(op: str, mode: str, size: Size) -> str:
    """What `--only` looks into."""
    return f"{op} {mode} B={size.batch} D={size.dims} C={size.classes}"


@lru_cache(maxsize=1)  # the implementations of one case follow each other
def build(op: str, mode: str, size: Size) -> dict[str, Callable[[], tuple[Tensor, ...]]]:
    """One step by each implementation, after the gate; what a step returns is what the gate compares."""
    torch.manual_seed(0)
    torch.compiler.reset()  # nothing compiled for one size is reused, or counted as a recompilation, for the next
    functions = _linf(size) if op == "linf_step" else _loss(op, mode, size)
    for name, function in functions.items():
        function()
        expected = "triton" if name == "triton" else "torch"
        if name != "compiled":  # inside a compiled graph no Python runs that could remember
            assert last_backend(op) == expected, (
                f"{name_of(op, mode, size)}: {name} ran on {last_backend(op)}"
            )
    return functions


def _loss(op: str, mode: str, size: Size) -> dict[str, Callable[[], tuple[Tensor, ...]]]:
    batch, dims, classes = size
    labels = torch.randint(classes or 10, (batch,), device=DEVICE)
    tensors: dict[str, Tensor] = {}
    options: dict[str, Any] = {}
    if op != "margin_loss":
        tensors["features"] = normalize(torch.randn(batch, dims, device=DEVICE), dim=1)
    if op != "separation_loss":
        tensors["logits"] = torch.randn(batch, classes, device=DEVICE)
        options["class_weights"] = torch.logspace(0, 2, classes, device=DEVICE)
        options["margins"] = torch.linspace(0.1, 0.5, classes, device=DEVICE)
        options["scale"] = 30.0
    if op == "margin_loss":  # every vector of the adjusted cross-entropy; in `srat_loss` LDAM's alone
        options["bias"] = torch.linspace(-1, -5, classes, device=DEVICE)
        options["inverse_temperature"] = torch.linspace(1, 0.3, classes, device=DEVICE)
    public = {"srat_loss": srat_loss, "separation_loss": separation_loss, "margin_loss": margin_loss}[op]

    def step(inputs: dict[str, Tensor], loss: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        value = loss(**inputs)
        if mode == "forward":
            return (value,)
        return value, *torch.autograd.grad(value, tuple(inputs.values()))

    def total(backend: str, **inputs: Tensor) -> Tensor:
        loss = public(**inputs, labels=labels, backend=backend, **options)
        return loss.total if op == "srat_loss" else loss

    leaves = {name: tensor.requires_grad_() for name, tensor in tensors.items()}
    compiled = torch.compile(lambda **inputs: total("torch", **inputs), fullgraph=True, dynamic=False)
    implementations: dict[str, Callable[..., Tensor]] = {
        "triton": lambda **inputs: total("triton", **inputs),
        "compiled": compiled,
        "eager": lambda **inputs: total("torch", **inputs),
    }
    functions = {name: lambda f=implementations[name]: step(leaves, f) for name in IMPLEMENTATIONS}
    exact = step(
        {name: tensor.detach().double().requires_grad_() for name, tensor in tensors.items()},
        implementations["eager"],
    )
    reference = functions["eager"]()
    for name, function in functions.items():
        for got, wanted, truth in zip(function(), reference, exact, strict=True):
            assert_as_accurate(got, wanted, truth, f"{op} {mode} {size} {name}")
    return functions


def _linf(size: Size) -> dict[str, Callable[[], tuple[Tensor, ...]]]:
    shape = (size.batch, 3, 32, 32)
    clean = torch.rand(shape, device=DEVICE).contiguous(memory_format=torch.channels_last)
    images = (clean + EPSILON * (2 * torch.rand_like(clean) - 1)).clamp(0, 1)
    gradient = torch.randn_like(clean).to(torch.bfloat16)
    nonfinite = torch.zeros(1, dtype=torch.int64, device=DEVICE)

    def step(backend: str) -> Tensor:
        return linf_step(
            images, gradient, clean, step_size=2 / 255, epsilon=EPSILON, nonfinite=nonfinite, backend=backend
        )

    compiled = torch.compile(lambda: step("torch"), fullgraph=True, dynamic=False)
    implementations = {"triton": lambda: step("triton"), "compiled": compiled, "eager": lambda: step("torch")}
    functions = {name: lambda f=implementations[name]: (f(),) for name in IMPLEMENTATIONS}
    for name, function in functions.items():
        # compiled code may contract x + alpha * sign(g) into one rounding
        torch.testing.assert_close(
            function()[0], step("torch"), rtol=0, atol=1e-7, msg=f"linf_step {size} {name}: wrong"
        )
    return functions


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    made = parser(__doc__)
    made.add_argument("--only", default="", help="cases whose name contains this")
    made.set_defaults(rounds=15, block=0.03)
    found = parsed(made, arguments)
    if found.small:
        found.only = found.only.split(" ")[0]  # sizes are the smallest
    if not any(found.only in name_of(*each) for each in all_sizes()):
        made.error(f'--only = {found.only!r}: no such case, as "{name_of(*next(all_sizes()))}" is one')
    return found


def measured(found: argparse.Namespace) -> Iterator[Row]:
    """The first implementation against each other one, launched one by one and, on a GPU, replayed as a graph."""
    ours, *references = IMPLEMENTATIONS
    for op, mode, size in all_sizes():
        if found.only not in name_of(op, mode, size):
            continue
        functions = build(op, mode, size)
        own = {name: {"peak_bytes": peak_bytes(function)} for name, function in functions.items()}
        for launch in ("calls", "graph") if ON_GPU else ("calls",):
            timed = functions if launch == "calls" else {n: captured(f) for n, f in functions.items()}
            about = {"mode": mode, "launch": launch, **size._asdict()}
            pairs = [(ours, reference) for reference in references]
            yield from rows(Case(op, about, timed, pairs, own), found.rounds, found.block, warmup=3)


if __name__ == "__main__":
    chosen = options()
    record(measured(chosen), chosen.out)
