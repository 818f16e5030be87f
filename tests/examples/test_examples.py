"""The scripts in examples/ run, say something sensible, and stay short."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path

import pytest
import torch

from srat_fast import build_recipe, plugins
from srat_fast import load as load_model
from srat_fast.cli import main
from srat_fast.errors import UserError
from srat_fast.sweep.plan import make_plan
from srat_fast.sweep.spec import read_tree, spec_from_tree
from srat_fast.training.plugin_checks import check_plugin
from tests.test_plugins import stop_after_an_epoch

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
    assert [t.seed for t in plan.trials] == [0] * 6 + [1] * 6 + [2] * 6
    methods = ["ce", "drcb-ldam", "srat-ldam", "at-bsl", "trades", "srat:at-bsl"]
    assert [plan.recipe(t).method for t in plan.trials] == methods * 3
    recipe = plan.recipe(plan.trials[0]).resolve()
    assert (recipe.attack.steps, recipe.attack.epsilon, recipe.model.width) == (10, 8 / 255, 16)
    assert recipe.optim.defer_epoch == 0.8 * recipe.optim.epochs, "as in the paper"


def test_the_recipe_of_the_field_in_l2() -> None:
    recipe = build_recipe(str(EXAMPLES[0].parent / "l2.toml")).resolve()
    attacks = [(a.threat, a.epsilon, a.steps, a.step_size) for a in (recipe.attack, recipe.eval_attack)]
    assert attacks == [("l2", 0.5, 7, 0.1), ("l2", 0.5, 20, 2.5 * 0.5 / 20)]
    assert [recipe.optim.lr * recipe.optim.decay**n for n in (0, 2)] == pytest.approx([0.1, 0.001])
    assert (recipe.model.name, recipe.method, recipe.data.imbalance) == ("resnet50", "ce", "none")


def test_own_method(tmp_path, capsys, monkeypatch) -> None:
    (path,) = (p for p in EXAMPLES if p.stem == "own_method")
    monkeypatch.chdir(tmp_path)
    recipe = ["--plugin", str(path), "--method", "poly1-srat", "--set", "model.name=plain", "--dataset", "digits",
              "--epochs", "2", "--set", "model.width=4", "--set", "attack.steps=2", "--set", "eval_attack.steps=2",
              "--deterministic"]  # fmt: skip

    def command(*arguments: str) -> str:
        plugins.forget()  # as in a process of its own
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        assert ended.value.code == 0, capsys.readouterr().err
        return capsys.readouterr().out

    try:
        command("train", *recipe, "--out", "runs/whole")
        printed = Path("own.toml")
        printed.write_text(command("train", *recipe, "--print-recipe"))
        plugins.forget()
        stop_after_an_epoch(build_recipe(str(printed)), Path("runs/part"))
        shutil.copy(path, "moved.py")
        command("train", "--out", "runs/part", "--resume", "--plugin", "moved.py")
        whole, part = (json.loads(Path(f"runs/{name}/record.json").read_text()) for name in ("whole", "part"))
        assert whole["weights_checksums"] == part["weights_checksums"]
        assert whole["final_epoch"]["loss"] == part["final_epoch"]["loss"]
        shown = command("evaluate", "runs/whole", "--plugin", "moved.py", "--attack", "clean,pgd-2")
        assert f"{100 * whole['standard']['overall']:.2f}" in shown
        assert "poly1-srat" in command("report", "runs", "--print-only")
        command("export", "runs/whole", "--plugin", "moved.py", "--format", "safetensors,torch-export")
        assert (
            "| plug-in | `plugin/own_method.py` (SHA-256 "
            in Path("runs/whole/export/MODEL_CARD.md").read_text()
        )
        images = torch.rand(4, 1, 8, 8)
        plugins.forget()
        with pytest.raises(UserError, match=r"its network plain is not registered: .* --plugin FILE\.py"):
            load_model("runs/whole/export/model.safetensors")
        logits = load_model("runs/whole/export/model.safetensors", plugin="moved.py")(images)
        torch.testing.assert_close(
            logits, load_model("runs/whole", plugin="moved.py")(images), rtol=0, atol=0
        )
        command("sweep", "plan", str(spec_of_own(path)), "--out", "sweep")
        found = {f"{c.entry}: {c.what}": c for c in check_plugin(path, compiled=False)}
        assert {c.verdict for c in found.values()} == {"passed", "left out"}
        assert found["network plain: weights file"].verdict == "passed"
    finally:
        plugins.forget()


def spec_of_own(path: Path) -> Path:
    """A sweep of the example's method on its network."""
    axes = '[base]\nmethod = "poly1-srat"\n[axes]\nmodel.name = ["plain", "resnet18"]\n'
    Path("spec.toml").write_text(f'plugin = "{path}"\nrecipe = "digits"\n{axes}')
    return Path("spec.toml")
