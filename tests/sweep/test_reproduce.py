"""The paper's tables and figures: each is a valid plan at both scales, and one runs from end to end."""

from __future__ import annotations

import json

import pytest

from srat_fast.console import Console
from srat_fast.data.plan import base_counts, planned_counts
from srat_fast.errors import UserError
from srat_fast.methods import METHODS, rows
from srat_fast.published import field_reports, paper_facts
from srat_fast.recipe import Recipe, flatten
from srat_fast.sweep.directory import SweepDirectory, requeue
from srat_fast.sweep.driver import Driver, Options
from srat_fast.sweep.plan import Plan, make_plan
from srat_fast.sweep.reproduce import field_names, item_names, item_spec, load_item, share_runs
from srat_fast.sweep.status import SweepView, read_status
from tests.report.conftest import make_record, write_run

NAMES = [f"table{n}" for n in range(1, 11)] + [f"fig{n}" for n in range(1, 17)]
FACTS = paper_facts()


def test_every_item_is_there() -> None:
    assert item_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_both_scales_are_valid_plans(name) -> None:
    item = load_item(name)
    smoke, paper = (make_plan(item_spec(item, scale, 2), name) for scale in ("smoke", "paper"))
    assert {smoke.recipe(t).data.name for t in smoke.trials} == {"digits"}
    for trial in paper.trials:
        recipe = paper.recipe(trial)
        assert (recipe.optim.epochs, recipe.model.width, recipe.data.limit) == (200, 64, None)
    assert {t.seed for t in paper.trials} == {0, 1}
    if item.trains:  # fewer values at smoke scale, and the same panels and curves
        assert [of(smoke, field) for field in ("method", "data.imbalance")] == [
            of(paper, field) for field in ("method", "data.imbalance")
        ]
    assert sum(t.work for t in smoke.trials) < 1e-4 * sum(t.work for t in paper.trials)


def paper_plan(name: str) -> Plan:
    return make_plan(item_spec(load_item(name), "paper", 1), name)


def of(plan: Plan, field: str) -> list:
    """The values of a field over a plan's runs, each once, in order."""
    return list(dict.fromkeys(flatten(plan.recipe(trial))[field] for trial in plan.trials))


def fact(name: str) -> dict:
    """What the paper says of an item; a figure that is "as" another has that one's facts too."""
    facts = FACTS[name] if name.startswith("table") else FACTS["figures"][name]
    return (fact(facts["as"]) if "as" in facts else {}) | facts


@pytest.mark.parametrize("name", NAMES)
def test_specs_are_what_the_paper_prints(name) -> None:
    facts, item, plan = fact(name), load_item(name), paper_plan(name)
    assert of(plan, "data.name") == [facts["data"]]
    if item.trains:
        methods = (
            facts["methods"]
            if name.startswith("fig")
            else [m for m, row in facts.items() if isinstance(row, dict)]
        )
        assert of(plan, "method") == methods
    if "imbalance" in facts:
        assert of(plan, "data.imbalance") == [facts["imbalance"]]
    if "ratio" in facts:
        assert of(plan, "data.ratio") == [facts["ratio"]]
    if "well" in facts:
        assert of(plan, "data.classes") == [f"{facts['well']},{facts['under']}"], (
            "the first is well-represented"
        )
        recipe = plan.recipe(plan.trials[0])
        assert planned_counts(recipe, base_counts(recipe)[0]) == facts.get("counts", [5000, 50])
    else:
        assert of(plan, "data.classes") == ["all"]
    if "weights" in facts:
        assert set(of(plan, "loss.weight_rule")) == {"ratio"}
        weights = of(plan, "loss.weight_ratio")
        assert weights == facts["weights"] or (min(weights), 78 in weights, max(weights)) == (10, True, 200)
    elif item.trains:
        assert of(plan, "loss.weight_rule") == ["class-balanced"]
    if "lambda" in facts:
        assert max(of(plan, "loss.separation_weight")) == 8
    if "ratios" in facts:
        ratios = of(plan, "data.ratio")
        assert (min(ratios), max(ratios)) == (5, 100)
    shapes = [
        f"{imbalance}-{ratio:g}"
        for imbalance in of(plan, "data.imbalance")
        for ratio in of(plan, "data.ratio")
    ]
    if name == "fig6":
        assert shapes == facts["panels"]
    if not item.trains:
        assert facts["what"] == f"class counts of {', '.join(shapes)}"


@pytest.mark.parametrize(
    ("name", "total", "some"),
    [
        ("field-cifar10-lt50", 13996, [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100]),
        ("field-cifar100-lt10", 19573, [500, 488, 477, 466, 455]),
    ],
)
def test_comparisons_of_the_field(name, total, some) -> None:
    """Counts as RoBal, REAT and AT-BSL train on; every method of the table, one protocol, published numbers apart."""
    assert name in field_names()
    plan = paper_plan(name)
    recipe = plan.recipe(plan.trials[0])
    counts = planned_counts(recipe, base_counts(recipe)[0])
    assert (sum(counts), counts[: len(some)]) == (total, some)
    assert {row.name for row in rows()} <= set(of(plan, "method"))
    assert of(plan, "protocol") == ["srat"]
    assert of(plan, "optim.epochs") == [200]
    smoke = make_plan(item_spec(load_item(name), "smoke", 1), name)
    assert of(smoke, "method") == of(plan, "method")
    reports = field_reports(name)
    assert reports
    for entry in reports:
        assert entry["method"] in METHODS
        assert entry["source"]
        assert entry["selected"] in ("test", "last")
        assert entry["numbers"]["clean"] > entry["numbers"]["pgd-20"]


def test_what_the_paper_leaves_open_is_said() -> None:
    noted = {name for name in NAMES if load_item(name).note}
    vague = {
        name
        for name in NAMES
        for key in ("weights", "lambda", "ratios")
        if isinstance(fact(name).get(key), str)
    }
    assert noted == vague | {"fig4"}, "fig4's imbalance is not given either"
    assert not any("inferred" in str(load_item(name)) for name in NAMES)


def test_the_defaults_are_the_papers_settings() -> None:
    said = FACTS["settings"]
    recipe = Recipe().resolve()
    assert (recipe.optim.epochs, recipe.optim.lr) == (said["epochs"], said["lr"])
    assert (list(recipe.optim.milestones), recipe.optim.defer_epoch) == (
        said["milestones"],
        said["defer_epoch"],
    )


def test_bad_names_and_scales() -> None:
    with pytest.raises(UserError, match="one of table1, table2"):
        load_item("fig17")
    with pytest.raises(UserError, match="field-cifar10-lt50"):
        load_item("field-cifar10")
    with pytest.raises(UserError, match="one of smoke, paper"):
        item_spec(load_item("fig1"), "large", 1)
    with pytest.raises(UserError, match="an integer >= 1"):
        item_spec(load_item("fig1"), "smoke", 0)


def test_from_class_folders(tmp_path, stage) -> None:
    spec = item_spec(load_item("table4"), "paper", 1, tmp_path)
    assert (spec.base["data.name"], spec.base["data.root"], spec.published) == (
        "folder",
        str(tmp_path),
        "cifar10",
    )
    assert item_spec(load_item("table4"), "paper", 1).published is None
    assert item_spec(load_item("table9"), "paper", 1, tmp_path).published == "cifar100"
    with pytest.raises(UserError, match=r"--folder.*for items of cifar10, cifar100; table5 is of svhn"):
        item_spec(load_item("table5"), "paper", 1, tmp_path)
    with pytest.raises(UserError, match=r"--folder.*has no effect"):
        item_spec(load_item("table4"), "smoke", 1, tmp_path)
    code, text = stage.call("reproduce", "table4", "--folder", "a", "--data-root", "b")
    assert code == 2
    assert "give one of the two" in text


def test_paper_scale_prints_the_plan_and_gpu_hours_only(stage) -> None:
    code, text = stage.call("reproduce", "fig6", "--images-per-second", "20000")
    assert code == 0, text
    assert "162 runs" in text
    assert "note: the paper says lambda up to 8" in text
    assert "GPU hours" in text
    assert "as given" in text
    assert "not run: --run does" in text
    assert not (stage.path / "reproduce").exists()


def smoke_sweep(place, name: str) -> SweepDirectory:
    return SweepDirectory.create(place / name, item_spec(load_item(name), "smoke", 1), name)


def test_equal_finished_runs_of_other_sweeps_are_linked(tmp_path) -> None:
    first, second = smoke_sweep(tmp_path, "fig5"), smoke_sweep(tmp_path, "fig15")
    mine = [trial for trial in first.plan.trials if trial.id in second.by_id]
    assert len(mine) == len(second.plan.trials) == 3
    for trial, status in zip(mine, ("finished", "finished", "interrupted"), strict=True):
        recipe = first.plan.recipe(trial).resolve().to_dict()
        write_run(first.run(trial), make_record(recipe=recipe, status=status))
    assert share_runs(second, [first]) == 2, "one has not finished"
    assert dict(read_status(second).counts) == {"done": 2, "queued": 1}
    with SweepView("", Console()) as view:
        driver = Driver(second, view, Options(min_free=0))
        assert [trial.id for trial in driver.queue] == [mine[2].id]
        driver.claims.close()
    # the same again through a sweep that has links only; and a link whose run has gone is taken away
    third = SweepDirectory.create(tmp_path / "third", item_spec(load_item("fig15"), "smoke", 1), "fig15")
    assert share_runs(third, [second, first]) == 2
    assert {path.resolve().parent for path in third.path.glob("runs/*")} == {(first.path / "runs").resolve()}
    first.run(mine[0]).rename(tmp_path / "elsewhere")
    assert share_runs(third, [second, first]) == 1
    assert dict(read_status(third).counts) == {"done": 1, "queued": 2}
    assert [path.name for path in third.path.glob("runs/*")] == [third.by_id[mine[1].id].name]


def test_runs_that_have_begun_are_not_replaced(tmp_path) -> None:
    first, second = smoke_sweep(tmp_path, "fig5"), smoke_sweep(tmp_path, "fig15")
    trial = second.plan.trials[0]
    same = first.by_id[trial.id]
    write_run(first.run(same), make_record(recipe=first.plan.recipe(same).resolve().to_dict()))
    second.run(trial).mkdir()
    assert share_runs(second, [first]) == 0
    assert dict(read_status(second).counts) == {"interrupted": 1, "queued": 2}


def test_a_fresh_retry_of_a_linked_run_leaves_the_other_sweep_whole(tmp_path) -> None:
    first, second = smoke_sweep(tmp_path, "fig5"), smoke_sweep(tmp_path, "fig15")
    trial = second.plan.trials[0]
    original = first.run(first.by_id[trial.id])
    write_run(original, make_record(recipe=second.plan.recipe(trial).resolve().to_dict()))
    assert share_runs(second, [first]) == 1
    assert requeue(second.path, [trial.id], fresh=False) == [
        f"{trial.name} is finished; --fresh runs it again"
    ]
    assert second.run(trial).is_symlink()
    assert requeue(second.path, [trial.id], fresh=True) == [f"{trial.name} is queued again"]
    assert (original / "record.json").exists()
    assert not second.run(trial).is_symlink()
    assert dict(read_status(second).counts) == {"queued": 3}


@pytest.mark.slow
def test_smoke_scale_from_end_to_end(stage) -> None:
    options = ("--scale", "smoke", "--seeds", "1", "--cpu-slots", "2")
    code, text = stage.call("reproduce", "fig3", *options, real=True, timeout=280)
    assert code == 0, text
    out = stage.path / "reproduce" / "fig3-smoke"
    records = [json.loads(path.read_text()) for path in out.glob("runs/*/record.json")]
    assert {r["recipe"]["method"] for r in records} == {"natural", "ce"}
    assert (out / "table.md").read_text() in text
    assert "| natural | 1 |" in text
    assert "not audited: all" in text
    assert "standard accuracy of each class" in text
    assert (out / "report" / "report.html").exists()
    assert len(list((out / "report" / "figures").glob("*.svg"))) > 1
    assert {path.suffix for path in out.glob("fig3.*")} == {".svg", ".png", ".pdf"}
    for path in out.glob("runs/*"):
        assert json.loads((path / "analysis-train.json").read_text())["part"] == "train"
    assert list((out / "report" / "figures").glob("features-clean-training-*.svg"))
