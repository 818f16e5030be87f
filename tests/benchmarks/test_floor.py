"""The prediction: its FLOPs are those that runs are judged by, its bytes the design's, its table the page's."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.floor import (
    BANDWIDTH,
    FLOPS,
    GAP,
    HALF,
    LATENCY,
    STAGES,
    STEPS,
    TOUCHES,
    cells,
    layers,
    predicted,
    table,
)
from srat_fast.models.build import forward_flops, training_flops
from srat_fast.models.classifier import Classifier
from srat_fast.recipe import build_recipe

PAGE = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "performance.md"


@pytest.fixture(scope="module")
def found():
    return layers()


def test_flops_are_those_of_the_record(found) -> None:
    forward = forward_flops(Classifier("resnet18", 10, projection_dim=128), 32)
    assert sum(layer.flops for layer in found) == forward
    whole = training_flops(forward, build_recipe("paper", {}).resolve())
    # not asked for: the projection in the attack, the images' gradient in the update
    spared = 2 * STEPS * sum(layer.flops for layer in found if "projection" in layer.name)
    spared += next(layer.flops for layer in found if layer.name == "conv1")
    row = predicted(128, "batch", found)
    assert row["flops_per_image"] == whole - spared
    assert row["flops_per_image"] == pytest.approx(25.55e9, rel=2e-3)


@pytest.mark.parametrize(("bn", "megabytes"), [("batch", 14.7), ("running", 8.6)])
def test_bytes_without_the_blocks_sums_are_those_of_the_design(found, bn: str, megabytes: float) -> None:
    outputs = sum(layer.outputs for layer in found if layer.stage != "head")
    touches = (
        TOUCHES[bn]["forward"] + TOUCHES[bn]["input gradient"] + 4
    )  # of the convolutions: out, in, and back
    assert HALF * outputs * touches / 1e6 == pytest.approx(megabytes, rel=0.02)


@pytest.mark.parametrize("bn", TOUCHES)
def test_no_time_is_below_either_rate(found, bn: str) -> None:
    for update in (False, True):
        for cell in cells(128, bn, update, found):
            assert cell.floor >= 0.999 * max(cell.flops / FLOPS, cell.bytes / BANDWIDTH)
            assert cell.expected >= cell.floor
    assert {cell.stage for cell in cells(1, bn, True, found)} == set(STAGES)


@pytest.mark.parametrize(("update", "launches"), [(False, 193), (True, 317)])
def test_launches_are_those_of_compiled_code(found, update: bool, launches: int) -> None:
    """NOTES.md: counted in what torch 2.11 writes for sm_90, for batch 128."""
    assert sum(cell.kernels for cell in cells(128, "batch", update, found)) == pytest.approx(launches)


def test_no_kernel_is_shorter_than_the_shortest(found) -> None:
    """At batch 1 a step is launches and nothing else: bytes and FLOPs take no time that counts."""
    taken = sum(cell.expected for cell in cells(1, "batch", False, found))
    assert 0.999 * 193 * (LATENCY + GAP) <= taken <= 1.3 * 193 * (LATENCY + GAP)


def test_fewer_bytes_and_larger_batches_are_faster(found) -> None:
    rates = [predicted(128, bn, found)["expected"] for bn in ("batch", "running", "fused")]
    assert rates == sorted(rates)
    assert predicted(512, "batch", found)["expected"] > predicted(128, "batch", found)["expected"]


def test_the_page_has_this_table() -> None:
    assert table() in PAGE.read_text(encoding="utf-8")
