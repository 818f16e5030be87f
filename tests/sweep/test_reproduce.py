"""The paper's tables and figures: each is a valid plan at both scales, and one runs from end to end."""

from __future__ import annotations

import json

import pytest

from srat_fast.errors import UserError
from srat_fast.sweep.plan import make_plan
from srat_fast.sweep.reproduce import item_names, item_spec, load_item

NAMES = [f"table{n}" for n in range(1, 11)] + [f"fig{n}" for n in (1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 15, 16)]


def test_every_item_is_there() -> None:
    assert item_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_both_scales_are_valid_plans(name) -> None:
    item = load_item(name)
    assert item.numbering
    smoke, paper = (make_plan(item_spec(item, scale, 2), name) for scale in ("smoke", "paper"))
    assert {smoke.recipe(t).data.name for t in smoke.trials} == {"digits"}
    for trial in paper.trials:
        recipe = paper.recipe(trial)
        assert (recipe.optim.epochs, recipe.model.width, recipe.data.limit) == (200, 64, None)
    assert {t.seed for t in paper.trials} == {0, 1}
    assert sum(t.work for t in smoke.trials) < 1e-4 * sum(t.work for t in paper.trials)


def test_tables_have_the_methods_of_the_paper() -> None:
    plan = make_plan(item_spec(load_item("table4"), "paper", 1), "table4")
    assert len(plan.trials) == 11
    recipe = plan.recipe(plan.trials[0])
    assert (recipe.data.name, recipe.data.imbalance, recipe.data.ratio) == ("cifar10", "exp", 100)


def test_bad_names_and_scales() -> None:
    with pytest.raises(UserError, match="one of table1, table2"):
        load_item("fig3")
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
    with pytest.raises(UserError, match=r"--folder.*for items of cifar10; table5 is of svhn"):
        item_spec(load_item("table5"), "paper", 1, tmp_path)
    with pytest.raises(UserError, match=r"--folder.*has no effect"):
        item_spec(load_item("table4"), "smoke", 1, tmp_path)
    code, text = stage.call("reproduce", "table4", "--folder", "a", "--data-root", "b")
    assert code == 2
    assert "give one of the two" in text


def test_paper_scale_prints_the_plan_and_gpu_hours_only(stage) -> None:
    code, text = stage.call("reproduce", "fig6", "--images-per-second", "20000")
    assert code == 0, text
    assert "81 runs" in text
    assert "GPU hours" in text
    assert "as given" in text
    assert "not run: --run does" in text
    assert not (stage.path / "reproduce").exists()


@pytest.mark.slow
def test_smoke_scale_from_end_to_end(stage) -> None:
    options = ("--scale", "smoke", "--seeds", "1", "--cpu-slots", "2")
    code, text = stage.call("reproduce", "fig1", *options, real=True, timeout=280)
    assert code == 0, text
    out = stage.path / "reproduce" / "fig1-smoke"
    records = [json.loads(path.read_text()) for path in out.glob("runs/*/record.json")]
    assert {r["recipe"]["method"] for r in records} == {"natural", "ce"}
    assert (out / "table.md").read_text() in text
    assert "| natural | 1 |" in text
    assert "not audited: all" in text
    assert "standard accuracy of each class" in text
    assert (out / "report" / "report.html").exists()
    assert len(list((out / "report" / "figures").glob("*.svg"))) > 1
