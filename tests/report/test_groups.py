"""Runs become rows: seeds are averaged, variants told apart, conditions never mixed."""

from __future__ import annotations

import csv
import fcntl
import json
import shutil

import pytest

from srat_fast.cli import main
from srat_fast.errors import UserError
from srat_fast.report.collect import find_runs
from srat_fast.report.groups import group_runs
from srat_fast.report.page import page
from srat_fast.report.summary import audit_verdict, cell, comma_separated, latex, markdown, notes
from tests.report.conftest import accuracies, make_record, write_run


def rows(root):
    (group,) = group_runs(find_runs([root]))
    return {row.label: row for row in group.rows}


def test_seeds_make_one_row_with_mean_and_sample_deviation(study) -> None:
    row = rows(study)["ce"]
    assert [run.seed for run in row.runs] == [0, 1, 2]
    assert cell(row.values("robust", "overall")) == "53.00 ± 3.61"  # sample deviation of 50, 52, 57
    assert row.per_class("robust") == pytest.approx([0.61, 0.55, 0.53, 0.43])


def test_variants_are_rows_of_their_own_in_the_methods_order(study) -> None:
    assert list(rows(study)) == [
        "natural",
        "ce",
        "focal",
        "ldam",
        "srat-ldam",
        "srat-ldam (loss.separation_weight=0)",
        "srat-ldam (loss.separation_weight=1)",
        "srat-ldam (loss.separation_weight=4)",
    ]


def test_failed_and_running_runs_are_named_and_have_no_numbers(study) -> None:
    found = rows(study)
    assert notes(found["ldam"]) == "failed"
    assert notes(found["focal"]) == "running"
    assert cell(found["ldam"].values("robust", "overall")) == "-"


@pytest.mark.parametrize(
    "change",
    [
        {"data.ratio": 5.0},
        {"data.imbalance_base": "own"},
        {"optim.epochs": 9},
        {"eval_attack.steps": 10},
        {"counts": [40, 20, 10, 5]},
    ],
)
def test_conditions_are_not_mixed(study, change) -> None:
    write_run(study / "other", make_record(method="ce", seed=7, **change))
    assert len(group_runs(find_runs([study]))) == 2


def test_a_run_of_before_a_field_existed_is_one_of_its_default(study) -> None:
    record = make_record(method="ce", seed=7)
    del record["recipe"]["data"]["imbalance_base"], record["recipe"]["data"]["classes"]
    write_run(study / "old", record)
    assert len(rows(study)["ce"].runs) == 4


def test_own_counts_are_said_in_the_title(tmp_path) -> None:
    write_run(tmp_path / "own", make_record(**{"data.imbalance_base": "own"}))
    (group,) = group_runs(find_runs([tmp_path]))
    assert group.title.startswith("digits (exp, ratio 10 of each class's own count; ")
    assert group.name == "digits-exp-10-own-" + group.name.rpartition("own-")[2]


def test_the_same_run_twice_counts_once(study) -> None:
    assert len(find_runs([study, study / "natural", study])) == len(find_runs([study])) == 10


def test_a_repeated_seed_of_another_loader_or_root_is_still_the_same_recipe(study) -> None:
    write_run(study / "moved", make_record(**{"method": "ce", "seed": 3, "data.root": "/elsewhere"}))
    assert len(rows(study)["ce"].runs) == 4


def test_best_and_average_weights_are_labelled_rows(study) -> None:
    record = make_record(method="drcb-ce", best={"standard": accuracies(0.7), "robust": accuracies(0.6)})
    write_run(study / "best", record)
    found = rows(study)
    assert cell(found["drcb-ce (best balanced)"].values("robust", "overall")) == "60.00"
    assert cell(found["drcb-ce (last)"].values("robust", "overall")) == "50.00"
    for by, title in (
        ("overall", "best overall"),
        ("worst", "best worst class"),
        ("balanced", "best balanced"),
    ):
        best = record["best"] | {"by": by}
        write_run(study / by, record | {"best": best, "recipe": record["recipe"] | {"method": "focal"}})
        assert f"focal ({title})" in rows(study)
        shutil.rmtree(study / by)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([None, None], "not audited"),
        (["reliable", "reliable"], "reliable"),
        (["reliable", None], "reliable (1 of 2 audited)"),
        (["reliable", "suspicious"], "suspicious: 1 of 2"),
        (["reliable", "suspicious", None], "suspicious: 1 of 2 (2 of 3 audited)"),
        (["suspicious"], "suspicious"),
    ],
)
def test_audit_verdicts(tmp_path, verdicts, expected) -> None:
    for seed, verdict in enumerate(verdicts):
        audit = {} if verdict is None else {"audit": {"verdict": verdict}}
        write_run(tmp_path / str(seed), make_record(method="ce", seed=seed, **audit))
    assert audit_verdict(rows(tmp_path)["ce"]) == expected


def test_a_seed_that_counts_twice_is_noted(tmp_path) -> None:
    """Its two runs are not two draws, so the deviation is too small; another subset's are."""
    for k, (seed, subset) in enumerate(((0, None), (0, None), (1, 0), (1, 1))):
        record = make_record(method="ce", seed=seed)
        record["recipe"]["data"]["subset_seed"] = subset
        write_run(tmp_path / str(k), record)
    assert notes(rows(tmp_path)["ce"]) == "2 runs of seed 0"


def test_a_list_is_named_as_recipes_write_it(tmp_path) -> None:
    write_run(tmp_path / "a", make_record(method="ce"))
    write_run(tmp_path / "b", make_record(method="ldam", **{"optim.milestones": (3, 5)}))
    assert "ldam (optim.milestones=3,5, optim.defer_epoch=3)" in rows(tmp_path)


def test_collapsed_and_overfitted_runs_are_noted(tmp_path) -> None:
    write_run(tmp_path / "a", make_record(method="ce", collapsed=1, catastrophic_overfitting=True))
    assert notes(rows(tmp_path)["ce"]) == "collapsed to class bee; catastrophic overfitting"
    best = {"standard": accuracies(0.5), "robust": accuracies(0.3), "collapsed": 0}
    audit = {"verdict": "reliable", "not_run": ["AutoAttack"], "subset": 20}
    write_run(tmp_path / "b", make_record(method="ldam", best=best, audit=audit))
    last, best_row = (
        row for group in group_runs(find_runs([tmp_path])) for row in group.rows if row.method == "ldam"
    )
    assert notes(last) == "audited without AutoAttack, on 20 images"
    assert notes(best_row) == "collapsed to class ant"


def test_text_tables(study) -> None:
    groups = group_runs(find_runs([study]))
    line = "90.00 ± 0.00 | 85.00 ± 0.00 | 53.00 ± 3.61 | 48.00 ± 3.61 | 80.00 ± 0.00 | 43.00 ± 3.61"
    assert f"| ce | 0, 1, 2 | {line} | not audited |  |" in markdown(groups)
    assert (
        r"ce & 0, 1, 2 & 90.00 $\pm$ 0.00 & 85.00 $\pm$ 0.00 & 53.00 $\pm$ 3.61$^\dagger$ & 48.00 $\pm$ 3.61$^\dagger$ "
        r"& 80.00 $\pm$ 0.00 & 43.00 $\pm$ 3.61$^\dagger$ \\" in latex(groups)
    )
    assert r"srat-ldam (loss.separation\_weight=4)" in latex(groups)
    lines = comma_separated(groups).splitlines()
    assert len(lines) == 9
    assert '"digits (exp, ratio 10; 74 training, 40 test images)' in lines[1]


def test_the_worst_class_of_one_run_has_the_interval_of_its_images(tmp_path) -> None:
    robust = accuracies(0.5) | {"intervals": {"worst": [0.3, 0.612]}}
    write_run(tmp_path / "ce", make_record(method="ce", robust=robust))
    groups = group_runs(find_runs([tmp_path]))
    assert "| 80.00 | 40.00 [30.0, 61.2] | not audited |" in markdown(groups)
    assert "40.00 [30.0, 61.2]" in latex(groups)
    assert "40.00 [30.0, 61.2]" in page(groups, groups[0].runs, [], tmp_path)
    (found,) = csv.DictReader(comma_separated(groups).splitlines())
    assert float(found["robust_worst_mean"]) == pytest.approx(0.4)


def test_the_papers_figures_stand_below_a_row_of_its_recipe(tmp_path) -> None:
    paper = {"method": "srat-ce", "data.name": "cifar10", "data.ratio": 100.0, "optim.epochs": 200}
    for seed, level in enumerate((0.64, 0.65)):
        record = make_record(**paper, seed=seed, standard=accuracies(level))
        write_run(tmp_path / f"paper-{seed}", record)
    write_run(tmp_path / "short", make_record(**paper | {"optim.epochs": 20}))
    write_run(tmp_path / "narrow", make_record(**paper | {"method": "ce", "model.width": 16}))
    groups = group_runs(find_runs([tmp_path]))
    text = markdown(groups)
    # 64.5 against 64.29 of deviation 0.46; srat-ce has one deviation that is not legible
    assert "| srat-ce, paper | - | 64.29 ± 0.46 | 61.81 ± - | 29.99 ± 0.43 | 24.09 ± 0.98 | - |" in text
    assert "ours minus the paper's: standard +0.21 (p = " in text
    assert "standard under -2.31 (p -)" in text
    assert text.count(", paper |") == 1, "other recipes have no target"
    assert r"srat-ce, paper & - & 64.29 $\pm$ 0.46 & 61.81 $\pm$ - &" in latex(groups)
    head, *lines = csv.reader(comma_separated(groups).splitlines())
    line = next(line for line in lines if line[1] == "srat-ce" and line[4] == "2")
    found = dict(zip(head, line, strict=True))
    assert (found["standard_overall_paper"], found["standard_under_paper_std"]) == ("0.6429", "")
    assert 0 < float(found["standard_overall_paper_p"]) < 1
    html = page(groups, find_runs([tmp_path]), [], tmp_path)
    assert html.count("srat-ce, paper</td>") == 1
    assert "the paper names no number of runs" in html


def test_networks_are_named_where_there_are_several(tmp_path) -> None:
    write_run(tmp_path / "a", make_record(method="ce"))
    assert "resnet18" not in markdown(group_runs(find_runs([tmp_path])))
    write_run(tmp_path / "b", make_record(**{"method": "ce", "model.name": "wrn-28-10", "optim.epochs": 7}))
    titles = [group.title for group in group_runs(find_runs([tmp_path]))]
    assert "resnet18, 80 epochs" in titles[0]
    assert "wrn-28-10, 7 epochs" in titles[1]
    write_run(tmp_path / "c", make_record(**{"method": "ce", "model.name": "wrn-28-10"}))
    write_run(tmp_path / "d", make_record(**{"method": "ce", "model.name": "wrn-28-10", "seed": 1}))
    group = group_runs(find_runs([tmp_path]))[0]
    assert [row.label for row in group.rows] == ["ce (model.name=resnet18)", "ce (model.name=wrn-28-10)"]
    assert "resnet18" not in group.title


def test_the_protocol_is_in_the_title_or_in_every_row(tmp_path) -> None:
    same = {
        "method": "at-bsl",
        "optim.epochs": 80,
        "eval_attack.epsilon": 0.1,
        "eval_attack.step_size": 0.025,
    }
    for protocol in ("own", "srat"):
        record = make_record(**same)
        record["recipe"]["protocol"] = protocol
        write_run(tmp_path / protocol, record)
    assert list(rows(tmp_path)) == ["at-bsl (protocol=own)", "at-bsl (protocol=srat)"]
    (alone,) = group_runs(find_runs([tmp_path / "own"]))
    assert "80 epochs, protocol own, robust" in alone.title


def test_norms_of_training_are_named_where_there_are_several(tmp_path) -> None:
    judged = {"eval_attack.threat": "linf", "eval_attack.epsilon": 0.1, "eval_attack.step_size": 0.025}
    for name, fields in {"a": {}, "b": {"seed": 1}, "c": {"attack.threat": "l2"}}.items():
        write_run(tmp_path / name, make_record(**{"method": "ce", **judged, **fields}))
    (group,) = group_runs(find_runs([tmp_path]))
    assert [(len(row.runs), norm in row.label) for row, norm in zip(group.rows, ("=l2", "=linf"), strict=True)] == [
        (1, True), (2, True)
    ]  # fmt: skip


def test_bad_directories(tmp_path, study) -> None:
    with pytest.raises(UserError, match="is not a directory"):
        find_runs([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no run"):
        find_runs([tmp_path / "empty"])
    (study / "ce-0" / "record.json").write_text(json.dumps({"recipe": 3}))
    with pytest.raises(UserError, match=r"its record\.json is damaged"):
        find_runs([study])


def test_a_torn_last_line_of_metrics_is_passed_over(study) -> None:
    path = study / "ce-0" / "metrics.jsonl"
    path.write_text(path.read_text() + '{"epoch": 3, "lo')
    (run,) = find_runs([study / "ce-0"])
    assert [line["epoch"] for line in run.metrics()] == [0, 1, 2]


def test_where_no_value_is_usual_every_row_names_its_own(tmp_path) -> None:
    for weight in (0.0, 2.0, 8.0):
        record = make_record(**{"method": "srat-ce", "loss.separation_weight": weight})
        write_run(tmp_path / f"{weight:g}", record)
    assert list(rows(tmp_path)) == [f"srat-ce (loss.separation_weight={w})" for w in (0, 2, 8)]


DAMAGE = [
    "",
    "{",
    "[]",
    '"text"',
    "[" * 100_000,
    '{"recipe": {}}',
    '{"recipe": {"method": "ce"}, "status": "finished"}',
]


@pytest.mark.parametrize(
    "content", [*DAMAGE, None, "no robust accuracy"], ids=lambda content: str(content)[:30]
)
def test_one_bad_record_does_not_stop_a_report(content, study, capsys) -> None:
    bad = study / "ce-1" / "record.json"
    if content is None:  # a record that cannot be read at all
        bad.unlink()
        bad.mkdir()
        (study / "ce-1" / "recipe.json").unlink()
        (study / "ce-1" / "recipe.json").symlink_to("recipe.json")
    elif content == "no robust accuracy":
        bad.write_text(json.dumps({k: v for k, v in json.loads(bad.read_text()).items() if k != "robust"}))
    else:
        bad.write_text(content)
    damaged: list[str] = []
    assert len(find_runs([study], damaged)) == 9
    assert len(damaged) == 1
    assert str(study / "ce-1") in damaged[0]
    with pytest.raises(SystemExit) as end:
        main(["report", str(study), "--print-only"])
    out, err = capsys.readouterr()
    assert not end.value.code
    assert err == f"warning: {damaged[0]}\n"
    assert "srat-ldam" in out
    with pytest.raises(UserError, match=r"its record\.json|its recipe\.json"):
        find_runs([study / "ce-1"], [])


def test_a_killed_run_is_called_killed(study) -> None:
    (study / "under-way" / ".lock").touch()  # which nobody holds
    found = {run.path.name: run.record for run in find_runs([study])}
    assert found["under-way"]["status"] == "killed"
    assert "after 2 epochs; train --resume goes on" in found["under-way"]["problem"]
    assert found["failed"]["status"] == "failed"


def test_a_resumed_run_is_running_and_its_earlier_end_is_past(study) -> None:
    path = study / "failed"
    record = json.loads((path / "record.json").read_text())
    (path / "record.json").write_text(json.dumps(record | {"problem": "stopped by SIGTERM"}))
    with (path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (run,) = find_runs([path])
    assert run.record["status"] == "running"
    assert "problem" not in run.record
