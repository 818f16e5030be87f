"""`data prepare`, and `--loader ffcv` from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import pytest
import safetensors.torch
import torch

import srat_fast.data
from srat_fast import TrainingFailure, train
from srat_fast.cli import main
from srat_fast.errors import Interrupted
from tests.tiny import tiny_recipe
from tests.training.short_runs import StopAfter

#: All 503 images: several batches an epoch.
WHOLE = {"data.limit": None, "run.deterministic": True}


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


@pytest.fixture(autouse=True)
def in_a_fresh_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SRAT_FAST_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("ffcv")
@pytest.mark.parametrize("augment", ["crop", "resized-crop"])
def test_both_loaders_train_the_same_weights(tmp_path, augment) -> None:
    records = {}
    for loader in ("memory", "ffcv"):
        recipe = tiny_recipe(WHOLE, data__loader=loader, data__augment=augment)
        records[loader] = train(recipe, tmp_path / loader)
    weights = [safetensors.torch.load_file(tmp_path / loader / "model.safetensors") for loader in records]
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
    assert set(records["memory"]) == set(records["ffcv"])
    for name in ("fingerprint", "robust", "standard", "counts", "data_checksum"):
        assert records["memory"][name] == records["ffcv"][name]
    assert records["ffcv"]["recipe"]["data"]["loader"] == "ffcv"
    assert len(list((tmp_path / "cache" / "beton").glob("*.beton"))) == 1  # training images only


@pytest.mark.usefixtures("ffcv")
def test_a_run_stopped_in_an_epoch_goes_on_with_either_loader(tmp_path) -> None:
    recipes = {name: tiny_recipe(WHOLE, data__loader=name) for name in ("memory", "ffcv")}
    train(recipes["memory"], tmp_path / "whole")
    whole = safetensors.torch.load_file(tmp_path / "whole" / "model.safetensors")
    for second in recipes:
        out = tmp_path / second
        with pytest.raises(Interrupted):
            train(recipes["ffcv"], out, stops=StopAfter(3))
        train(recipes[second], out, resume="must")
        weights = safetensors.torch.load_file(out / "model.safetensors")
        torch.testing.assert_close(whole, weights, rtol=0, atol=0)


@pytest.mark.usefixtures("ffcv")
def test_a_run_that_fails_leaves_no_thread(tmp_path) -> None:
    recipe = tiny_recipe(data__loader="ffcv", optim__lr=1e30, optim__warmup_epochs=0, optim__batch_size=16)
    with pytest.raises(TrainingFailure):
        train(recipe, tmp_path / "run")
    assert [t for t in threading.enumerate() if type(t).__name__ == "_Epoch"] == []


@pytest.mark.usefixtures("ffcv")
def test_more_workers_than_threads_are_refused(capsys, tmp_path) -> None:
    code, _, err = call(capsys, "train", "--dataset", "digits", "--loader", "ffcv", "--set", "data.workers=5000",
                        "--device", "cpu", "--out", "run")  # fmt: skip
    assert code == 2
    assert err.startswith("error: data.workers = 5000: at most ")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("ffcv")
def test_prepare_writes_what_training_then_reads(capsys, tmp_path) -> None:
    options = ["--dataset", "digits", "--imbalance", "exp", "--ratio", "20", "--out", "betons"]
    code, out, err = call(capsys, "data", "prepare", *options, "--json")
    assert (code, err) == (0, "")
    content = json.loads(out)
    assert content["total"] == sum(content["counts"]) == content["files"][0]["images"]
    assert [file["part"] for file in content["files"]] == ["train", "test"]
    assert content["files"][1]["images"] == 500
    for file in content["files"]:
        assert (tmp_path / file["path"]).stat().st_size == file["bytes"]
        assert file["sha256"] in (tmp_path / f"{file['path']}.sha256").read_text()
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "betons").iterdir()}
    changes = {"data.ratio": 20, "data.loader": "ffcv", "data.prepared": "betons", "optim.epochs": 1}
    record = train(tiny_recipe(changes, data__limit=None, data__test_limit=None), tmp_path / "run")
    assert record["counts"] == content["counts"]
    assert record["data_checksum"] == content["data_checksum"]
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "betons").iterdir()} == before
    code, out, _ = call(capsys, "data", "prepare", *options)
    assert code == 0
    assert content["files"][0]["sha256"] in out
    assert content["files"][1]["path"] in out


@pytest.mark.usefixtures("ffcv")
@pytest.mark.parametrize("augment", ["crop", "resized-crop"])
def test_a_folder_of_jpeg_from_prepare_to_record(capsys, image_folder, tmp_path, augment) -> None:
    stored = ["--dataset", "folder", "--data-root", str(image_folder), "--imbalance", "none",
              "--set", "data.storage=jpeg", "--set", "data.image_size=16"]  # fmt: skip
    code, out, _ = call(capsys, "data", "prepare", *stored, "--json")
    assert code == 0
    assert json.loads(out)["storage"] == "jpeg"
    files = sorted((tmp_path / "cache" / "beton").iterdir())
    code, _, err = call(
        capsys, "train", *stored, "--loader", "ffcv", "--recipe", "smoke", "--epochs", "2", "--device", "cpu",
        "--set", f"data.augment={augment}", "--set", "model.normalize=dataset", "--out", "run",
    )  # fmt: skip
    assert (code, err) == (0, "")
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["counts"] == [6, 6]
    assert record["recipe"]["data"]["max_side"] == 32
    assert sorted((tmp_path / "cache" / "beton").iterdir()) == files  # nothing was made a second time


def test_prepare_for_the_memory_loader_needs_no_ffcv(capsys, tmp_path) -> None:
    code, out, _ = call(capsys, "data", "prepare", "--dataset", "digits", "--loader", "memory", "--json")
    assert code == 0
    content = json.loads(out)
    assert [file["images"] for file in content["files"]] == [503, 500]
    assert not (tmp_path / "cache").exists()


FIELDS = [
    (
        ["--set", "data.storage=jpeg", "--dataset", "digits"],
        "data.storage = 'jpeg': the images of digits are kept raw",
    ),
    (["--set", "data.max_side=64"], "data.max_side = 64: has an effect with data.storage = jpeg only"),
    (
        ["--set", "data.jpeg_quality=80"],
        "data.jpeg_quality = 80: has an effect with data.storage = jpeg only",
    ),
    (["--set", "data.jpeg_quality=101"], "data.jpeg_quality = '101': an integer >= 1 and <= 100"),
    (
        ["--set", "data.crop_area=0.5"],
        "data.crop_area = 0.5: has an effect with data.augment = resized-crop only",
    ),
    (
        ["--set", "data.augment=resized-crop", "--set", "data.crop_padding=4"],
        "data.crop_padding = 4: has an effect",
    ),
    (
        ["--set", "data.policy=randaugment", "--loader", "ffcv"],
        "data.policy = 'randaugment': only --loader memory has it",
    ),
    (["--set", "data.augment=mixup"], "data.augment = 'mixup': one of crop, resized-crop"),
]


@pytest.mark.parametrize(("options", "says"), FIELDS, ids=[" ".join(o) for o, _ in FIELDS])
@pytest.mark.parametrize("command", [["train"], ["data", "prepare"]], ids=["train", "prepare"])
def test_what_does_not_go_together_is_one_line(capsys, tmp_path, command, options, says) -> None:
    code, out, err = call(capsys, *command, *options)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {says}")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["--dataset", "folder", "--set", "data.storage=jpeg"],
            "data.storage = 'jpeg': stored JPEG is read by",
        ),
        (["--set", "data.workers=2"], "data.workers = 2: has an effect with data.loader = ffcv only"),
        (["--set", "data.prepared=x"], "data.prepared = 'x': has an effect with data.loader = ffcv only"),
        (
            [
                "--loader",
                "ffcv",
                "--dataset",
                "folder",
                "--set",
                "data.storage=jpeg",
                "--set",
                "data.max_side=16",
            ],
            "data.max_side = 16: at least data.image_size = 32",
        ),
    ],
)
def test_training_refuses_what_the_loader_does_not_read(capsys, options, says) -> None:
    code, _, err = call(capsys, "train", *options)
    assert code == 2
    assert err.startswith(f"error: {says}")


def hide(monkeypatch, package: str) -> None:
    """As where a package is not installed, also if this process has imported it."""
    for name in {package, *(name for name in sys.modules if name.startswith(f"{package}."))}:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "srat_fast.data.ffcv_library", raising=False)
    monkeypatch.delattr(srat_fast.data, "ffcv_library", raising=False)


@pytest.mark.parametrize(
    ("package", "command"), [("ffcv", ["train", "--out", "run"]), ("numba", ["data", "prepare"])]
)
def test_without_ffcv_one_line_says_how_to_install_it(
    capsys, monkeypatch, tmp_path, command, package
) -> None:
    if package != "ffcv":
        pytest.importorskip("ffcv")
    hide(monkeypatch, package)
    code, out, err = call(capsys, *command, "--dataset", "digits", "--loader", "ffcv")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith(f"error: --loader ffcv needs the package {package}")
    assert "which is not installed: bash .ci/ffcv" in err
    assert list(tmp_path.iterdir()) == []


def test_without_ffcv_the_memory_loader_trains(monkeypatch, tmp_path) -> None:
    hide(monkeypatch, "ffcv")
    train(tiny_recipe(method="natural", optim__epochs=1), tmp_path / "run")


def test_ffcv_is_imported_only_when_asked_for() -> None:
    code = "import sys, srat_fast.data.beton, srat_fast.data.ffcv_loader, srat_fast.data.loaders; " \
           "sys.exit(any(name in sys.modules for name in ('ffcv', 'numba', 'cv2')))"  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
