"""`sweep evaluate` and `sweep audit`: each finished run meets each attack once on the same images, and one audit."""

from __future__ import annotations

import json

import pytest

from srat_fast.errors import EvaluationFailure, UserError
from srat_fast.evaluation import audit, runs
from srat_fast.sweep.claims import Claims
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.sweep.judge import Judged, audit_sweep, evaluate_sweep, lacking
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
    damaged = {name: value for name, value in record().items() if name != "test_images"}
    assert lacking(damaged, asked, None) == lacking(damaged, asked, 100) == asked


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
    assert evaluate_sweep(sweep, ["cw-20"], limit=10) == Judged(judged=count)
    assert evaluate_sweep(sweep, ["cw-20", "mim-5"], limit=10) == Judged(judged=count)
    assert [attacks for _, attacks, _ in asked] == ["cw-20"] * count + ["mim-5"] * count
    assert all(changes == {"data.test_limit": 10} for *_, changes in asked)
    assert evaluate_sweep(SweepDirectory.open(stage.out), ["cw-20", "mim-5"], limit=10) == Judged(had=count)
    code, text = stage.call("sweep", "evaluate", str(stage.out), "--attack", "CW-20", "--subset", "10")
    assert code == 0
    assert f"0 run(s) judged, {count} had been" in text
    assert stage.call("sweep", "evaluate", str(stage.out), "--subset", "0")[0] == 2


def test_an_attack_at_another_radius_is_not_the_runs_own() -> None:
    """`srat-fast evaluate --eps` with one radius names its row by the attack alone."""
    for epsilon, lacks in ((8 / 255, []), (4 / 255, ["cw-20"])):
        told = record(attacks={"cw-20": ROW | {"epsilon": epsilon}})
        told["recipe"] = {"eval_attack": {"epsilon": 8 / 255}}
        assert lacking(told, ["cw-20"], None) == lacks
        told["recipe"]["eval_attack"]["epsilon"] = None  # a record that does not say it
        assert lacking(told, ["cw-20"], None) == []


def test_a_run_that_cannot_be_judged_does_not_stop_the_others(tmp_path, monkeypatch, stage, capsys) -> None:
    sweep = finished_sweep(stage.out, CIFAR, VALUES, test_images=40)
    count, (first, second, *_) = len(sweep.plan.trials), sweep.plan.trials
    asked: list[str] = []

    def evaluate(run, attacks, **options) -> None:
        asked.append(run.name)
        if run.name == first.name:
            raise UserError("RUN", "its model.safetensors is damaged", str(run))
        if run.name == second.name:
            raise EvaluationFailure("logits of 3 images are not finite")

    monkeypatch.setattr(runs, "evaluate", evaluate)
    assert stage.here(monkeypatch, "sweep", "evaluate", str(stage.out), "--attack", "cw-20") == 1
    said = capsys.readouterr().out
    assert asked == [trial.name for trial in sweep.plan.trials]
    assert f"not judged: {first.name}: RUN = " in said
    assert f"not judged: {second.name}: logits of 3 images are not finite\n" in said
    assert f"{count - 2} run(s) judged, 0 had been, 2 could not be" in said

    def unknown(run, attacks, **options) -> None:
        raise UserError("--attack", "one of cw-20", attacks)

    monkeypatch.setattr(runs, "evaluate", unknown)  # the same for all
    assert stage.here(monkeypatch, "sweep", "evaluate", str(stage.out), "--attack", "cw20") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert stage.here(monkeypatch, "sweep", "evaluate", str(stage.out), "--attack", " ,") == 2
    assert capsys.readouterr().err.startswith("error: --attack = ' ,': comma-separated: ")


@pytest.fixture
def audits(monkeypatch) -> list[tuple]:
    """Audits that were made: (run, options); a run of seed 2 is suspicious."""
    made: list[tuple] = []

    def audit_run(run, **options) -> None:
        path = run / "record.json"
        told = json.loads(path.read_text())
        verdict = "suspicious" if "seed2" in run.name else "reliable"
        checks = [{"name": "restarts", "verdict": "failed"}, {"name": "mode", "verdict": "passed"}]
        entry = {"verdict": verdict, "weights_checksum": "a", "checks": checks}
        path.write_text(json.dumps(told | {"audit": entry}))
        made.append((run.name, {name: options[name] for name in ("subset", "autoattack", "changes")}))

    monkeypatch.setattr(audit, "audit_run", audit_run)
    return made


def test_each_finished_run_is_audited_once(audits, stage) -> None:
    sweep = finished_sweep(stage.out, CIFAR, VALUES, weights_checksums={"last": "a"}, audit=None)
    count = len(sweep.plan.trials)
    seed2 = {trial.name: ["restarts"] for trial in sweep.plan.trials if trial.seed == 2}
    other = sweep.record(sweep.plan.trials[0]) | {"audit": {"verdict": "reliable", "weights_checksum": "b"}}
    (sweep.run(sweep.plan.trials[0]) / "record.json").write_text(json.dumps(other))  # of earlier weights
    options = {"subset": 50, "autoattack": 8}
    assert audit_sweep(sweep, **options, changes={"data.root": "x"}) == Judged(judged=count, suspicious=seed2)
    assert audits == [(t.name, options | {"changes": {"data.root": "x"}}) for t in sweep.plan.trials]
    assert audit_sweep(sweep, **options) == Judged(had=count, suspicious=seed2)
    code, text = stage.call("sweep", "audit", str(stage.out))
    assert code == 3
    assert f"0 run(s) audited, {count} had been" in text
    assert f"suspicious: {next(iter(seed2))}: restarts\n" in text
    code, text = stage.call("sweep", "audit", str(stage.out), "--subset", "none")
    assert code == 2
    assert "--subset = 'none': an integer >= 1, or all" in text


def test_calls_side_by_side_share_the_runs(audits, stage) -> None:
    sweep = finished_sweep(stage.out, CIFAR, VALUES, weights_checksums={"last": "a"}, audit=None)
    trials = sweep.plan.trials
    other = Claims(sweep.path / "claims")
    assert other.take(f"judge-{trials[1].id}")
    options = {"subset": 50, "autoattack": 8}
    assert audit_sweep(sweep, **options).elsewhere == 1
    assert trials[1].name not in dict(audits)
    other.close()
    assert audit_sweep(sweep, **options).judged == 1
    assert [name for name, _ in audits].count(trials[1].name) == 1
