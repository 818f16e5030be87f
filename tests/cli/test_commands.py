"""The command line: every command's answer, and one line with exit code 2 for every bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from srat_fast.cli import main
from srat_fast.data.archives import CIFAR
from srat_fast.data.prepared import location
from srat_fast.data.sources import prepared_key
from srat_fast.methods import METHODS

FAST = [
    "--dataset",
    "digits",
    "--epochs",
    "1",
    "--method",
    "natural",
    "--device",
    "cpu",
    "--set",
    "model.width=4",
]


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command."""
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


@pytest.fixture(autouse=True)
def in_a_fresh_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SRAT_FAST_CACHE", str(tmp_path / "cache"))


BAD = [
    (["train", "--method", "sratt"], "--method (method) = 'sratt': one of natural, ce"),
    (["train", "--method", "srat-ldm"], "; did you mean srat-ldam?"),
    (["train", "--method", "srat"], "; did you mean srat-ce, srat-focal, srat-ldam or srat:<name>?"),
    (["train", "--set", "lr=1"], "lr = '1': is not a recipe field; did you mean optim.lr or stages.lr?"),
    (["train", "--set", "attack.eps=1"], "; did you mean attack.epsilon?"),
    (["train", "--recipe", "old"], "or .json; did you mean old/recipe.json?"),
    (
        ["train", "--dataset", "digits", "--imbalance", "none", "--ratio", "10"],
        "--ratio (data.ratio) = 10.0: has no effect with --imbalance none",
    ),
    (
        ["sweep", "stauts", "x"],
        "SPEC = 'stauts': is neither a spec nor a command of sweep; did you mean status?",
    ),
    (["train", "--dataset", "svnh"], "npz, arrays; did you mean svhn?"),
    (["train", "--recipe", "smok"], "or a file ending in .toml or .json; did you mean smoke?"),
    (["train", "--dataset", "npz"], "--data-root (data.root) = 'data': "),
    (["train", "--dataset", "mnist"], "--dataset (data.name) = 'mnist': one of cifar10"),
    (
        ["train", "--set", "optim.epohcs=3"],
        "optim.epohcs = '3': is not a recipe field; did you mean optim.epochs?",
    ),
    (["train", "--set", "epochs"], "--set = 'epochs': section.field=value is needed"),
    (["train", "--ratio", "0.5"], "--ratio (data.ratio) = '0.5': a number >= 1"),
    (["train", "--epochs", "0"], "--epochs (optim.epochs) = '0': an integer >= 1"),
    (["train", "--epochs", "ten"], "--epochs (optim.epochs) = 'ten': an integer >= 1"),
    (["train", "--batch-size", "0"], "--batch-size (optim.batch_size) = '0': an integer >= 1"),
    (["train", "--set", "attack.epsilon=0"], "attack.epsilon = '0': a number > 0 and <= 400"),
    (
        ["train", "--set", "attack.epsilon=1.01"],
        "attack.epsilon = 1.01: a number > 0 and <= 1 with threat = linf",
    ),
    (
        ["train", "--dataset", "digits", "--ratio", "1000"],
        "--ratio (data.ratio) = 1000.0: class 7 would have no images",
    ),
    (
        ["train", "--dataset", "folder", "--data-root", "nowhere"],
        "--data-root (data.root) = 'nowhere': is not a dir",
    ),
    (["train", "--dataset", "digits", "--out", "file/run"], "--out = 'file/run': cannot be written"),
    (["train", "--dataset", "digits", "--out", "old"], "--out = 'old': already holds a run"),
    (["train", "--imbalance", "linear"], "--imbalance (data.imbalance) = 'linear': one of none, exp, step"),
    (
        ["train", "--recipe", "papr"],
        "--recipe = 'papr': one of paper, smoke, digits, or a file ending in .toml or .json",
    ),
    (["train", "--precision", "fp8"], "--precision (run.precision) = 'fp8': one of auto, bf16, fp32"),
    (
        ["train", "--engine", "reference", "--precision", "bf16"],
        "--precision (run.precision) = 'bf16': the reference",
    ),
    (["train", "--loader", "disk"], "--loader (data.loader) = 'disk': one of memory, ffcv"),
    (
        ["train", "--set", "data.test_limit=0"],
        "error: data.test_limit = '0': an integer >= 1",  # --subset is an option of other commands
    ),
    (
        ["train", "--engine", "reference", "--set", "run.compile=on"],
        "error: run.compile = 'on': the reference engine is eager",
    ),
    (["data", "prepare", "--jpeg-quality", "0"], "--jpeg-quality: data.jpeg_quality = '0': an integer"),
    (
        ["train", "--out", os.fsdecode(b"runs/caf\xe9")],
        "error: argument = b'runs/caf\\xe9': is not UTF-8; rename it",
    ),
    (
        ["data", "show", "folder", "--data-root", os.fsdecode(b"caf\xe9")],
        "b'caf\\xe9': is not UTF-8; rename it",
    ),
    (["data", "show", "npz", "--data-root", "~nobody-here/x"], "there is no such home directory"),
    (["train", "--no-such-option"], "No such option: --no-such-option"),
    (["train", "--epochs"], "Option '--epochs' requires an argument"),
    (["trian"], "No such command 'trian'"),
    (["evaluate", "nowhere"], "RUN = 'nowhere': is not a finished run: it does not exist"),
    (["evaluate", "."], "RUN = '.': is not a finished run: it holds runs, such as old"),
    (["report", "nowhere"], "DIR = 'nowhere': is not a directory"),
    (["data", "show", "imagenet"], "--dataset (data.name) = 'imagenet': one of cifar10"),
    (
        ["data", "show", "cifar10", "--ratio", "6000"],
        "--ratio (data.ratio) = 6000.0: class 9 would have no images",
    ),
    (["data", "show", "npz", "--data-root", "nowhere"], "--data-root (data.root) = 'nowhere': is not there"),
    (["data", "show", "arrays"], "--dataset (data.name) = 'arrays': images in memory come through"),
    (
        ["data", "show", "cifar10", "--figure", "bars.jpg"],
        "--figure = 'bars.jpg': a file name that ends in .svg",
    ),
    (["data", "show", "digits", "--samples", "page"], "--samples = 'page': a file name that ends in .svg"),
    (
        ["data", "show", "digits", "--figure", "file/bars.svg"],
        "--figure = 'file/bars.svg': cannot be written",
    ),
    (["data", "show", "digits", "--per-class", "0"], "Invalid value for '--per-class'"),
    (
        ["train", "--dataset", "cifar10", "--mirror", "mirror.org"],
        "--mirror (data.mirror) = 'mirror.org': a base URL is needed",
    ),
    (
        ["train", "--dataset", "arrays"],
        "--dataset (data.name) = 'arrays': images in memory come through srat_fast.train",
    ),
    (["train", "--dataset", "npz", "--data-root", "file"], "--data-root (data.root) = 'file': "),
    (
        ["data", "show", "folder", "--data-root", "nowhere"],
        "--data-root (data.root) = 'nowhere': is not a directory",
    ),
]


@pytest.mark.parametrize(("arguments", "says"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_input_is_one_line_and_code_2(arguments, says, capsys, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way of a directory")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "recipe.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = call(capsys, *arguments)
    assert code == 2
    assert err.startswith("error: ")
    assert says in err
    assert err.count("\n") == 1
    assert out == ""
    assert sorted(tmp_path.rglob("*")) == before, "something half-written is left"


def test_help_has_meaning_choices_and_default_of_the_fields(capsys) -> None:
    _, out, _ = call(capsys, "train", "--help")
    out = " ".join(out.split())
    assert f"another method of the field: {', '.join(list(METHODS)[:-1])} or" in out.replace("- ", "-")
    assert "Imbalance ratio K = largest / smallest class. [default: (100; digits 10)]" in out
    assert "[default: (200; digits 80)]" in out
    assert "--deterministic Bit-equal weights for equal seeds on one machine. [default: (off)]" in out


def test_cuda_without_cuda(capsys, monkeypatch, tmp_path) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, err = call(capsys, "train", "--dataset", "digits", "--device", "cuda")
    assert code == 2
    assert (
        "--device (run.device) = 'cuda': this machine has no CUDA device that torch can use; cpu or auto"
        in err
    )
    assert list(tmp_path.iterdir()) == []


def test_a_corrupt_image_is_named(capsys, image_folder, tmp_path) -> None:
    victim = image_folder / "train" / "cat" / "2.bmp"
    victim.write_bytes(b"")
    code, _, err = call(capsys, "train", "--dataset", "folder", "--data-root", str(image_folder), "--imbalance", "none",
                        "--device", "cpu")  # fmt: skip
    assert code == 2
    assert f"'{victim}': is empty" in err
    assert {p.name for p in tmp_path.iterdir()} == {"images"}


def test_memory_that_ran_out_is_one_line(capsys, monkeypatch) -> None:
    def full(*_, **__) -> None:
        raise MemoryError("Unable to allocate 4.37 TiB")

    monkeypatch.setattr("srat_fast.data.plan.base_counts", full)
    assert call(capsys, "data", "show", "digits") == (
        1,
        "",
        "error: out of memory: Unable to allocate 4.37 TiB\n",
    )


def test_no_traceback_from_the_real_program() -> None:
    command = [sys.executable, "-m", "srat_fast", "train", "--epochs", "0"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr == "error: --epochs (optim.epochs) = '0': an integer >= 1\n"


def test_train_evaluate_report(capsys, tmp_path) -> None:
    code, out, err = call(
        capsys, "train", *FAST, "--out", "runs/a", "--set", "eval_attack.steps=2", "--deterministic"
    )
    assert (code, err) == (0, "")
    assert (
        "natural on digits (exp 10: 503 images, 10 classes), resnet18 of width 4, L-inf eps 0.1, 1 epochs"
        in out
    )
    assert "| clean " in out
    assert "| pgd-2 (eps 0.1) |" in out
    record = json.loads((tmp_path / "runs/a/record.json").read_text())
    assert record["recipe"]["run"]["deterministic"] is True
    code, out, _ = call(capsys, "evaluate", "runs/a", "--attack", "clean,pgd-2", "--json", "--device", "cpu")
    assert code == 0
    assert json.loads(out)["clean"]["overall"] == record["standard"]["overall"]
    code, out, _ = call(
        capsys, "evaluate", "runs/a", "--attack", "pgd-1", "--subset", "20", "--epsilon", "4/255"
    )
    assert code == 0
    assert "| pgd-1 eps 4/255 " in out
    assert "20 of 500 test images; audit of this run: not audited" in out
    last = json.loads((tmp_path / "runs/a/record.json").read_text())["evaluations"][-1]["attacks"]["pgd-1"]
    assert (last["images"], last["epsilon"]) == (20, 4 / 255)
    code, out, _ = call(capsys, "report", "runs")
    assert code == 0
    assert "| natural | 0 " in out
    assert f"{100 * record['robust']['under']:.2f}" in out
    assert " figures of the paper need other runs" in out


def test_a_run_names_its_own_directory(capsys, tmp_path) -> None:
    assert call(capsys, "train", *FAST)[0] == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("digits-exp-10-natural-seed0-")
    code, _, err = call(capsys, "train", *FAST)
    assert code == 2
    assert "already holds a run" in err


def test_train_on_ones_own_images(capsys, image_folder, tmp_path) -> None:
    code, _, err = call(
        capsys, "train", "--dataset", "folder", "--data-root", str(image_folder), "--imbalance", "none",
        "--recipe", "smoke", "--epochs", "3", "--device", "cpu", "--set", "data.image_size=16", "--out", "r",
    )  # fmt: skip
    assert code == 0
    decoded, warning = err.splitlines()
    assert decoded.startswith(f"decoded 18 images of {image_folder} in ")
    assert warning == f"warning: {image_folder}: 6 of 18 images converted to RGB: 2 RGBA, 4 grayscale"
    record = json.loads((tmp_path / "r" / "record.json").read_text())
    assert record["classes"] == ["cat", "dog"]
    assert record["counts"] == [6, 6]


def test_data_show(capsys) -> None:
    code, out, _ = call(capsys, "data", "show", "cifar10", "--imbalance", "exp", "--ratio", "100", "--json")
    assert code == 0
    content = json.loads(out)
    assert content["counts"] == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert (content["total"], content["imbalance"], content["ratio"]) == (12406, "exp", 100.0)
    assert content["classes"][9] == "truck"
    code, out, _ = call(capsys, "data", "show", "cifar10")
    assert "78.89" in out
    assert "12406 images, exp, ratio 100" in out


def test_data_show_says_what_the_imbalance_reduces(capsys) -> None:
    svhn = ("data", "show", "svhn", "--ratio", "10")
    own = ("--set", "data.imbalance_base=own")
    for options, first, says in (
        ((), 4659, "data.imbalance_base = smallest: each class has its share of the smallest class's 4659"),
        (own, 4948, "data.imbalance_base = own: each class has its share of its own count"),
    ):
        code, out, _ = call(capsys, *svhn, *options)
        assert code == 0
        assert says in " ".join(out.split())
        _, out, _ = call(capsys, *svhn, *options, "--json")
        assert json.loads(out)["counts"][0] == first
        assert json.loads(out)["imbalance_base"] == ("own" if options else "smallest")
    assert "imbalance_base" not in call(capsys, "data", "show", "cifar10")[1], "its classes are even"


def test_data_show_of_ones_own_images(capsys, image_folder) -> None:
    code, out, _ = call(
        capsys, "data", "show", "folder", "--data-root", str(image_folder), "--imbalance", "none", "--json"
    )
    assert code == 0
    assert json.loads(out)["counts"] == [6, 6]


def test_data_show_draws_the_counts_without_the_images(capsys, tmp_path) -> None:
    code, out, err = call(capsys, "data", "show", "cifar10", "--json", "--figure", "new/bars.svg")
    assert (code, err) == (0, "wrote new/bars.svg\n")
    assert json.loads(out)["total"] == 12406
    text = (tmp_path / "new" / "bars.svg").read_text()
    assert all(word in text for word in ("airplane", ">2997<", "cifar10: 12406 images, exp, ratio 100"))


def test_data_show_draws_samples(capsys, image_folder, tmp_path) -> None:
    code, _, err = call(
        capsys, "data", "show", "folder", "--data-root", str(image_folder), "--imbalance", "none",
        "--samples", "page.png", "--per-class", "4", "--set", "data.image_size=16",
    )  # fmt: skip
    assert code == 0
    assert err.splitlines()[-1] == "wrote page.png"
    assert (tmp_path / "page.png").stat().st_size > 2000


def test_print_recipe_is_a_recipe(capsys, tmp_path) -> None:
    code, out, _ = call(capsys, "train", "--method", "ce", "--epochs", "100", "--print-recipe")
    assert code == 0
    (tmp_path / "mine.toml").write_text(out)
    assert call(capsys, "train", "--recipe", "mine.toml", "--print-recipe")[1] == out
    assert "milestones = [80, 90]" in out


def test_no_compile_is_a_recipe_field(capsys) -> None:
    assert 'compile = "off"' in call(capsys, "train", "--no-compile", "--print-recipe")[1]
    assert 'compile = "auto"' in call(capsys, "train", "--print-recipe")[1]
    assert "profile = true" in call(capsys, "train", "--profile", "--print-recipe")[1]


def test_doctor(capsys) -> None:
    code, out, _ = call(capsys, "doctor")
    assert code == 0
    for word in (
        "torch",
        "kernel backends:",
        "device:",
        "instruction set: ",
        "precision auto = ",
        "compile auto = ",
        "ready: srat-fast train",
    ):
        assert word in out


def test_without_network_nothing_is_left_and_the_way_out_is_named(capsys, tmp_path, monkeypatch) -> None:
    facts = CIFAR["cifar10"]
    nowhere = replace(facts, archive=replace(facts.archive, url="http://127.0.0.1:9/"))
    monkeypatch.setitem(CIFAR, "cifar10", nowhere)
    monkeypatch.setattr("srat_fast.data.archives.PAUSE", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    code, _, err = call(
        capsys, "train", "--dataset", "cifar10", "--device", "cpu", "--mirror", "file:///no/such"
    )
    assert code == 2
    *_, line = err.splitlines()
    assert line.startswith(
        "error: --data-root (data.root) = 'data': place cifar-10-python.tar.gz (170498071 bytes, "
    )
    assert "--mirror URL or SRAT_FAST_MIRROR; downloading failed (/no/such/" in line
    assert "Connection refused" in line
    assert list(tmp_path.iterdir()) == []


def test_doctor_says_which_sets_are_here(capsys, tmp_path) -> None:
    (tmp_path / "data" / "cifar-100-python").mkdir(parents=True)
    (tmp_path / "cache" / location(prepared_key("svhn")).name).mkdir(parents=True)
    out = call(capsys, "doctor")[1]
    assert "cifar10: not in data/; the first use downloads 170 MB" in out
    assert "cifar100: in data/, not prepared yet" in out
    assert "svhn: prepared" in out
    assert f"prepared data: {tmp_path / 'cache'}" in out


def test_doctor_names_what_is_missing(capsys, monkeypatch) -> None:
    import importlib.metadata

    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("tensorboard", "ffcv", "timm"):
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    out = call(capsys, "doctor")[1]
    assert "pip install tensorboard" in out
    assert "missing: tensorboard" in out
    assert "missing: bash .ci/ffcv" in out
    assert "missing: pip install 'srat-fast[timm]'" in out
    assert "missing: ffcv;" not in out  # it is optional


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["data", "show", "--help"],
        ["data", "prepare", "--help"],
        ["--version"],
    ],
)
def test_help(arguments, capsys) -> None:
    code, out, _ = call(capsys, *arguments)
    assert code == 0
    assert out


@pytest.mark.parametrize("group", [[], ["data"], ["sweep"]])
def test_a_group_without_a_command_shows_its_help(group, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = call(capsys, *group)
    assert (code, out) == (2, "")
    assert err == call(capsys, *group, "-h")[1]
    assert not [li for li in err.splitlines()[1:] if li.endswith("...")], "the line of a command is cut"
