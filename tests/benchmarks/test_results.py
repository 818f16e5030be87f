"""Result files, README tables made from them, and the goals beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import photographs
from benchmarks.readme import rendered
from benchmarks.rows import RESULTS, SOURCES, append, latest, line, path_for, problem, read, source_digest
from benchmarks.tables import GOALS, TABLES, judged, shares, summary

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
PACKING = [
    {
        "op": "packing",
        "implementation": "captured",
        "width": 64,
        "mps": False,
        "trials": trials,
        "images_per_second": 12_000.0,
        "slowest_images_per_second": 3000.0,
        "reference": "one after another",
        "ratio": {"median": ratio, "quartiles": [ratio - 0.1, ratio + 0.1]},
        "peak_bytes": 2**33,
    }
    for trials, ratio in ((2, 1.1), (4, 1.35), (8, 1.25))
]
RUN = {
    "op": "run",
    "complete": True,
    "method": "srat-ldam",
    "epochs": 200,
    "epochs_done": 200,
    "batch": 128,
    "bn": "batch",
    "width": 64,
    "steps": 10,
    "implementation": "captured",
    "pixels": "photographs",
    "wall_without_compile": 280.0,
    "compile_seconds": 61.5,
    "training_seconds": 240.0,
    "evaluation_seconds": 25.0,
    "other_seconds": 15.0,
    "images_per_second": 10338.0,
    "standard": {"overall": 0.71},
    "robust": {"overall": 0.33},
}
PROFILE = {
    "op": "profile",
    "implementation": "captured",
    "batch": 128,
    "bn": "batch",
    "precision": "bf16",
    "microseconds_a_step": 12_345.6,
    "host_share": 0.021,
    "calls": 1234.0,
    "kinds": {"convolution": {"microseconds": 9000.0, "share": 0.75}},
    "operations": [
        {"name": "a|b_fprop", "kind": "convolution", "microseconds": 900.0, "calls": 11.0, "share": 0.1}
    ],
}
NETWORK = {
    "op": "network",
    "implementation": "captured",
    "batch": 128,
    "bn": "batch",
    "precision": "bf16",
    "steps": 10,
    "parts": [
        {"stage": "stem", "pass": "forward", "microseconds": 10.0, "tflops": 22.5, "share": 0.25},
        {"stage": "stem", "pass": "input gradient", "microseconds": 0.0, "tflops": None, "share": 0.0},
        {"stage": "layer1", "pass": "forward", "microseconds": 30.0, "tflops": 300.0, "share": 0.75},
        {"stage": "layer1", "pass": "input gradient", "microseconds": 0.0, "tflops": None, "share": 0.0},
    ],
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


def test_committed_results_are_rows_of_the_schema() -> None:
    files = sorted(RESULTS.glob("*.jsonl"))
    assert files
    for row in (row for path in files for row in read(path)):
        assert not problem(row)
        assert line(row).startswith(row["op"])
        if "ratio" in row:
            assert f"x {row['reference']}" in line(row)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"device": None}, ""),
        ({"torch": ...}, "no torch"),
        ({"reference": ...}, "a ratio without reference"),
        ({"ratio": {"median": 2.0}}, "a ratio is a median and two quartiles"),
    ],
)
def test_what_is_no_row_is_not_written(change, said, tmp_path) -> None:
    row = {name: value for name, value in (STEP | MACHINE | change).items() if value is not ...}
    assert problem(row) == said
    if said:
        with pytest.raises(ValueError, match=said):
            append(tmp_path / "rows.jsonl", row)
    assert read(tmp_path / "rows.jsonl") == []


def test_text_without_blocks_is_left_alone(tmp_path) -> None:
    assert rendered("# Title\n", tmp_path) == "# Title\n"


def test_the_last_row_of_a_kind_counts() -> None:
    rows = [STEP, STEP | {"bn": "running"}, STEP | {"images_per_second": 2.0}]
    assert [row["images_per_second"] for row in latest(rows)] == [2.0, 10500.0]


def test_goals_are_met_missed_or_not_measured() -> None:
    host = {"op": "profile", "implementation": "captured", "batch": 128, "bn": "batch", "host_share": 0.07}
    rows = [STEP, KERNEL, host, *PACKING, RUN]
    lines = {goal: (value, met) for goal, value, met in judged(rows)}
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
    assert lines["several trials on one GPU: 1.3 x one after another"] == ("1.35 x", "yes"), "the best counts"
    assert lines["several trials on one GPU, with MPS: 1.3 x one after another"] == ("-", "not measured")
    run = "whole run of 200 epochs and its evaluation, compilation apart: below 300 s"
    assert lines[run] == ("280.00 s", "yes")
    ended = RUN | {"complete": False, "wall_without_compile": None}
    assert {goal: value for goal, value, _ in judged([ended])}[run] == "-", "a part of a run is no run"


def measured(folder) -> list[dict]:
    """A file as a GPU would leave it, of made-up numbers."""
    step = STEP | {"reference_images_per_second": 800.0, "reference_mfu": 0.02}
    ladder = [
        step,
        step | {"reference": "autocast-only", "ratio": {"median": 5.0, "quartiles": [4.5, 5.5]}},
        step | {"reference": "reference", "reference_images_per_second": 400.0},
        step | {"implementation": "autocast-only", "images_per_second": 2100.0, "precision": "bf16"},
        step | {"precision": "fp32", "images_per_second": 1.0},
    ]
    evaluation = {
        "op": "evaluation", "attack": "pgd-20", "implementation": "product", "reference": "eager",
        "images_per_second": 600.0, "mfu": None, "batch": 512, "ratio": {"median": 1.4, "quartiles": [1.3, 1.5]},
    }  # fmt: skip
    tests = {
        "op": "tests", "passed": 440, "failed": 1, "skipped": 3, "complete": True, "seconds": 130.0,
        "failures": ["tests/a.py::test_b: boom"],
    }  # fmt: skip
    stage = {"op": "stage", "name": "loaders", "status": "timed out", "seconds": 200.0}
    startup = {
        "op": "startup", "method": "ce", "batch": 64, "bn": "batch", "precision": "fp32", "width": 8, "checks": 8,
        "refused": 0, "used": [0.26, 0.35], "faults": 7, "faults_passed": ["nan"],
    }  # fmt: skip
    saved = {"op": "checkpoint", "width": 64, "bytes": 184.2e6, "collect": 0.768, "write": 2.3}
    saved |= {"load": 1.0, "guard": 0.01}
    leak = {
        "op": "leak", "method": "srat-ce", "bn": "batch", "batch": 128, "epochs": 8, "pixels": "photographs",
        "separation": 2.987, "classification": 1.99, "train_accuracy": 0.403, "collapsed": True,
        "scatter_ratio": {"clean": 0.045, "attacked": 3.8, "leak": 4.03},
    }  # fmt: skip
    rows = [leak, *ladder, KERNEL, *PACKING, RUN, PROFILE, NETWORK, evaluation, startup, saved, tests, stage]
    rows = [row | MACHINE for row in rows]
    for row in rows:
        append(path_for(folder, "Fake GPU"), row)
    return rows


def test_pages_take_their_gpu_tables_from_any_gpus_file(tmp_path) -> None:
    blocks = "".join(f"<!-- gpu:{name} -->\n<!-- end -->\n" for name in TABLES)
    append(path_for(tmp_path, "cpu: none"), STEP | MACHINE | {"device": "cpu: none"})
    assert rendered(blocks, tmp_path).count("Not measured on a GPU yet.") == len(TABLES)
    measured(tmp_path)
    text = rendered(blocks, tmp_path)
    assert "Not measured" not in text
    assert text.count("Measured on Fake GPU, power limit 700 W") == len(TABLES)
    assert rendered(text, tmp_path) == text


def test_a_leak_is_told_beside_what_equal_features_have(tmp_path) -> None:
    (line,) = [
        line for line in summary(measured(tmp_path)).splitlines() if line.startswith("| `srat-ce` | batch")
    ]
    assert "| 2.99 (4.84) | 1.99 | 40.3% | 0.045 | 3.800 | 4.030 | yes |" in line


def test_each_tricks_share_is_of_one_run_and_of_the_main_precision(tmp_path) -> None:
    lines = shares(measured(tmp_path)).splitlines()
    cells = {line.split(" | ")[0]: line.split(" | ")[2:] for line in lines if line.startswith("| `")}
    assert list(cells) == ["| `reference`", "| `eager`", "| `autocast-only`", "| `captured`"]
    assert cells["| `eager`"] == ["800", "2.0%", "1", "12.50 (12.00 to 13.00) |"]
    assert cells["| `autocast-only`"] == ["2,100", "34.0%", "12.50 (12.00 to 13.00)", "5.00 (4.50 to 5.50) |"]
    assert cells["| `captured`"] == ["10,500", "34.0%", "12.50 (12.00 to 13.00)", "- |"]
    assert cells["| `reference`"][:3] == ["400", "2.0%", "0.50 (of medians)"]


def test_a_summary_names_goals_failures_and_stages(tmp_path) -> None:
    text = summary(measured(tmp_path))
    assert "| batch 128, attack_bn batch: 10,000 images/s | 10,500 images/s | yes |" in text
    assert "CPU step" not in text
    assert "440 passed, 1 failed, 3 skipped in 130 s.\n- tests/a.py::test_b: boom" in text
    assert "| loaders | timed out | 200 |" in text
    assert "| 4 | no | 12,000 | 3,000 | 1.35 (1.25 to 1.45) | 8.0 GiB |" in text
    assert (
        "| 200 | 128 | batch | photographs | 280.0 | 61.5 | 240.0 | 25.0 | 15.0 | 10,338 | 71.0% / 33.0% |"
        in text
    )
    assert (
        "| srat_loss | forward+backward | 4096, 512, 10 | graph | 250.0 | 1.50 (1.40 to 1.60) x compiled |"
        in text
    )
    assert "| ce batch fp32 width 8 batch 64 | 0 of 8 | 0.26, 0.35 | 1 of 7 nan |" in text
    assert "| 64 | 184.2 MB | 768.0 ms | 2300.0 ms | 1000.0 ms | 10.0 ms |" in text
    assert "Measured on Fake GPU, power limit 700 W, torch 9.9, triton 8.8, commit abc." in text
    assert "| stem | 22.5 (10) | - (0) | 25.0% |" in text
    assert "12,346 µs a step, 1,234 kernels, host-bound share 2.1%." in text
    assert "| `a b_fprop` | convolution | 900 | 11 | 10.0% |" in text
    assert summary([]) == "# Results\n"


def test_a_run_that_was_ended_shows_how_far_it_came() -> None:
    ended = {
        "op": "run", "complete": False, "epochs": 200, "epochs_done": 41, "batch": 128, "bn": "batch",
        "pixels": "random", "images_per_second": None,
    }  # fmt: skip
    assert "| ended in epoch 42 | - | - | - | - | - | - |" in TABLES["runs"][1]([ended])


def test_the_source_of_a_row_is_known_without_git(tmp_path) -> None:
    for folder in SOURCES:
        (tmp_path / folder).mkdir()
    (tmp_path / "srat_fast" / "a.py").write_text("1")
    first = source_digest(tmp_path)
    (tmp_path / "srat_fast" / "notes.md").write_text("no code")
    assert source_digest(tmp_path) == first
    (tmp_path / "srat_fast" / "a.py").write_text("2")
    assert source_digest(tmp_path) != first
    (tmp_path / "srat_fast" / "a.py").rename(tmp_path / "kernels" / "a.py")
    assert len({first, source_digest(tmp_path)}) == 2


ROBUST = {
    "ce": [0.30, 0.31, 0.35], "drcb-ldam": [0.20, 0.22, 0.21], "srat-ldam": [0.25, 0.26, 0.28],
}  # fmt: skip


def photographs_sweep(path: Path) -> Path:
    """A finished sweep of examples/photographs.toml, as far as its tables read it."""
    example = json.loads((photographs.RESULTS / "runs" / "demo" / "ce" / "record.json").read_text())
    for method, values in ROBUST.items():
        for seed, robust in enumerate(values):
            parts = [
                {"overall": v, "well": v, "under": v / 2, "balanced": v, "per_class": [v] * 9 + [v / 4]}
                for v in (0.5, robust, robust - 0.05)
            ]
            record = example | {"standard": parts[0], "robust": parts[1], "test_images": 2000}
            record["recipe"] = example["recipe"] | {"method": method, "seed": seed}
            record["recipe"]["data"] = example["recipe"]["data"] | {
                "name": "folder", "root": str(path / "images"), "ratio": 100.0
            }  # fmt: skip
            record["evaluations"] = [
                {"attacks": {"autoattack": parts[2] | {"images": 200}, "clean": parts[0]}}
            ]
            run = path / "runs" / f"{method}-{seed}"
            run.mkdir(parents=True)
            (run / "record.json").write_text(json.dumps(record))
            (run / "metrics.jsonl").write_text("")
            (run / "model.safetensors").write_text("weights")
    (path / "plan.json").write_text(json.dumps({"recipes": [{"data.root": str(path / "images")}]}))
    return path


def test_photographs(tmp_path) -> None:
    kept = tmp_path / "kept"
    assert photographs.lines("page", kept) == photographs.NOTHING
    assert photographs.keep(photographs_sweep(tmp_path / "sweep"), kept) == 9
    files = {path.name for path in kept.rglob("*") if path.is_file()}
    assert files == {"plan.json", "record.json", "metrics.jsonl"}, "no weights"
    assert all(str(tmp_path) not in path.read_text() for path in kept.rglob("*.json")), "no machine's paths"
    page = photographs.lines("page", kept)
    assert "| PGD-20, 2,000 images | `ce` | 3 | 32.0 ± 2.6 | 16.0 ± 1.3 | 8.0 ± 0.7 |" in page
    assert "| AutoAttack, 200 images | `srat-ldam` | 3 | 21.3 ± 1.5 |" in page
    assert "AutoAttack" not in photographs.lines("short", kept)
    assert "| PGD-20, 2,000 images | `srat-ldam` - `drcb-ldam` | +5.3 (p = 0.026, Holm" in page
    assert "the 18 tests of" in page, (
        "3 accuracies, 3 pairs and 3 parts, without the standard ones, which are all the same"
    )
    methods = [*ROBUST, "trades", "at-bsl", "srat:at-bsl", "srat:ce"]
    assert photographs.asked(methods)[6:] == [("srat-ldam", "drcb-ldam"), ("srat:at-bsl", "at-bsl")]
    assert {pair[1] for pair in photographs.asked(methods)[:6]} == {"ce"}
    assert "| `srat-ldam` | 50.0 ± 0.0 (paper 63.11 ± 0.08) |" in page
    assert "`ce` on all classes (32.0 ± 2.6 %) and on the rare half (16.0 ± 1.3 %)" in page
    photographs.draw(kept, tmp_path / "figure.svg")
    assert b"<svg" in (tmp_path / "figure.svg").read_bytes()
