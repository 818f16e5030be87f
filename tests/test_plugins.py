"""Plug-ins: what a file may register, whose code runs when, and what a run keeps of it."""

from __future__ import annotations

import itertools
import json
import pickle
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from srat_fast import analyse, audit_run, build_recipe, evaluate, export, load, plugins, registry
from srat_fast.cli import main
from srat_fast.errors import TrainingFailure, UserError
from srat_fast.recipe import Recipe, to_toml
from srat_fast.report.collect import Run
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.training.plugin_checks import check_plugin
from srat_fast.training.trainer import train
from tests.tiny import TINY, tiny_recipe

HEAD = """\
import torch
from torch.nn import functional

from srat_fast.methods import SEPARATION, Method
from srat_fast.registry import method, term


@term("poly1")
class Poly1:
    def __init__(self, context):
        self.context = context

    def __call__(self, batch):
        losses = functional.cross_entropy(batch.logits, batch.labels, reduction="none")
"""
BODY = "        return self.context.mean(losses + 1 - (-losses).exp(), batch.labels)\n"
ROW = """

method("poly1-srat")(Method("poly1-srat", "poly1", "deferred", SEPARATION, title="Poly1-SRAT"))
"""
SOUND = HEAD + BODY + ROW
COUNTING = "        self.n = getattr(self, 'n', 0) + 1\n        return losses.mean()\n"


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """As in a new process."""
    plugins.forget()
    yield
    plugins.forget()


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(SOUND)
    return path


def run(path: Path, out: Path, **more: Any) -> dict[str, Any]:
    recipe = tiny_recipe({"plugin": [str(path)], "method": "poly1-srat"} | more)
    return train(recipe, out, console=Console(quiet=True))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose plug-in has moved since."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "mine.py").write_text(SOUND)
    run(folder / "mine.py", folder / "run")
    (folder / "mine.py").unlink()
    return folder / "run"


def command(*arguments: Any) -> int | str | None:
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    return stopped.value.code


def test_what_it_registers_is_known_from_then_on(mine: Path) -> None:
    with pytest.raises(UserError, match="one of natural"):
        build_recipe(None, {"method": "poly1-srat"})
    recipe = build_recipe(None, {"plugin": str(mine), "method": "poly1-srat", "loss.base": "poly1"})
    assert (recipe.row.base, recipe.row.title, recipe.plugin) == ("poly1", "Poly1-SRAT", (str(mine),))
    assert plugins.load(mine) is plugins.load(mine)
    assert plugins.load(mine).names == (("method", "poly1-srat"), ("term", "poly1"))
    plugins.forget()
    assert "poly1-srat" not in registry.method
    assert "poly1" not in registry.term


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import math\n\nraise ValueError('no\\nway')\n", "line 3: ValueError: no"),
        ("def broken(:\n", "line 1: SyntaxError: "),
        ("x = '\0'\n", "cannot be compiled: SyntaxError: source code string cannot contain null bytes"),
        ("def f():\n    return 1 / 0\n\nf()\n", "line 2: ZeroDivisionError: division by zero"),
        ("raise SystemExit(0)\n", "line 1: SystemExit: 0"),
        ("from srat_fast.registry import term\n\n\n@term('ce')\nclass Mine: ...\n",
         "line 4: term = 'ce': the term ce exists already; choose another name"),
        (SOUND + "\n\nraise KeyError('late')\n", "line 21: KeyError: 'late'"),
        ("x = 1\n", "registers nothing; srat_fast.registry has method, model, threat, term, inner"),
        (HEAD + BODY + ROW.replace("deferred", "defered"),
         "line 18: weighting = 'defered': one of none, balanced, deferred; did you mean deferred?"),
        ("from srat_fast.registry import threat\n\n\n@threat('box')\nclass Box:\n    def step(self): ...\n",
         "line 4: attack.threat = 'box': the threat model box has no title, autoattack, largest, tolerance, diameter"),
        ("from srat_fast.registry import dataset\n\ndataset('mine')(object())\n", "a data set is no plug-in: "),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_one_line_and_leaves_nothing(
    tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    before = {
        kind: tuple(entries)
        for kind, entries in vars(registry).items()
        if isinstance(entries, registry.Registry)
    }
    assert command("train", "--dataset", "digits", "--plugin", path, "--out", tmp_path / "run") == 2
    assert capsys.readouterr().err.startswith(f"error: --plugin = '{path}': {said}")
    assert {kind: tuple(getattr(registry, kind)) for kind in before} == before
    assert not (tmp_path / "run").exists()
    path.write_text(SOUND)
    plugins.load(path)  # mended


@pytest.mark.parametrize("found", [True, False])
@pytest.mark.parametrize("helper", ["srat_helper.py", "srat_helper/__init__.py"])
def test_what_lies_beside_a_plug_in_is_no_part_of_it(
    mine: Path, helper: str, found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mine.parent / helper).parent.mkdir(exist_ok=True)
    (mine.parent / helper).write_text("x = 1\n")
    mine.write_text("import srat_helper\n" + SOUND)
    if found:  # as where `python -m srat_fast` is called in that folder
        monkeypatch.syspath_prepend(str(mine.parent))
    said = (
        f"imports {mine.parent / helper}"
        if found
        else "line 1: ModuleNotFoundError: No module named 'srat_helper'"
    )
    with pytest.raises(UserError, match=re.escape(f"{said}: only the file itself is kept")):
        plugins.load(mine)
    sys.modules.pop("srat_helper", None)
    assert "poly1" not in registry.term


def test_a_file_that_is_not_there_and_one_that_changed(mine: Path) -> None:
    with pytest.raises(UserError, match=r"--plugin = '.*none.py': cannot be read: No such file"):
        build_recipe(None, {"plugin": str(mine.with_name("none.py"))})
    recipe = build_recipe(None, {"plugin": str(mine), "method": "poly1-srat"})
    print_of = recipe.fingerprint()
    mine.write_text(SOUND + "\n# another\n")
    with pytest.raises(UserError, match="has changed since this process loaded it"):
        build_recipe(None, {"plugin": str(mine)})
    assert recipe.replace({"seed": 0}).fingerprint() == print_of, "a run that goes on is not disturbed"
    mine.unlink()
    assert recipe.resolve().fingerprint() == print_of


def test_the_content_is_part_of_the_identity_and_the_path_is_not(mine: Path, tmp_path: Path) -> None:
    plain = build_recipe(None, {"method": "ce"})
    assert Recipe().plugin == ()
    assert Recipe().replace({"method": "ce"}).fingerprint() == plain.fingerprint() == "220e96900cbd"
    other = tmp_path / "elsewhere" / "mine.py"
    other.parent.mkdir()
    shutil.copy(mine, other)
    a, b = (
        build_recipe(None, {"method": "ce", "plugin": [str(path)]}).fingerprint() for path in (mine, other)
    )
    assert a == b != plain.fingerprint()
    both = build_recipe(None, {"plugin": [str(mine), str(other)]})
    assert both.plugin == (str(mine),), "one content once"
    plugins.forget()
    other.write_text(SOUND.replace("poly1", "poly2"))
    with pytest.raises(UserError, match=r"--plugin = 'mine.py': two files of this name; rename one"):
        build_recipe(None, {"plugin": [str(mine), str(other)]})


def test_a_recipe_file_names_it_relative_to_itself_and_reads_back(
    mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.toml").write_text('plugin = ["mine.py"]\nmethod = "poly1-srat"\n')
    recipe = build_recipe(str(tmp_path / "own.toml"))
    assert recipe.plugin == (str(mine),)
    assert command("train", "--recipe", tmp_path / "own.toml", "--print-recipe") == 0
    (tmp_path / "elsewhere").mkdir()
    printed = tmp_path / "elsewhere" / "printed.toml"
    printed.write_text(capsys.readouterr().out)
    plugins.forget()
    again = build_recipe(str(printed))
    assert to_toml(again) == printed.read_text()
    assert again.fingerprint() == recipe.fingerprint()
    with pytest.raises(UserError, match=r"plugin = \[1\]: a list of texts"):
        build_recipe(None, {"plugin": [1]})


def test_a_run_keeps_a_copy_and_says_what_it_was_made_with(finished: Path) -> None:
    record = json.loads((finished / "record.json").read_text())
    assert (finished / "plugin" / "mine.py").read_text() == SOUND
    entry = plugins.load(finished / "plugin" / "mine.py")
    assert record["plugins"] == [{"path": str(finished.parent / "mine.py"), "sha256": entry.sha256}]
    assert record["recipe"]["plugin"] == ["plugin/mine.py"]
    assert record["title"] == "Poly1-SRAT"
    assert Run(finished, record).fields["plugin"] == (f"mine.py {entry.sha256[:12]}",)
    recipe = build_recipe(str(finished / "recipe.json"))
    assert recipe.fingerprint() == record["fingerprint"]


USES: dict[str, Callable[..., Any]] = {
    "evaluate": lambda run, **given: evaluate(run, "clean", **given),
    "audit": lambda run, **given: audit_run(
        run, subset=20, autoattack=0, queries=1, surrogate=run.parent / "another", **given
    ),
    "analyse": lambda run, **given: analyse(run, points=0, **given),
    "export": lambda run, **given: export(run, **given),
    "load": load,
}


@pytest.mark.parametrize("use", USES)
def test_a_run_directory_runs_no_code_unless_it_is_named(
    use: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(finished, moved)
    shutil.copytree(finished, tmp_path / "another")
    copy = moved / "plugin" / "mine.py"
    with pytest.raises(UserError, match=rf"made with plugin/mine.py .* if you trust it, --plugin {copy}"):
        USES[use](moved)
    assert "poly1" not in registry.term
    (tmp_path / "mine.py").write_text(SOUND + "\n# another\n")
    with pytest.raises(UserError, match=rf"made with .*, not of {tmp_path}/mine.py"):
        USES[use](moved, plugin=tmp_path / "mine.py")
    plugins.forget()
    USES[use](moved, plugin=copy)
    plugins.forget()
    copy.write_text(SOUND + "\n# tampered with\n")
    with pytest.raises(UserError, match=r"its plugin/mine\.py is not the plug-in that it was made with"):
        USES[use](moved, plugin=copy)


def test_commands_say_so_in_one_line_and_take_the_file(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(finished, moved)
    copy = moved / "plugin" / "mine.py"
    for arguments in (["evaluate", moved], ["audit", moved], ["analyse", moved], ["export", moved],
                      ["train", "--out", moved, "--resume"]):  # fmt: skip
        assert command(*arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: --plugin: ")
        assert error.endswith(f"--plugin {copy}\n")
        assert error.count("\n") == 1
    assert command("export", moved, "--plugin", copy, "--no-real-batch") == 0
    exported = moved / "export"
    assert (exported / "plugin" / "mine.py").read_text() == SOUND
    assert build_recipe(str(exported / "recipe.toml")).plugin == (str(exported / "plugin" / "mine.py"),)
    assert command("export", moved, "--plugin", copy, "--no-real-batch") == 0, "over the earlier one"
    assert command("train", "--out", moved, "--resume", "--plugin", copy) == 0
    capsys.readouterr()
    assert command("report", moved, "--print-only") == 0
    assert "poly1-srat" in capsys.readouterr().out


def test_a_run_goes_on_bit_equally_with_its_plug_in_only(mine: Path, tmp_path: Path) -> None:
    whole = run(mine, tmp_path / "whole", **{"run.deterministic": True})
    recipe = tiny_recipe(plugin=[str(mine)], method="poly1-srat", run__deterministic=True)
    part = tmp_path / "part"
    stop_after_an_epoch(recipe, part)
    plugins.forget()
    mine.write_text(SOUND + "\n# another\n")
    other = tiny_recipe(plugin=[str(mine)], method="poly1-srat", run__deterministic=True)
    with pytest.raises(UserError, match=r"made with plugin/mine\.py"):
        train(other, part, resume="must", console=Console(quiet=True))
    plugins.forget()
    copy = part / "plugin" / "mine.py"
    with pytest.raises(SystemExit) as ended:
        main(["train", "--out", str(part), "--resume", "--plugin", str(copy)])
    assert ended.value.code == 0
    record = json.loads((part / "record.json").read_text())
    assert record["weights_checksums"] == whole["weights_checksums"]
    assert len(record["resumed"]) == 1
    assert "changes" not in record["resumed"][0]
    plain = tiny_recipe(plugin=[str(copy)], run__deterministic=True)
    with pytest.raises(UserError, match="another recipe: method is"):
        train(plain, part, resume="must", console=Console(quiet=True))


REMEMBERING = """\
import torch
from torch import nn

from srat_fast.methods import Method
from srat_fast.registry import method, model, term


@term("centre")
class Centre(nn.Module):
    def __init__(self, context):
        super().__init__()
        self.register_buffer("centres", torch.zeros(len(context.counts), context.feature_dim))

    def forward(self, batch):
        for label, row in zip(batch.labels.tolist(), batch.features.detach(), strict=True):
            self.centres[label].lerp_(row, 0.1)
        return (batch.features - self.centres[batch.labels]).square().mean()


@model("dropping")
class Dropping(nn.Module):
    def __init__(self, channels, width):
        super().__init__()
        self.feature_dim = width
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64 * channels, width), nn.ReLU(), nn.Dropout(0.5))

    def features(self, images):
        return self.layers(images)


method("centred")(Method("centred", "ce", terms={"centre": 1.0}))
"""


def test_dropout_and_what_a_term_remembers_go_on_bit_equally(mine: Path, tmp_path: Path) -> None:
    mine.write_text(REMEMBERING)
    recipe = tiny_recipe(plugin=[str(mine)], method="centred", model__name="dropping")
    torch.manual_seed(1)
    whole = train(recipe, tmp_path / "whole", console=Console(quiet=True))
    torch.manual_seed(2)
    stop_after_an_epoch(recipe, tmp_path / "part")
    record = train(recipe, tmp_path / "part", resume="must", console=Console(quiet=True))
    assert record["weights_checksums"] == whole["weights_checksums"]
    assert whole["final_epoch"]["centre"] > 0


def stop_after_an_epoch(recipe: Recipe, out: Path) -> None:
    """Leave the run as a kill after its first epoch does: a checkpoint and no record."""
    from srat_fast.training.fit import Fit

    class Killed(BaseException):
        pass

    with pytest.MonkeyPatch.context() as patch:
        save = Fit.save

        def saved(fit: Fit) -> float:
            save(fit)
            raise Killed

        patch.setattr(Fit, "save", saved)
        with pytest.raises(Killed):
            train(recipe.replace({"run.checkpoint_epochs": 1}), out, console=Console(quiet=True))
    (out / "record.json").unlink()


@pytest.mark.parametrize(
    ("compiled", "body", "said"),
    [
        ("on", "        return losses[:, None]\n", "line 13: the term returns (64, 1); a scalar is needed, shape ()"),
        ("on", "        return losses @ losses[:3]\n", "line 16: RuntimeError: inconsistent tensor size"),
        ("off", "        return losses[:, None]\n", "line 13: the term returns (64, 1); a scalar is needed, shape ()"),
        ("off", "        return losses @ losses[:3]\n", "line 16: RuntimeError: inconsistent tensor size"),
        ("off", "        return float('nan') * losses.mean()\n", "the loss is nan in epoch 1, step 1"),
        ("off", "        return losses.detach().mean()\n", "line 13: the loss has no gradient"),
        ("off", "        self.last = losses.detach()\n        return losses.mean()\n", "line 13: it changes its last"),
        ("on", COUNTING, "line 13: it changes its n, which no checkpoint has and no captured step sees"),
    ],
)  # fmt: skip
def test_a_loss_that_fails_at_the_first_step_is_a_failed_run(
    tmp_path: Path, compiled: str, body: str, said: str
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(HEAD + "        losses = losses\n" + body + ROW)
    with pytest.raises(TrainingFailure) as failure:
        run(path, tmp_path / "run", **{"optim.batch_size": 64, "run.compile": compiled})
    text = str(failure.value)
    assert said in text
    assert str(path) in text
    assert "\n" not in text
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert (record["status"], record["problem"]) == ("failed", text)


def spec_of(mine: Path, **more: Any) -> Path:
    path = mine.with_name("spec.toml")
    lines = [f"{name} = {json.dumps(value)}" for name, value in more.items()]
    fields = [f"{json.dumps(name)} = {json.dumps(value)}" for name, value in TINY.items()]
    axes = ["[axes]", 'method = ["ce", "poly1-srat"]']
    path.write_text("\n".join(['plugin = ["mine.py"]', *lines, "[base]", *fields, *axes]) + "\n")
    return path


def test_a_sweep_carries_it_to_its_trials_and_its_table_runs_none(
    mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("sweep", "plan", spec_of(mine, baseline="poly1-srat"), "--out", tmp_path / "sweep") == 0
    mine.unlink()
    plugins.forget()
    sweep = SweepDirectory.open(tmp_path / "sweep")
    elsewhere = SweepDirectory(tmp_path / "node", pickle.loads(pickle.dumps(sweep.plan)))  # as Ray sends it
    (tmp_path / "node" / "recipes").mkdir(parents=True)
    trial = sweep.plan.trials[1]
    recipe = elsewhere.write_recipe(trial)
    assert not any(name.startswith("srat_fast_plugin") for name in sys.modules), "the driver runs none"
    assert (recipe.parent / "plugin" / "mine.py").read_text() == SOUND
    for each in sweep.plan.trials:  # what a trial's process is told
        plugins.forget()
        arguments = ["--recipe", sweep.write_recipe(each), "--out", sweep.run(each), "--resume", "auto"]
        assert command("train", *arguments) == 0
    record = sweep.record(trial)
    assert record is not None
    assert tuple(entry["sha256"] for entry in record["plugins"]) == plugins.digests(
        build_recipe(str(recipe)).plugin
    )
    plugins.forget()
    capsys.readouterr()
    assert command("sweep", "table", sweep.path, "--out", tmp_path / "table.tex") == 0
    assert "poly1-srat" in capsys.readouterr().out
    assert "Poly1-SRAT" in (tmp_path / "table.tex").read_text()
    assert command("report", sweep.path / "runs", "--print-only") == 0
    assert not any(name.startswith("srat_fast_plugin") for name in sys.modules)
    plugins.load(sweep.path / "recipes" / "plugin" / "mine.py")  # over the description
    assert registry.term["poly1"].__name__ == "Poly1"


def test_a_spec_names_its_plug_ins_at_the_top(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = spec_of(mine)
    for text, said in [
        (spec.read_text().replace("mine.py", "none.py"), "none.py': cannot be read"),
        (
            spec.read_text().replace("[base]", '[base]\nplugin = ["mine.py"]'),
            "stands at the top, for all runs",
        ),
        (spec.read_text().replace('["mine.py"]', "3"), "plugin = 3: a list of texts"),
    ]:
        spec.write_text(text)
        assert command("sweep", "run", spec, "--dry-run") == 2
        assert said in capsys.readouterr().err
        spec_of(mine)


def checks_of(path: Path, text: str) -> dict[str, tuple[str, str]]:
    path.write_text(text)
    checks = itertools.takewhile(lambda c: c.entry == "term poly1", check_plugin(path, compiled=False))
    return {f"{c.entry}: {c.what}": (c.verdict, c.result) for c in checks}


def test_check_plugin_passes_a_sound_one_and_says_that_its_loss_is_compared_with_nothing(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("check-plugin", mine, "--no-compile", "--json") == 0
    found = {f"{c['entry']}: {c['what']}": c for c in json.loads(capsys.readouterr().out)}
    assert {c["verdict"] for c in found.values()} == {"passed", "left out"}
    assert found["term poly1: gradient, float64"]["result"] == "96 derivatives agree with finite differences"
    assert "compared with nothing" in found["term poly1: reference"]["result"]
    assert found["method poly1-srat: steps, bf16"]["verdict"] == "passed"
    assert "need a GPU" in found["method poly1-srat: steps, captured"]["result"] or torch.cuda.is_available()


REFERENCE = """
    def reference(self, batch):
        p = batch.logits.softmax(1)[range(len(batch.labels)), batch.labels]
        return 1 - p - p.log()
"""
WRONG_GRADIENT = """\
class Half(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient / 2


"""


@pytest.mark.parametrize(
    ("text", "check", "verdict", "said"),
    [
        (HEAD + BODY + REFERENCE + ROW, "reference", "passed", "value and gradient"),
        (HEAD + BODY + REFERENCE.replace("1 - p", "2 - p") + ROW, "reference", "failed", "from its own reference"),
        (HEAD + BODY + REFERENCE.replace("1 - p", "p.sum()") + ROW, "reference", "failed", "own reference"),
        (HEAD + "        return losses\n" + ROW, "scalar and finite", "failed",
         "mine.py, line 13: a scalar is needed, not torch.Size([12])"),
        (HEAD + "        import random\n        return losses.mean() * random.random()\n" + ROW, "repeated", "failed",
         "random numbers that are not torch's"),
        (HEAD + "        return losses @ torch.ones(len(losses)).to(losses)\n" + ROW, "device", "passed",
         "nothing waits for it"),
        (HEAD + "        return losses @ torch.ones(len(losses), dtype=losses.dtype)\n" + ROW, "device", "failed",
         "mine.py, line 15: RuntimeError: Tensor on device cpu is not on the expected device meta!"),
        (HEAD + "        return losses[batch.labels > -1].mean()\n" + ROW, "device", "left out", "it needs numbers of"),
        (HEAD + COUNTING + ROW, "repeated", "failed", "it changes its n, which no checkpoint has"),
        (HEAD + "        batch.model.linear.weight.data.mul_(0.9)\n        return losses.mean()\n" + ROW, "repeated",
         "failed", "line 13: it changes the network"),
        (HEAD + "        return losses.mean() * torch.rand(1)[0]\n" + ROW, "order of the batch", "left out",
         "draws random numbers"),
        (HEAD + "        return (losses.detach() * losses).mean()\n" + ROW, "gradient, float64", "left out",
         "finite differences see through what it detaches"),
        (HEAD + "        return (losses - losses).sqrt().mean()\n" + ROW, "gradient, float64", "failed",
         "line 13: a gradient is not finite"),
        (HEAD + "        return batch.model.linear.weight.square().mean()\n" + ROW, "gradient, float64", "passed",
         "agree with finite differences"),
        (HEAD + "        return batch.model.backbone.centres.mean()\n" + ROW, "scalar and finite", "left out",
         "it reads batch.model.backbone, which these toys have not"),
        (HEAD + "        return losses[0] + losses.mean()\n" + ROW, "order of the batch", "failed", "with the order"),
        (HEAD + "        return (batch.logits.exp().sum(1).exp()).mean()\n" + ROW, "scalar and finite", "failed",
         "inf on confident logits"),
        (HEAD + "        return losses.detach().mean()\n" + ROW, "gradient, float64", "failed",
         "no gradient; is it detached"),
        (HEAD + "        return undefined\n" + ROW, "scalar and finite", "failed",
         "mine.py, line 15: NameError: name 'undefined' is not defined"),
        (HEAD.replace("@term", WRONG_GRADIENT + "@term") + "        return Half.apply(losses).mean()\n" + ROW,
         "gradient, float64", "failed", "Jacobian mismatch"),
    ],
)  # fmt: skip
def test_check_plugin_finds(tmp_path: Path, text: str, check: str, verdict: str, said: str) -> None:
    found = checks_of(tmp_path / "mine.py", text)
    assert found[f"term poly1: {check}"][0] == verdict
    assert said in found[f"term poly1: {check}"][1]


def test_check_plugin_exits_with_1_where_a_check_fails(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine.write_text(HEAD + "        return losses\n" + ROW)
    assert command("check-plugin", mine, "--no-compile") == 1
    assert f"{mine}: 2 of 2 checks failed" in capsys.readouterr().out
    assert command("check-plugin", mine.with_name("none.py")) == 2


NETWORK = """\
from torch import nn

from srat_fast.registry import model


@model("flat")
class Flat(nn.Module):
    feature_dim = 64

    def __init__(self, channels, width):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def features(self, images):
"""


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("        return self.norm(images).flatten(1)[:, 1:]\n", 2,
         "--model (model.name) = 'flat': {path}, line 14: its features must be [B, 64] or [B, 64, h, w], not [1, 63]"),
        ("        return self.norm(images) @ undefined\n", 1,
         "{path}, line 15: NameError: name 'undefined' is not defined"),
    ],
)  # fmt: skip
def test_a_network_that_fails_is_one_line(
    mine: Path, tmp_path: Path, body: str, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mine.write_text(NETWORK + body)
    options = ["--plugin", mine, "--model", "flat", "--dataset", "digits", "--epochs", 1]
    assert command("train", *options, "--out", tmp_path / "run") == code
    assert capsys.readouterr().err == f"error: {said.format(path=mine)}\n"
    assert not (tmp_path / "run").exists()
    spec = mine.with_name("spec.toml")
    spec.write_text('plugin = ["mine.py"]\nrecipe = "digits"\n[base]\nmodel.name = "flat"\n')
    assert command("sweep", "run", spec, "--dry-run") == code
    assert f"{mine}, line 1" in capsys.readouterr().err
    found = {check.what: check for check in check_plugin(mine, compiled=False)}
    assert found["shapes"].verdict == "failed"
    assert f"{mine}, line 1" in found["shapes"].result


def test_check_plugin_on_networks_balls_and_inner_losses(mine: Path) -> None:
    mine.write_text(
        NETWORK + "        return self.norm(images).flatten(1)\n\n"
        "    def folds(self):\n        return [(nn.Conv2d(1, 1, 1), self.norm)]\n" + OTHERS
    )
    found = {f"{check.entry}: {check.what}": check for check in check_plugin(mine, compiled=False)}
    failed = {name: check.result for name, check in found.items() if check.verdict == "failed"}
    assert set(failed) == {
        "network flat: shapes",
        "threat wide: ball",
        "inner loss undeclared: steps, fp32",
    }
    assert "RuntimeError: an attack keeps logits only" in failed["inner loss undeclared: steps, fp32"]
    assert "mine.py, line 38: " in failed["inner loss undeclared: steps, fp32"]
    assert found["inner loss apart: steps, bf16"].verdict == "passed"
    assert "not [16, 192]" in failed["network flat: shapes"], "it knows grey 8x8 images only"
    assert "outside of the ball" in failed["threat wide: ball"]
    assert found["threat wide: step"].verdict == "passed"
    assert found["threat wide: steps, fp32"].verdict == "passed"
    assert found["inner loss entropy: steps, bf16"].verdict == "passed"


OTHERS = """

from srat_fast.attacks.threat import LInfBall
from srat_fast.registry import inner, threat


@threat("wide")
class Wide(LInfBall):
    def noise(self, clean, generator):
        return LInfBall(2 * self.epsilon).noise(clean, generator)


@inner("entropy")
def entropy(batch):
    return -(batch.logits.softmax(1) * batch.logits.log_softmax(1)).sum(1).mean()


@inner("undeclared")
def undeclared(batch):
    return batch.separable.sum()


@inner("apart")
def apart(batch):
    return entropy(batch) + batch.separable.sum() + batch.features.sum()


apart.features = True
"""


FOLDING = """\
from torch import nn

from srat_fast.registry import model


@model("pairs")
class Pairs(nn.Module):
    def __init__(self, channels, width):
        super().__init__()
        self.feature_dim = width
        self.first, self.second = nn.Conv2d(channels, width, 3, bias=False), nn.Conv2d(width, width, 3, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def features(self, images):
        return self.norm(self.second(self.first(images)))

    def folds(self):
        return [(self.second, self.norm)]
"""


def test_weights_that_only_a_term_trains_are_no_fault(mine: Path) -> None:
    mine.write_text(
        FOLDING.replace("self.feature_dim = width", "self.feature_dim, self.own = width, nn.Linear(2, 2)")
    )
    assert (
        next(c for c in check_plugin(mine, compiled=False) if c.what == "bf16, gradients").verdict == "failed"
    )
    other = mine.with_name("other.py")
    other.write_text(mine.read_text().replace("pairs", "others") + SOUND)
    found = next(c for c in check_plugin(other, compiled=False) if c.what == "bf16, gradients")
    assert found.verdict == "passed"
    assert found.result.endswith("but backbone.own.weight, backbone.own.bias, which is left to terms")


@pytest.mark.parametrize(
    ("text", "verdict", "said"),
    [
        (FOLDING, "passed", "1 pairs"),
        (FOLDING.replace("(self.second, self.norm)]", "(self.first, self.norm)]"), "failed", "1 of 1 pairs are not"),
        (FOLDING.replace("(self.second, self.norm)]", "(nn.Conv2d(1, 1, 1), self.norm)]"), "failed", "are not the"),
    ],
)  # fmt: skip
def test_check_plugin_looks_at_the_pairs_that_are_folded(
    mine: Path, text: str, verdict: str, said: str
) -> None:
    mine.write_text(text)
    found = next(check for check in check_plugin(mine, compiled=False) if check.what == "folding")
    assert found.verdict == verdict
    assert said in found.result
