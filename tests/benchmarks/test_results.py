"""Result files, README tables made from them, and the goals beside them."""

from __future__ import annotations

import pytest

from benchmarks.goals import GOALS, judged
from benchmarks.readme import rendered
from benchmarks.rows import append, latest, path_for, read
from benchmarks.speed import speed_tables

MACHINE = {
    "device": "Fake GPU",
    "torch": "9.9",
    "triton": "8.8",
    "driver": None,
    "power_limit": "700 W",
    "commit": "abc",
}
STEP = {
    "op": "step",
    "implementation": "captured",
    "reference": "eager",
    "method": "srat-ldam",
    "reference_method": "srat-ldam",
    "batch": 128,
    "width": 64,
    "steps": 10,
    "bn": "batch",
    "precision": "bf16",
    "ratio": {"median": 12.5, "quartiles": [12.0, 13.0]},
    "images_per_second": 10500.0,
    "mfu": 0.3396,
    "peak_bytes": 3 * 2**30,
}
KERNEL = {
    "op": "srat_loss",
    "mode": "forward+backward",
    "launch": "graph",
    "batch": 4096,
    "dims": 512,
    "classes": 10,
    "implementation": "triton",
    "reference": "compiled",
    "microseconds": {"median": 250.0, "quartiles": [249.0, 251.0]},
    "ratio": {"median": 1.5, "quartiles": [1.4, 1.6]},
    "peak_bytes": 2**23,
}


def test_a_block_is_rendered_from_the_devices_file(tmp_path) -> None:
    path = path_for(tmp_path, "Fake GPU")
    assert path.name == "fake-gpu.jsonl"
    old = STEP | {"images_per_second": 1.0}
    for row in (old, KERNEL, STEP, {"op": "host", "batch": 128, "host_share": 0.031}):
        append(path, row | MACHINE)
    append(path, {"op": "stage", "name": "tests", "status": "ok"} | MACHINE)
    text = "before\n<!-- speed:fake-gpu -->\nold\n<!-- end -->\nafter"
    new = rendered(text, tmp_path)
    assert new.startswith("before\n<!-- speed:fake-gpu -->\n\n| part |")
    assert new.endswith("\n\n<!-- end -->\nafter")
    assert "| 10,500 | 12.50 (12.00 to 13.00) x eager | 34.0% | 3,072.0 MiB |" in new
    assert "| 250.0 | 1.50 (1.40 to 1.60) x compiled | 8.0 MiB |" in new
    assert "Host-bound share of a step (batch 128): 3.1%." in new
    assert "Measured on Fake GPU, power limit 700 W, torch 9.9, triton 8.8, commit abc." in new
    assert new.count("captured") == 1, "a later measurement of the same kind replaces the earlier one"
    assert rendered(new, tmp_path) == new


def test_a_reference_of_another_method_is_said_in_the_row() -> None:
    row = STEP | {"batch": 512, "reference": "reference", "reference_method": "ce"} | MACHINE
    assert "x reference, method ce |" in speed_tables([row])


def test_a_block_without_results_is_an_error(tmp_path) -> None:
    with pytest.raises(ValueError, match="no measured ratio"):
        rendered("<!-- speed:nothing -->\n<!-- end -->", tmp_path)
    assert read(tmp_path / "nothing.jsonl") == []


def test_text_without_blocks_is_left_alone(tmp_path) -> None:
    assert rendered("# Title\n", tmp_path) == "# Title\n"


def test_the_last_row_of_a_kind_counts() -> None:
    rows = [STEP, STEP | {"bn": "running"}, STEP | {"images_per_second": 2.0}]
    assert [row["images_per_second"] for row in latest(rows)] == [2.0, 10500.0]


def test_goals_are_met_missed_or_not_measured() -> None:
    host = {"op": "host", "implementation": "captured", "host_share": 0.07}
    lines = {goal: (value, met) for goal, value, met in judged([STEP, KERNEL, host])}
    assert len(lines) == len(GOALS)
    assert lines["batch 128, attack_bn batch: 10,000 images/s"] == ("10,500 images/s", "yes")
    assert lines["batch 128: 12 x the eager fp32 step"] == ("12.50 x", "yes")
    assert lines["batch 128: 12 x the reference engine (its losses are Python loops)"] == (
        "-",
        "not measured",
    )
    assert lines["loss, B=4096 D=512: 2 x compiled"] == ("1.50 x", "no")
    assert lines["loss, B=4096 D=512: memory below one B x B matrix"][1] == "yes"
    assert lines["host-bound share below 5 %"] == ("7.00 %", "no")
    assert lines["batch 512, attack_bn running: 15,400 images/s"] == ("-", "not measured")
