"""What "auto" becomes on each kind of hardware."""

from __future__ import annotations

import pytest
import torch

from srat_fast.errors import UserError
from srat_fast.hardware import numerics, peak_flops, resolve_device, resolve_execution, resolve_precision
from srat_fast.recipe import build_recipe

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


def test_devices() -> None:
    assert resolve_device("cpu") == CPU
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UserError, match=r"run\.device = 'cuda:99'"):
        resolve_device("cuda:99")
    assert peak_flops(CPU, "bf16") is None


def test_float32_is_float32_inside_and_settings_are_put_back() -> None:
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32
    with numerics(deterministic=True):
        assert not cudnn.allow_tf32
        assert torch.are_deterministic_algorithms_enabled()
    assert cudnn.allow_tf32 == before
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("wish", ["banana", "mps", "cuda:", "cuda:x", ""])
def test_other_devices_are_one_line(wish) -> None:
    with pytest.raises(UserError, match=r"run\.device = .*: auto, cpu, cuda or cuda:N"):
        resolve_device(wish)
