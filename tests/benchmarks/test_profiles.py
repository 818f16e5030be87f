"""Where time goes: kinds of kernels by their names, stages of the network that add up to it."""

from __future__ import annotations

import pytest
import torch

from benchmarks import network, operations
from benchmarks.network import PASSES, STAGES, _entries, network_row, parts_of
from benchmarks.operations import kind_of
from benchmarks.work import Work, batch_of, work_of
from srat_fast.models.build import build_model, forward_flops, training_flops

WORK = Work("srat-ldam", 8, "batch", "fp32", width=8, steps=1)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (
            "sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64",
            "convolution",
        ),
        (
            "void cutlass__5x_cudnn::Kernel<cutlass_tensorop_bf16_s16816dgrad_optimized_bf16_128x64>",
            "convolution",
        ),
        ("void cudnn::ops::nchwToNhwcKernel<__nv_bfloat16, float>", "layout"),
        ("triton_red_fused__native_batch_norm_legit_functional_3", "batch norm"),
        ("triton_poi_fused_add_relu_threshold_backward_7", "triton pointwise"),
        ("triton_per_fused_mean_1", "triton reduction"),
        ("linf_kernel", "our kernels"),
        ("backward_kernel", "our kernels"),
        ("nvjet_hsh_64x8_64x16_4x1_v_bz_TNT", "matrix product"),
        (
            "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedSgdMathFunctor>",
            "optimiser",
        ),
        ("Memcpy DtoD (Device -> Device)", "copies"),
        (
            "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>",
            "elementwise",
        ),
        ("something_new", "other"),
    ],
)
def test_kinds(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_the_stages_one_after_another_are_the_network(device) -> None:
    model = build_model(WORK.recipe(), classes=10, channels=3, moments=None).to(device).eval()
    x = images = batch_of(WORK)[0]
    with torch.no_grad():
        for part in parts_of(model).values():
            x = part(x)
        torch.testing.assert_close(x, model(images), rtol=0, atol=0)


def test_a_network_row_counts_every_flop_of_a_step(device) -> None:
    found = network.options(["--small", "--precision", "fp32"])
    (row,) = network.measured(found)
    work, parts = work_of(found), row["parts"]
    assert [(p["stage"], p["pass"]) for p in parts] == [(s, p) for s in STAGES for p in PASSES]
    repeats = {"forward": work.steps + 1, "input gradient": work.steps + 1, "weight gradient": 1}
    counted = sum(part["flops"] * repeats[part["pass"]] for part in parts) / work.batch
    model = build_model(
        work.recipe(method="ce"), classes=10, channels=3, moments=None
    )  # without projection head
    assert counted == training_flops(forward_flops(model, 32), work.recipe())
    assert sum(part["share"] for part in parts) == pytest.approx(1, abs=0.01)
    assert any(part["tflops"] for part in parts)


def test_folded_batch_norm_has_no_weight_gradient_to_compare(device) -> None:
    row = network_row(WORK._replace(bn="running"), rounds=2, block=0.0)
    assert {part["pass"] for part in row["parts"]} == {"forward", "input gradient"}


def test_a_difference_within_the_noise_is_no_rate() -> None:
    entries = _entries("stem", 10**9, {"forward": 100.0, "input gradient": 101.0, "weight gradient": 201.0})
    assert [entry["tflops"] for entry in entries] == [10.0, None, 10.0]
    assert _entries("stem", 1, {"forward": 5.0, "input gradient": 4.0})[1]["microseconds"] == 0


def test_a_profile_row_adds_up(device) -> None:
    (row,) = operations.measured(operations.options(["--small"]))
    assert sum(kind["share"] for kind in row["kinds"].values()) == pytest.approx(1, abs=0.01)
    assert row["operations"] == sorted(row["operations"], key=lambda one: -one["microseconds"])
    assert row["kinds"]["convolution"]["microseconds"] > 0
    assert 0 <= row["host_share"] < 1
