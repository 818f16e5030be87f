"""The scripts in examples/ run, say something sensible, and stay short."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from srat_fast.sweep.plan import make_plan
from srat_fast.sweep.spec import read_tree, spec_from_tree

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.py"))


def load(name: str):
    """The `main` of an example."""
    (path,) = (p for p in EXAMPLES if p.stem == name)
    return runpy.run_path(str(path))["main"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_they_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 40


def test_train_from_python(capsys) -> None:
    records = load("train_from_python")(epochs=2, width=4)
    assert [r["recipe"]["method"] for r in records.values()] == ["ce", "srat-ldam"]
    assert all(r["status"] == "finished" and r["counts"][-1] == 12 for r in records.values())
    assert f"clean {records['ce']['standard']['overall']:.1%}" in capsys.readouterr().out


def test_fused_loss(capsys) -> None:
    assert load("fused_loss")() > 0.9
    assert "L_sep" in capsys.readouterr().out


def test_evaluate_other_model(capsys) -> None:
    results = load("evaluate_other_model")(epochs=10, audited=50)
    assert results["clean"] > 0.7
    assert results["pgd-20"] < results["clean"] - 0.2, "a network without defence must lose much"
    report = results["audit"]
    passed = {check["name"] for check in report["checks"] if check["verdict"] == "passed"}
    sound = {"mode", "finite logits", "repeatability", "gradient against differences", "threat model"}
    assert sound <= passed, report["problems"]
    assert f"audit of 50 images: {report['verdict']}" in capsys.readouterr().out


def test_the_sweep_on_photographs(image_folder) -> None:
    path = EXAMPLES[0].parent / "photographs.toml"
    tree = read_tree(path)
    tree["base"] |= {"data_root": str(image_folder), "ratio": 6}  # as far as two classes of six images allow
    plan = make_plan(spec_from_tree(tree, path.parent, path.stem), str(path))
    assert [plan.recipe(t).method for t in plan.trials] == ["ce", "drcb-ldam", "srat-ldam"] * 3
    recipe = plan.recipe(plan.trials[0]).resolve()
    assert (recipe.attack.steps, recipe.attack.epsilon, recipe.model.width) == (10, 8 / 255, 16)
    assert recipe.optim.defer_epoch == 0.8 * recipe.optim.epochs, "as in the paper"
