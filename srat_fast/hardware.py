"""Device, precision and compilation of a run, and numerics that do not depend on what ran before."""

from __future__ import annotations

import os
import platform
import random
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import nn

from srat_fast.errors import UserError
from srat_fast.models.build import planned_flops
from srat_fast.recipe import Recipe, build_recipe

#: Rates of a dense matrix product in FLOP/s, for MFU: bf16 of Hopper as measured on an H200 (performance.md; an H100
#: has the same chip, and its data sheet's 989 is reached by neither), the others as their makers state them. A device
#: that is not listed has no MFU.
_PEAK = {
    ("H200", "bf16"): 790e12,
    ("H100", "bf16"): 790e12,
    ("A100", "bf16"): 312e12,
    ("H200", "fp32"): 67e12,
    ("H100", "fp32"): 67e12,
    ("A100", "fp32"): 19.5e12,
}


#: `run.compile` = auto compiles from this many seconds of training on, at this rate in FLOP/s.
_WORTHWHILE = {"cuda": (2e13, 120), "cpu": (1e11, 1800)}


def resolve_device(requested: str) -> torch.device:
    """The device of a run."""
    requested = str(requested)  # a torch.device will do
    if requested == "auto":
        requested = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", requested):
        raise UserError("run.device", "auto, cpu, cuda or cuda:N", requested)
    device = torch.device(requested)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise UserError(
                "run.device", "this machine has no CUDA device that torch can use; cpu or auto", requested
            )
        if device.index is not None and device.index >= count:
            raise UserError("run.device", f"cuda:0 to cuda:{count - 1} are there", requested)
    return device


def use_device(device: torch.device) -> None:
    """Make a GPU the current one: streams, events and CUDA graphs are made there, wherever their tensors are.

    A graph captured on another device is empty, and each replay of it does nothing (pytorch issue 87894).
    """
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def resolve_precision(recipe: Recipe, device: torch.device) -> str:
    """The precision of a run: bf16 where the processor computes in it, for the fast engine."""
    if recipe.run.precision != "auto":
        return recipe.run.precision
    if recipe.run.engine == "reference":
        return "fp32"
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if instruction_set() == "AVX512_BF16" else "fp32"


def instruction_set() -> str:
    """What torch and oneDNN compute with on this CPU: AVX512_BF16, or torch's own name (AVX512, AVX2, ...).

    ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA, set before torch is imported, make a processor behave as a smaller one.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    unlimited = limit in ("ALL", "DEFAULT")
    if capability == "AVX512" and not unlimited and not limit.startswith(("AVX512", "AVX10")):
        return "AVX2"
    halves = unlimited or any(part in limit for part in ("BF16", "FP16", "AMX", "AVX10"))
    return (
        "AVX512_BF16" if capability == "AVX512" and halves and "avx512_bf16" in _cpu_flags() else capability
    )


def explain_auto(device: torch.device) -> list[str]:
    """What `run.precision` and `run.compile` = auto come to on a device, and why; a line each."""
    name, cuda = device.type, device.type == "cuda"
    precision = resolve_precision(Recipe(), device)
    if cuda:
        why = (
            "this GPU computes in bfloat16" if precision == "bf16" else "this GPU has no bfloat16 arithmetic"
        )
    else:
        known = instruction_set()
        why = f"the instruction set is {known}, which has {'' if precision == 'bf16' else 'no '}bfloat16 arithmetic"
    rate, seconds = _WORTHWHILE[name]
    paper = resolve_execution(build_recipe(None, {"run.device": name}).resolve(), device, 12406)[0]
    digits = resolve_execution(build_recipe(None, {"data.name": "digits"}).resolve(), device, 503)[0]
    return [
        f"precision auto = {precision}: {why}",
        f"compile auto = {paper} for the paper's run, {digits} for digits: on where training takes more than "
        f"{seconds / 60:g} minutes at {rate / 1e9:,.0f} GFLOP/s",
    ]


def resolve_execution(
    recipe: Recipe, device: torch.device, images: int, processes: int = 1
) -> tuple[str, str]:
    """Whether a run is compiled and captured.

    Compiling takes minutes on a GPU, and on a CPU about one for a gain of some 5 to 10 % (benchmarks/NOTES.md): "auto"
    compiles what would take two minutes at 20 TFLOP/s there, half an hour at 100 GFLOP/s here. Several processes
    exchange numbers within forward passes, which is not compiled.
    """
    run, cuda = recipe.run, device.type == "cuda"
    if run.capture == "on" and not cuda:
        raise UserError("run.capture", "CUDA graphs need a CUDA device; auto or off", "on")
    if run.engine == "reference":
        return "off", "off"
    compiled, captured = run.compile, run.capture
    if compiled == "auto" and processes > 1:
        compiled = "off"
    elif compiled == "auto":
        rate, worthwhile = _WORTHWHILE[device.type]
        seconds = planned_flops(recipe) * images * recipe.optim.epochs / rate
        compiled = "on" if seconds > worthwhile else "off"
    if captured == "auto":
        captured = "on" if cuda else "off"
    return compiled, captured


def _cpu_flags() -> set[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            line = next((line for line in file if line.startswith("flags")), "")
    except OSError:  # not Linux: nothing is known, so nothing is assumed
        return set()
    return set(line.split())


def device_name(device: torch.device) -> str:
    """The hardware's name for records."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next(
                (line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), model
            )
    except OSError:
        pass
    return f"cpu: {model} ({torch.get_num_threads()} threads)"


def peak_flops(device: torch.device, precision: str) -> float | None:
    """FLOP/s of a matrix product on the device."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((rate for (part, kind), rate in _PEAK.items() if part in name and kind == precision), None)


@contextmanager
def numerics(deterministic: bool) -> Iterator[None]:
    """float32 means float32; and, where asked, equal seeds give bit-equal results on one machine.

    cuDNN would otherwise take TF32 for float32 convolutions on its own, and matrix products whatever
    `torch.set_float32_matmul_precision` was told; the reported accuracies come from float32. Deterministic algorithms
    are used, or an error is raised where there is none.
    """
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.benchmark, cudnn.allow_tf32
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    products = torch.get_float32_matmul_precision()
    cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    if deterministic:
        torch.use_deterministic_algorithms(True)
        cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=warn_only)
        torch.set_float32_matmul_precision(products)
        cudnn.benchmark, cudnn.allow_tf32 = before[1:]


@contextmanager
def neutral(*, keep_autocast: bool = False) -> Iterator[None]:
    """torch as it starts: gradients, float32, CPU, no autocast; the caller's settings and random states come back.

    Around whatever is called from Python: a caller under `torch.no_grad()` or with another default dtype asks for the
    same numbers.
    """
    cuda = torch.cuda.is_initialized()
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_gpus = torch.cuda.get_rng_state_all() if cuda else []
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if not keep_autocast:
            for kind in ("cpu", "cuda"):
                if torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])
            if cuda:
                torch.cuda.set_rng_state_all(on_gpus)


def seed_libraries(seed: int) -> None:
    """Seed the generators that only code from elsewhere draws from: dropout of a network, a plug-in's term."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A model in eval mode; each of its modules gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def peak_memory(device: torch.device) -> int:
    """The most memory used so far: the device's on a GPU, the process's resident set on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
