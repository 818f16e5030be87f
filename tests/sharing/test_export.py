"""srat-fast export: independent readers give the run's logits, the card's lines run as printed, failures leave none."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch

import srat_fast
from srat_fast.cli import main
from srat_fast.errors import ExportFailure, UserError
from srat_fast.models.classifier import Classifier
from srat_fast.sharing.export import export
from srat_fast.sharing.zoo import check_zoo
from tests.sharing import zoo
from tests.sharing.conftest import QUICK


def images_of(run: Path, batch: int = 5) -> torch.Tensor:
    shape = (batch, 1, 8, 8) if "digits" in str(run) else (batch, 3, 32, 32)
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def snippets(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)\n```", card, re.S)


@pytest.mark.parametrize("name", ["full_run", "normalised_run"])
def test_the_zoo_s_class_loads_it_strictly(name, request, tmp_path) -> None:
    run = request.getfixturevalue(name)
    export(run, "robustbench", out=tmp_path / "out")
    state = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    assert not [n for n in state if n.startswith(("module.", "_orig_mod.", "projection."))]
    model = zoo.ResNet(zoo.BasicBlock, [2, 2, 2, 2], num_classes=2)
    if name == "normalised_run":
        with pytest.raises(RuntimeError, match="mu"):
            model.load_state_dict(state, strict=True)
        model = zoo.Modas2021PRIMEResNet18(num_classes=2)
    model.load_state_dict(state, strict=True)
    images = images_of(run)
    with torch.no_grad():
        expected, found = srat_fast.load(run)(images), model.eval()(images)
    assert (expected - found).abs().max() <= 1e-5
    assert expected.std(dim=0).max() > 1e-3, "logits that do not vary would prove nothing"


def run_snippets(folder: Path, run: Path, monkeypatch) -> int:
    """Execute the card's lines beside its files, for one image and for several; how many there were."""
    lines = snippets((folder / "MODEL_CARD.md").read_text())
    expected = srat_fast.load(run)
    monkeypatch.chdir(folder)
    for text in lines:
        assert len(text.splitlines()) <= 4  # three to load, one to use
        for batch in (1, 5):
            images = images_of(run, batch)
            names = {"images": images}
            exec(text, names)
            logits = expected(images).detach()
            difference = (torch.as_tensor(names["logits"]) - logits).abs().max()
            assert difference <= 1e-5 * max(1.0, float(logits.abs().max())), text
    return len(lines)


def test_the_card_s_lines_load_each_format(digits_export, digits_run, monkeypatch) -> None:
    assert run_snippets(digits_export, digits_run, monkeypatch) == 3


@pytest.mark.parametrize("name", ["full_run", "normalised_run", "wide_run"])
def test_the_card_s_lines_load_the_zoo_s_class(name, request, tmp_path, monkeypatch) -> None:
    run = request.getfixturevalue(name)
    export(run, "robustbench", out=tmp_path / "out")
    resnet = types.ModuleType("resnet")
    resnet.ResNet, resnet.BasicBlock = zoo.ResNet, zoo.BasicBlock
    parts = ("robustbench", "robustbench.model_zoo", "robustbench.model_zoo.architectures")
    for module in parts:
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    monkeypatch.setitem(sys.modules, f"{parts[2]}.resnet", resnet)
    monkeypatch.setitem(sys.modules, f"{parts[2]}.wide_resnet", zoo)
    monkeypatch.setitem(sys.modules, f"{parts[1]}.cifar10", zoo)
    assert run_snippets(tmp_path / "out", run, monkeypatch) == 1


def test_what_the_zoo_has_no_class_for_is_refused() -> None:
    def refused(name: str, size: int = 32, **arguments) -> str:
        with pytest.raises(UserError) as error:
            check_zoo(Classifier(name, **arguments), size)
        return error.value.line()

    moments = {"mean": torch.zeros(3), "std": torch.ones(3)}
    for name, classes in (("resnet34", 10), ("wrn-28-10", 2), ("preactresnet18", 7)):
        line = refused(name, classes=classes, **moments)
        assert f"RobustBench's {name} needs model.normalize = none with {classes} classes" in line
    assert "model.width = 64 or another that makes a whole k, this run has 5" in refused(
        "wrn-28-10", classes=10, width=5
    )
    assert "images of 29 to 32 pixels, this run's have 28" in refused("wrn-28-10", 28, classes=10, width=32)
    assert "resnet18 needs model.head = linear, this run has cosine" in refused(
        "resnet18", classes=10, head="cosine"
    )
    check_zoo(Classifier("wrn-28-10", 100, width=32, **moments), 32)
    check_zoo(Classifier("resnet18", 7, **moments), 28)


def test_published_files_name_no_path_of_this_machine(
    digits_export, digits_run, full_run, photographs, tmp_path
) -> None:
    export(full_run, "robustbench", out=tmp_path / "b")
    for file in [*digits_export.iterdir(), *(tmp_path / "b").iterdir()]:
        content = file.read_bytes()
        for path in (Path(srat_fast.__file__).parent, digits_run, photographs, sys.prefix):
            assert str(path).encode() not in content, file.name


def test_the_card_states_what_the_record_holds(digits_run, tmp_path) -> None:
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    card = tmp_path / "run/export/MODEL_CARD.md"
    record = json.loads((run / "record.json").read_text())
    export(run)
    text = card.read_text()
    assert "Not audited" in text
    assert record["data_checksum"] in text
    assert f"| clean | 500 | {100 * record['standard']['overall']:.2f} |" in text
    for name, count in zip(record["classes"], record["counts"], strict=True):
        assert f"| {name} | {count} |" in text
    assert "| training images | clean |" in text
    record["audit"] = {"verdict": "suspicious", "problems": ["more steps lower it by 12 points"],
                       "not_run": ["autoattack"]}  # fmt: skip
    entry = {"clean": record["standard"], "pgd-100": record["robust"] | {"images": 500, "epsilon": 0.1}}
    record["evaluations"] = [
        {"attacks": entry, "same_data": True},
        {"attacks": {"pgd-7": entry["pgd-100"]}, "same_data": None},
    ]
    (run / "record.json").write_text(json.dumps(record))
    export(run)
    text = card.read_text()
    assert "Verdict: **suspicious**" in text
    assert "more steps lower it by 12 points" in text
    assert "pgd-100, eps 0.1 (evaluated later)" in text
    assert "pgd-7" not in text, "an accuracy on a subset stands on no card"
    assert "- not run: autoattack" in text
    export(run, weights="ema", out=tmp_path / "ema")
    text = (tmp_path / "ema/MODEL_CARD.md").read_text()
    assert "the moving average of the weights" in text
    assert f"| clean | 500 | {100 * record['ema']['standard']['overall']:.2f} |" in text
    assert "Not audited" in text, "a verdict on other weights says nothing of these"
    record["ema"]["audit"] = {"verdict": "reliable", "problems": []}
    (run / "record.json").write_text(json.dumps(record))
    export(run, weights="ema", out=tmp_path / "ema")
    assert "Verdict: **reliable**" in (tmp_path / "ema/MODEL_CARD.md").read_text()
    torch.testing.assert_close(
        srat_fast.load(tmp_path / "ema")(images_of(digits_run)),
        srat_fast.load(run, weights="ema")(images_of(digits_run)),
        rtol=0,
        atol=0,
    )


def test_a_cosine_head_and_its_adjustment_are_exported(tmp_path) -> None:
    """RoBal's inference: s cos - tau ln pi, in the weights themselves; `export` compares each file with the run."""
    settings = QUICK | {
        "data.name": "digits", "model.width": 4, "model.head": "cosine", "model.head_gamma": 1 / 32,
        "model.inference_scale": 10.0, "model.inference_prior": 0.1,
    }  # fmt: skip
    srat_fast.train(srat_fast.build_recipe(None, settings), tmp_path / "run")
    made = export(tmp_path / "run", "safetensors,torch-export,onnx", out=tmp_path / "out")
    assert max(file["difference"] for file in made["files"]) <= 1e-5
    head = srat_fast.load(tmp_path / "out").linear
    counts = torch.tensor(json.loads((tmp_path / "run/record.json").read_text())["counts"])
    assert head.scale == 10.0
    assert torch.allclose(head.shift, -0.1 * (counts / counts.sum()).log())
    text = (tmp_path / "out/MODEL_CARD.md").read_text()
    assert "| last layer | cosine, scale 1, gamma 0.03125 |" in text
    assert "| after training, in these weights | cosines times 10; z_c - 0.1 ln(n_c / N) |" in text


def test_an_export_is_replaced_as_a_whole(digits_run, digits_export, tmp_path) -> None:
    out = tmp_path / "out"
    shutil.copytree(digits_export, out)
    export(digits_run, "safetensors", out=out)
    assert {p.name for p in out.iterdir()} == {"MODEL_CARD.md", "recipe.toml", "model.safetensors"}
    again = srat_fast.build_recipe(str(out / "recipe.toml")).resolve()
    assert again.method == "srat-ce"


@pytest.mark.parametrize(
    ("name", "before"),
    [("safetensors", True), ("robustbench", False), ("torch-export", True), ("onnx", False)],
)
def test_a_file_that_differs_is_not_left(name, before, full_run, digits_run, tmp_path, monkeypatch) -> None:
    """The weights change between writing and reading back, as a broken exporter's would."""
    import dataclasses

    from srat_fast.sharing import formats

    run = full_run if name == "robustbench" else digits_run
    out = tmp_path / "deep/out"
    if before:
        export(run, "safetensors", out=out)
    held = {p.name: p.read_bytes() for p in out.iterdir()} if before else {}
    chosen = formats.FORMATS[name]

    def content(source) -> bytes:
        other = srat_fast.load(run)
        with torch.no_grad():
            other.linear.bias[0] += 1e-4
        return chosen.content(dataclasses.replace(source, model=other))

    monkeypatch.setitem(formats.FORMATS, name, dataclasses.replace(chosen, content=content))
    with pytest.raises(ExportFailure, match=f"{name}: logits differ from the run's by"):
        export(run, name, out=out)
    if before:
        assert {p.name: p.read_bytes() for p in out.iterdir()} == held
    else:
        assert list(tmp_path.iterdir()) == []


def test_a_killed_export_is_not_in_the_way_of_the_next(digits_run, tmp_path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "srat_fast", "export", str(digits_run), "--format", "torch-export"]
    process = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL)
    while process.poll() is None and not list(out.glob(".export.*")):
        time.sleep(0.01)
    process.kill()
    assert process.wait() != 0, "it was over before it was killed"
    assert [path.name for path in out.iterdir() if not path.name.startswith(".export.")] == []
    export(digits_run, out=out)
    assert {p.name for p in out.iterdir()} == {"MODEL_CARD.md", "recipe.toml", "model.safetensors"}


@pytest.mark.parametrize("name", ["safetensors", "torch-export", "robustbench", "onnx"])
def test_a_full_disk_is_one_line_and_leaves_nothing(name, digits_run, full_run, disk_of) -> None:
    run = full_run if name == "robustbench" else digits_run
    disk = disk_of("64k")
    with pytest.raises(UserError, match=r"--out = .*: cannot be written: No space left on device"):
        export(run, name, out=disk / "out")
    assert list(disk.iterdir()) == []


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


def test_the_command(digits_run, tmp_path, capsys) -> None:
    code, out, err = call(
        capsys, "export", str(digits_run), "--format", "torch-export", "--out", str(tmp_path / "e")
    )
    assert (code, err) == (0, "")
    assert "model.pt2" in out
    options = ("--format", "safetensors", "--no-real-batch", "--json", "--weights", "best")
    code, out, _ = call(capsys, "export", str(digits_run), *options, "--out", str(tmp_path / "e"))
    assert code == 0
    result = json.loads(out)
    assert result["same_data"] is None
    assert result["files"][0]["difference"] == 0
    card = (tmp_path / "e/MODEL_CARD.md").read_text()
    assert "the best epoch by validation" in card
    assert "on random batches" in card


BAD = [
    (["--format", "tensorflow"], "--format = 'tensorflow': all, or some of robustbench, safetensors"),
    (["--format", "robustbench"], "model.width = 64, this run has 4; images with 3 channels"),
    (["--weights", "first"], "weights = 'first': one of last, best, ema"),
    (["--out", "file"], "--out = 'file': is not a directory"),
    (["--out", "full"], "--out = 'full': is not empty and holds no earlier export"),
    (["--out", "file/below"], "--out = 'file/below': cannot be written"),
]


@pytest.mark.parametrize(("arguments", "says"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_input_is_one_line_and_code_2(arguments, says, digits_run, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("years of work")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = call(capsys, "export", str(digits_run), *arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_missing_onnx_is_said_before_any_work(digits_run, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'srat-fast\[onnx\]'"):
        export(digits_run, "onnx", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images_that_are_gone_are_named(full_run, tmp_path) -> None:
    with pytest.raises(UserError, match=r"data\.root"):
        export(full_run, out=tmp_path / "out", changes={"data.root": str(tmp_path / "gone")})
    assert not (tmp_path / "out").exists()
    assert (
        export(
            full_run, out=tmp_path / "out", changes={"data.root": str(tmp_path / "gone")}, real_batch=False
        )["same_data"]
        is None
    )
