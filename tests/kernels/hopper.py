"""Compile every kernel in every configuration for sm_90, with no GPU; prints one JSON line a kernel.

Run as a script in a process of its own: TRITON_INTERPRET must be unset before triton is imported.
`python hopper.py forward`, `... backward`: those; without an argument: all others.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

os.environ.pop("TRITON_INTERPRET", None)

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from srat_fast.models.classifier import Classifier
from srat_fast.recipe import Recipe
from srat_fast.registry import model as networks
from srat_kernels.jit import triton
from srat_kernels.linf.kernel import CONFIGS as LINF
from srat_kernels.linf.kernel import linf_kernel
from srat_kernels.loss.kernels import (
    BACKWARD,
    FORWARD,
    backward_kernel,
    block_of_classes,
    candidates,
    finish_kernel,
    fit,
    forward_kernel,
)
from srat_kernels.tuning import Config, power_of_two

POINTERS = {"labels": "*i64", "partial_count": "*i32"}
INTEGERS = ("batch", "dims", "classes", "numel", "stride_")
FLOATS = (
    "to_exponent", "scale", "gamma", "separation_weight", "inverse_temperature", "step", "epsilon",
)  # fmt: skip
#: Integers that 16 divides where the features are wide: triton compiles such launches apart.
WIDE = ("dims", "stride_row")
#: Whole batches: of the paper, and one for which all configurations are candidates.
BATCHES = (128, 1024)


class Case(NamedTuple):
    """A kernel as a launch may ask for it."""

    name: str
    kernel: Any
    config: Config
    types: dict[str, str]  # of pointers, where they are not float32
    constants: dict[str, Any]
    whole: tuple[str, ...] = WIDE
    networks: tuple[str, ...] = ()  # whose features are launched so


def compile_for_hopper(case: Case) -> dict[str, Any]:
    """PTX and cubin of one kernel; arguments are float32 pointers unless their types or names say otherwise."""
    kernel, config, types, constants = case.kernel, case.config, case.types, case.constants
    constants = {k: v for k, v in {**config.tiles, **constants}.items() if k in kernel.arg_names}
    signature, divisible = {}, {}
    for position, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name.startswith(INTEGERS):
            signature[name] = "i32"
        elif name in FLOATS:
            signature[name] = "fp32"
        else:
            signature[name] = types.get(name, POINTERS.get(name, "*fp32"))
            divisible[(position,)] = [["tt.divisibility", 16]]
    for name in case.whole:
        if signature.get(name) == "i32":
            divisible[(kernel.arg_names.index(name),)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=divisible)
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    begun = time.perf_counter()
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    ptx = compiled.asm["ptx"]
    return {
        "target": next(line.split()[1] for line in ptx.splitlines() if line.startswith(".target")).rstrip(
            ","
        ),
        "shared": compiled.metadata.shared,
        "cubin": len(compiled.asm["cubin"]),
        "tensor_cores": "wgmma.mma_async" in ptx or "mma.sync" in ptx,
        "seconds": round(time.perf_counter() - begun, 2),
        "ptx": ptx if os.environ.get("KEEP_PTX") else None,
    }


def launches(configs: tuple[Config, ...]) -> list[tuple[Config, tuple[str, ...], list[str]]]:
    """(configuration, integers that 16 divides, networks) of launches on the networks' features, each once."""
    found: dict[tuple[str, ...], tuple[Config, tuple[str, ...], list[str]]] = {}
    for name, dims in feature_dims().items():
        for batch in BATCHES:
            sizes = {"batch": batch, "dims": dims, "stride_row": dims}
            whole = tuple(size for size, value in sizes.items() if value % 16 == 0)
            for config in candidates(configs, power_of_two(batch, 16, 8192), power_of_two(dims, 16, 8192)):
                names = found.setdefault((str(config), *whole), (config, whole, []))[2]
                names += [name] if name not in names else []
    return list(found.values())


def feature_dims() -> dict[str, int]:
    """Features of every network at its published width, and of the projection head."""
    with torch.device("meta"):
        found = {name: Classifier(name, 2).feature_dim for name in networks if ":" not in name}
    return found | {"projection": Recipe().model.feature_dim}


def cases() -> Iterator[Case]:
    """Everything that a launch may ask for."""
    both = {"stride_dim": 1, "stride_class": 1, "stride_label": 1}
    plain = {"biases": None, "inverse_temperatures": None}
    no_features = {"features": None, "stride_row": 0, "stride_dim": 0}
    for kind, kernel, configs in (
        ("forward", forward_kernel, FORWARD),
        ("backward", backward_kernel, BACKWARD),
    ):
        for precision in ("tf32x3", "ieee", "bf16"):
            half = {"features": "*bf16", "logits": "*bf16", "feature_gradient_out": "*bf16"}
            types = half if precision == "bf16" else {}
            # the default precision as the networks ask for it, the others for batches of any size
            asked = launches(configs) if precision == "tf32x3" else [(c, WIDE, []) for c in configs]
            for number, (config, whole, names) in enumerate(asked):
                focal = ("none", "outside", "inside")[number % 3]
                constants = {"FOCAL": focal, "PRECISION": precision, "BLOCK_C": block_of_classes(100, config)}
                constants |= plain if number % 2 else {}
                name = f"{kind} {precision} {number}"
                yield Case(name, kernel, config, types, both | constants, whole, tuple(names))
    constants = {**both, "PRECISION": "tf32x3", "BLOCK_C": 16, "FOCAL": "outside"}
    for number, config in enumerate(FORWARD):  # tiles cut down to narrow features
        yield Case(f"forward narrow {number}", forward_kernel, fit(config, 16), {}, constants | plain)
    for number, config in enumerate(BACKWARD):
        yield Case(f"backward narrow {number}", backward_kernel, fit(config, 16), {}, constants)
    alone = constants | {"class_weights": None, "margins": None} | plain
    yield Case("separation alone", forward_kernel, FORWARD[0], {}, alone | {"logits": None})
    yield Case("margin alone", forward_kernel, FORWARD[0], {}, alone | no_features | {"SPLITS": 1})
    for focal in ("none", "inside"):
        adjusted = constants | no_features | {"SPLITS": 1, "FOCAL": focal}
        yield Case(f"margin adjusted {focal}", forward_kernel, FORWARD[0], {}, adjusted)
    nothing = {"logit_gradient_out": None, "upstream_total": None, "upstream_classification": None}
    yield Case("separation gradient alone", backward_kernel, BACKWARD[0], {}, constants | nothing)
    nothing = {"feature_gradient_out": None, "upstream_total": None, "upstream_separation": None}
    yield Case("margin gradient alone", backward_kernel, BACKWARD[0], {}, constants | no_features | nothing)
    for splits in sorted({config.tiles["SPLITS"] for config in FORWARD} | {1}):
        flags = {"HAS_FEATURES": True, "HAS_LOGITS": True, "DROP_EMPTY": True, "WEIGHTED_MEAN": True}
        finish = Config({"SPLITS": splits, "BLOCK": 1024}, 4, 3)
        yield Case(f"finish {splits}", finish_kernel, finish, {}, flags)
    for number, config in enumerate(LINF):
        for gradient in ("*bf16", "*fp16", "*fp32", "*fp64"):
            types = {"gradient": gradient, "nonfinite": "*i64", "zero": "*i64"}
            yield Case(f"linf {gradient} {number}", linf_kernel, config, types, {"WIDE": False})
        uncounted = {"WIDE": True, "nonfinite": None, "zero": None}
        yield Case(f"linf uncounted {number}", linf_kernel, config, types, uncounted)


if __name__ == "__main__":
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    for case in cases():
        if case.name.startswith(wanted) if wanted else not case.name.startswith(("forward", "backward")):
            row = {"name": case.name, "networks": case.networks, **compile_for_hopper(case)}
            print(json.dumps(row), flush=True)
