"""`sweep evaluate`: each finished run meets each attack once on the same images."""

from __future__ import annotations

import json

from srat_fast.evaluation import runs
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.sweep.judge import evaluate_sweep, lacking
from tests.sweep.test_table import CIFAR, VALUES, finished_sweep

ROW = {"images": 100, "overall": 0.5}


def record(**entry: object) -> dict:
    evaluation = {"weights": "last", "weights_checksum": "a", "attacks": {"cw-20": ROW}} | entry
    return {"test_images": 100, "weights_checksums": {"last": "a"}, "evaluations": [evaluation]}


def test_what_is_on_record_is_not_lacking() -> None:
    asked = ["cw-20", "autoattack"]
    assert lacking(record(), asked, None) == ["autoattack"]
    assert lacking(record(), asked, 200) == ["autoattack"], "no more than there are"
    assert lacking(record(), asked, 50) == asked, "other images"
    assert lacking(record(weights="ema"), asked, None) == asked
    assert lacking(record(weights_checksum="b"), asked, None) == asked, (
        "of weights that are no longer the run's"
    )
    assert lacking({"test_images": 100}, asked, None) == asked


def test_each_finished_run_is_judged_once(tmp_path, monkeypatch, stage) -> None:
    sweep = finished_sweep(stage.out, CIFAR, VALUES, test_images=40)
    asked: list[tuple] = []

    def evaluate(run, attacks, *, changes, device, plugin, progress) -> None:
        path = run / "record.json"
        told = json.loads(path.read_text())
        images = min(told["test_images"], changes["data.test_limit"])
        rows = {name: {"images": images} for name in attacks.split(",")}
        told.setdefault("evaluations", []).append({"attacks": rows, "weights_checksum": None})
        path.write_text(json.dumps(told))
        asked.append((run.name, attacks, changes))

    monkeypatch.setattr(runs, "evaluate", evaluate)
    count = len(sweep.plan.trials)
    assert evaluate_sweep(sweep, ["cw-20"], limit=10) == (count, 0)
    assert evaluate_sweep(sweep, ["cw-20", "mim-5"], limit=10) == (count, 0)
    assert [attacks for _, attacks, _ in asked] == ["cw-20"] * count + ["mim-5"] * count
    assert all(changes == {"data.test_limit": 10} for *_, changes in asked)
    assert evaluate_sweep(SweepDirectory.open(stage.out), ["cw-20", "mim-5"], limit=10) == (0, count)
    code, text = stage.call("sweep", "evaluate", str(stage.out), "--attack", "cw-20", "--subset", "10")
    assert code == 0
    assert f"0 run(s) judged, {count} had been" in text
    assert stage.call("sweep", "evaluate", str(stage.out), "--subset", "0")[0] == 2
