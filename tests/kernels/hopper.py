"""Compile every kernel in every configuration for sm_90, without a GPU; prints one JSON line a kernel.

Run as a script in a process of its own: TRITON_INTERPRET must be unset before triton is imported.
`python hopper.py forward`, `... backward`: those; without an argument: all others.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from srat_kernels.jit import triton
from srat_kernels.linf.kernel import linf_kernel
from srat_kernels.linf.launch import CONFIGS as LINF
from srat_kernels.loss.backward_kernel import backward_kernel
from srat_kernels.loss.forward_kernels import finish_kernel, forward_kernel
from srat_kernels.loss.launch import BACKWARD, FORWARD, block_of_classes, fit
from srat_kernels.tuning import Config

POINTERS = {"labels": "*i64", "partial_count": "*i32"}
INTEGERS = ("batch", "dims", "classes", "numel", "size_", "stride_")


def compile_for_hopper(
    kernel: Any, config: Config, types: dict[str, str], constants: dict[str, Any]
) -> dict[str, Any]:
    """PTX and cubin of one kernel; arguments are float32 pointers unless `types` or their name says otherwise."""
    constants = {k: v for k, v in {**config.tiles, **constants}.items() if k in kernel.arg_names}
    signature, divisible = {}, {}
    for position, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name.startswith(INTEGERS):
            signature[name] = "i32"
        elif name in (
            "to_exponent",
            "scale",
            "gamma",
            "separation_weight",
            "inverse_temperature",
            "step",
            "epsilon",
        ):
            signature[name] = "fp32"
        else:
            signature[name] = types.get(name, POINTERS.get(name, "*fp32"))
            divisible[(position,)] = [["tt.divisibility", 16]]
    for name in ("dims", "stride_row"):  # as a launch with D = 128 or 512 would specialise them
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


def cases() -> Iterator[tuple[str, Any, Config, dict[str, str], dict[str, Any]]]:
    """(name, kernel, configuration, pointer types, constants) of everything that a launch may ask for."""
    both = {"stride_dim": 1, "stride_class": 1, "stride_label": 1, "stride_weight": 1, "stride_margin": 1}
    no_features = {"features": None, "stride_row": 0, "stride_dim": 0}
    for precision in ("tf32x3", "ieee", "bf16"):
        types = {"features": "*bf16", "logits": "*bf16"} if precision == "bf16" else {}
        constants = {**both, "PRECISION": precision}
        for number, config in enumerate(FORWARD):
            focal = ("none", "outside", "inside")[number % 3]
            yield (
                f"forward {precision} {number}",
                forward_kernel,
                config,
                types,
                {**constants, "FOCAL": focal, "BLOCK_C": block_of_classes(100, config)},
            )
        for number, config in enumerate(BACKWARD):
            types = {**types, "feature_gradient_out": types.get("features", "*fp32")}
            yield (
                f"backward {precision} {number}",
                backward_kernel,
                config,
                types,
                {**constants, "BLOCK_C": block_of_classes(100, config)},
            )
    constants = {**both, "PRECISION": "tf32x3", "BLOCK_C": 16, "FOCAL": "outside"}
    for number, config in enumerate(FORWARD):  # tiles cut down to narrow features
        yield f"forward narrow {number}", forward_kernel, fit(config, 16), {}, constants
    for number, config in enumerate(BACKWARD):
        yield f"backward narrow {number}", backward_kernel, fit(config, 16), {}, constants
    no_vectors = {"class_weights": None, "margins": None}
    yield "separation alone", forward_kernel, FORWARD[0], {}, {**constants, **no_vectors, "logits": None}
    yield (
        "margin alone",
        forward_kernel,
        FORWARD[0],
        {},
        {**constants, **no_features, **no_vectors, "SPLITS": 1},
    )
    nothing = {"logit_gradient_out": None, "upstream_total": None, "upstream_classification": None}
    yield "separation gradient alone", backward_kernel, BACKWARD[0], {}, {**constants, **nothing}
    nothing = {
        **no_features,
        "feature_gradient_out": None,
        "upstream_total": None,
        "upstream_separation": None,
    }
    yield "margin gradient alone", backward_kernel, BACKWARD[0], {}, {**constants, **nothing}
    for splits in sorted({config.tiles["SPLITS"] for config in FORWARD} | {1}):
        flags = {"HAS_FEATURES": True, "HAS_LOGITS": True, "DROP_EMPTY": True, "WEIGHTED_MEAN": True}
        finish = Config({"SPLITS": splits, "BLOCK": 1024}, 4, 3)
        yield f"finish {splits}", finish_kernel, finish, {}, flags
    for number, config in enumerate(LINF):
        for gradient in ("*bf16", "*fp16", "*fp32", "*fp64"):
            types = {"gradient": gradient, "nonfinite": "*i64", "zero": "*i64"}
            yield f"linf flat {gradient} {number}", linf_kernel, config, types, {"FLAT": True, "WIDE": False}
        yield f"linf strided {number}", linf_kernel, config, types, {"FLAT": False, "WIDE": False}
        yield (
            f"linf uncounted {number}",
            linf_kernel,
            config,
            types,
            {"FLAT": True, "WIDE": True, "nonfinite": None, "zero": None},
        )


if __name__ == "__main__":
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    for name, kernel, config, types, constants in cases():
        if name.startswith(wanted) if wanted else not name.startswith(("forward", "backward")):
            print(
                json.dumps({"name": name, **compile_for_hopper(kernel, config, types, constants)}), flush=True
            )
