"""What "auto" becomes on each kind of hardware."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from srat_fast import hardware
from srat_fast.errors import UserError
from srat_fast.evaluation import subject
from srat_fast.hardware import (
    numerics,
    peak_flops,
    resolve_device,
    resolve_execution,
    resolve_precision,
    use_device,
)
from srat_fast.recipe import build_recipe
from srat_fast.training.setup import prepare
from srat_fast.training.trainer import train
from tests.training.short_runs import short

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def execution(device: torch.device, images: int = 12406, **fields: object) -> tuple[str, str]:
    recipe = build_recipe(None, {name.replace("__", "."): value for name, value in fields.items()}).resolve()
    return resolve_execution(recipe, device, images)


def test_long_runs_are_compiled_and_a_gpu_captures() -> None:
    assert execution(GPU) == ("on", "on")
    assert execution(CPU) == ("on", "off")  # the paper's run would take a week on a CPU
    assert execution(GPU, 503, data__name="digits") == ("off", "on")
    assert execution(CPU, 503, data__name="digits") == ("off", "off")
    assert execution(GPU, method="natural", optim__epochs=10) == ("off", "on")


def test_explicit_choices_win_and_the_reference_is_eager() -> None:
    assert execution(GPU, run__compile="off", run__capture="off") == ("off", "off")
    assert execution(CPU, 503, data__name="digits", run__compile="on") == ("on", "off")
    assert execution(GPU, run__engine="reference") == ("off", "off")
    with pytest.raises(UserError, match="need a CUDA device"):
        execution(CPU, run__capture="on")
    with pytest.raises(UserError, match="the reference engine is eager"):
        execution(GPU, run__engine="reference", run__compile="on")


def test_precision() -> None:
    assert resolve_precision(build_recipe(None, {"run.precision": "fp32"}), CPU) == "fp32"
    assert resolve_precision(build_recipe(None, {"run.engine": "reference"}), CPU) == "fp32"
    assert resolve_precision(build_recipe(None), CPU) in ("bf16", "fp32")


@pytest.mark.parametrize(
    ("capability", "limit", "flags", "expected"),
    [
        ("AVX512", None, {"avx512_bf16"}, "AVX512_BF16"),
        ("AVX512", None, set(), "AVX512"),
        ("AVX512", "AVX512_CORE", {"avx512_bf16"}, "AVX512"),
        ("AVX512", "avx512_core_amx", {"avx512_bf16"}, "AVX512_BF16"),
        ("AVX512", "AVX2", {"avx512_bf16"}, "AVX2"),
        ("AVX2", "AVX2", {"avx512_bf16"}, "AVX2"),
        ("AVX2", None, set(), "AVX2"),
        ("DEFAULT", None, set(), "DEFAULT"),
    ],
)
def test_the_smaller_of_two_limits_is_the_instruction_set(capability, limit, flags, expected, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(hardware, "_cpu_flags", lambda: flags)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if limit:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert hardware.instruction_set() == expected
    precision = "bf16" if expected == "AVX512_BF16" else "fp32"
    assert resolve_precision(build_recipe(None), CPU) == precision
    lines = hardware.explain_auto(CPU)
    assert lines[0].startswith(f"precision auto = {precision}: the instruction set is {expected}, which has ")
    assert lines[1] == (
        "compile auto = on for the paper's run, off for digits: on where training takes more than 30 minutes at "
        "100 GFLOP/s"
    )


def test_devices() -> None:
    assert resolve_device("cpu") == CPU
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UserError, match=r"run\.device = 'cuda:99'"):
        resolve_device("cuda:99")
    assert peak_flops(CPU, "bf16") is None


def test_float32_is_float32_inside_and_settings_are_put_back() -> None:
    cudnn = torch.backends.cudnn
    assert not cudnn.allow_tf32  # tests outside of `numerics` compare float32 too (conftest.py)
    cudnn.allow_tf32 = True  # torch's default
    try:
        with numerics(deterministic=True):
            assert not cudnn.allow_tf32
            assert torch.are_deterministic_algorithms_enabled()
        assert cudnn.allow_tf32
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        cudnn.allow_tf32 = False


def test_cublas_may_be_deterministic_from_the_first_product_on() -> None:
    """torch reads the variable once: a run that sets it after another product of the process would fail."""
    code = "import os, srat_fast; print(os.environ['CUBLAS_WORKSPACE_CONFIG'])"
    environment = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    for given, expected in (({}, ":4096:8"), ({"CUBLAS_WORKSPACE_CONFIG": ":16:8"}, ":16:8")):
        found = subprocess.run(
            [sys.executable, "-c", code], env=environment | given, check=True, capture_output=True, text=True
        )
        assert found.stdout.strip() == expected


class Chosen(Exception):
    """The device was made the current one."""


def test_the_device_is_current_before_anything_is_captured(tmp_path, monkeypatch) -> None:
    """A graph captured on another device is empty, without an error."""
    train(short(model__width=8, optim__epochs=1), tmp_path / "run")
    second = torch.device("cuda:1")

    def choose(device: torch.device) -> None:
        assert device == second
        raise Chosen

    monkeypatch.setattr(torch.cuda, "set_device", choose)
    use_device(CPU)
    use_device(GPU)  # whichever is current
    with pytest.raises(Chosen):
        prepare(short().resolve(), second)
    monkeypatch.setattr(subject, "resolve_device", lambda requested: second)
    with pytest.raises(Chosen):
        subject.open_subject(tmp_path / "run", {}, weights="last", device="cuda:1")


@pytest.mark.parametrize(
    ("part", "rate"), [("NVIDIA H200", 790e12), ("NVIDIA H100 80GB HBM3", 790e12), ("T4", None)]
)
def test_one_chip_has_one_peak(monkeypatch, part, rate) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: part)
    assert peak_flops(GPU, "bf16") == rate


@pytest.mark.parametrize("requested", ["banana", "mps", "cuda:", "cuda:x", ""])
def test_other_devices_are_one_line(requested) -> None:
    with pytest.raises(UserError, match=r"run\.device = .*: auto, cpu, cuda or cuda:N"):
        resolve_device(requested)
