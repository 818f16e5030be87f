"""One short run of each method, and one that compiles in float32: what every processor has to get through."""

from __future__ import annotations

import math

import pytest

from srat_fast.hardware import instruction_set
from srat_fast.methods import rows
from srat_fast.training.trainer import train
from tests.training.short_runs import short


@pytest.mark.parametrize("method", [*(row.name for row in rows()), "robustlt:trades", "srat:at-bsl"])
def test_a_short_run_of_each_method(method, tmp_path) -> None:
    record = train(short(method=method, optim__epochs=2, optim__defer_epoch=1), tmp_path / "run")
    assert record["status"] == "finished"
    assert math.isfinite(record["final_epoch"]["loss"])
    assert (tmp_path / "run" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    "choices",
    [
        {"method": "trades-awp", "protocol": "own"},
        {"method": "robustlt:robal-n", "protocol": "own"},
        {"method": "srat:reat"},
    ],
    ids=str,
)
def test_the_reference_trains_rows_of_the_field(choices, tmp_path) -> None:
    record = train(short(run__engine="reference", optim__epochs=2, **choices), tmp_path / "run")
    assert record["status"] == "finished"
    assert record["backend"] == "reference"
    assert math.isfinite(record["final_epoch"]["loss"])


@pytest.mark.skipif(instruction_set() == "AVX512_BF16", reason="make test-avx2 runs it")
def test_a_compiled_float32_run_passes_its_start_up_check(tmp_path) -> None:
    """The paper's recipe on a processor without bfloat16: width 16, where a fixed bound refused every run."""
    choices = {"run__compile": "on", "run__precision": "fp32", "model__width": 16, "optim__batch_size": 64}
    record = train(short(method="srat-ldam", optim__epochs=1, **choices), tmp_path / "run")
    assert record["status"] == "finished"
    assert record["recipe"]["run"]["compile"] == "on"
    assert record["seconds"]["compile"] > 0
