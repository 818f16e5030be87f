"""`evaluate` and `audit` on a trained run: what joins the record, what a kill leaves, and one line for bad input."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from srat_fast import UserError, evaluate, train
from srat_fast.cli import main
from srat_fast.data.arrays import ImageArrays, ImageSet
from srat_fast.record import audit_verdict
from tests.tiny import tiny_recipe

RECIPE = {
    "method": "ce", "optim.epochs": 3, "attack.steps": 1, "eval_attack.steps": 3, "data.val_fraction": 0.1,
    "data.limit": None, "data.test_limit": 100,
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of a few seconds, with a validation split and no moving average."""
    run = tmp_path_factory.mktemp("runs") / "run"
    train(tiny_recipe(RECIPE), run)
    return run


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def call(capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command."""
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


def record(run: Path) -> dict:
    return json.loads((run / "record.json").read_text())


def test_training_s_numbers_come_out_again(run) -> None:
    rows = evaluate(run, "clean,pgd-3")
    for row, kind in (("clean", "standard"), ("pgd-3", "robust")):
        for part in ("overall", "well", "under", "per_class"):
            assert rows[row][part] == record(run)[kind][part]
    best = evaluate(run, "clean,pgd-3", weights="best")
    assert best["pgd-3"]["per_class"] == record(run)["best"]["robust"]["per_class"]


def test_rows_of_several_attacks_and_radii(run) -> None:
    told: list[tuple[str, int, int]] = []
    rows = evaluate(
        run, "clean,fgsm,pgd-3,cw-3x2,noise-2", epsilons=["0.05", 0.1],
        changes={"data.test_limit": 50}, progress=lambda *told_now: told.append(told_now),
    )  # fmt: skip
    names = ["fgsm", "pgd-3", "cw-3x2", "noise-2", "worst-case"]
    assert list(rows) == ["clean"] + [f"{n} eps {e}" for e in ("0.05", "0.1") for n in names]
    for epsilon in ("0.05", "0.1"):
        others = [rows["clean"]] + [rows[f"{name} eps {epsilon}"] for name in names[:-1]]
        worst = rows[f"worst-case eps {epsilon}"]
        assert worst["overall"] <= min(row["overall"] for row in others)
        assert worst["of"] == ["clean"] + [f"{name} eps {epsilon}" for name in names[:-1]]
    assert rows["pgd-3 eps 0.1"]["step_size"] == 0.025
    assert rows["pgd-3 eps 0.05"]["step_size"] == pytest.approx(0.0125)
    low, high = rows["clean"]["intervals"]["overall"]
    assert low <= rows["clean"]["overall"] <= high
    entry = record(run)["evaluations"][-1]
    assert entry["attacks"] == rows
    assert entry["weights"] == "last"
    assert entry["precision"] == "fp32"
    assert {"torch", "python"} <= set(entry["versions"])
    assert entry["same_data"] is None, "a subset says nothing about the rest"
    assert told[0] == ("clean", 0, 50)
    assert told[-1] == ("noise-2 eps 0.1", 50, 50)
    assert not list((run / "evaluation").glob("*.npz")), "a finished evaluation leaves its result only"


def test_the_worst_case_counts_images_that_every_attack_leaves_right(run, monkeypatch) -> None:
    """Whatever the network learned: which image falls to which attack is given here."""
    import torch

    from srat_fast.evaluation import runs
    from srat_fast.evaluation.survivors import Outcome

    falls = {"clean": range(0, 2), "fgsm": range(1, 5), "pgd-3": range(4, 11)}

    def attacked(model, loader, attack, **options) -> tuple[Outcome, torch.Tensor]:
        labels = torch.cat([labels for _, labels in loader.epoch(0)])
        predictions = labels.clone()
        wrong = list(falls[attack.name])
        predictions[wrong] = (labels[wrong] + 1) % 10
        return Outcome(predictions), labels

    monkeypatch.setattr(runs, "attack_images", attacked)
    rows = evaluate(run, "clean,fgsm,pgd-3", changes={"data.test_limit": 50})
    assert {name: row["overall"] for name, row in rows.items()} == {
        "clean": 0.96, "fgsm": 0.92, "pgd-3": 0.86, "worst-case": 0.78,
    }  # fmt: skip
    assert rows["worst-case"]["of"] == ["clean", "fgsm", "pgd-3"]


def test_a_killed_evaluation_goes_on_and_gives_the_same_numbers(run) -> None:
    whole = evaluate(run, "pgd-20x2", changes={"run.eval_batch_size": 20})
    entries = len(record(run)["evaluations"])
    code = (
        "import sys; from srat_fast.evaluation import runs; runs.KEEP_EVERY = 0.0; "
        "runs.evaluate(sys.argv[1], 'pgd-20x2', changes={'run.eval_batch_size': 20}, device='cpu')"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(run)])
    deadline = time.monotonic() + 120
    while not (kept := list((run / "evaluation").glob("pgd-20x2-*.npz"))):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(record(run)["evaluations"]) == entries
    done: list[int] = []
    again = evaluate(
        run,
        "pgd-20x2",
        changes={"run.eval_batch_size": 20},
        device="cpu",
        progress=lambda _, d, t: done.append(d),
    )
    assert again["pgd-20x2"]["per_class"] == whole["pgd-20x2"]["per_class"]
    assert done[-1] == 100
    assert not any(path.exists() for path in kept)


def test_another_device_s_or_version_s_state_is_not_taken_up(run, monkeypatch) -> None:
    import torch

    from srat_fast.evaluation import runs
    from srat_fast.evaluation.survivors import Outcome

    poisoned: list[Path] = []

    def poison(path: Path, outcome: Outcome) -> None:
        runs_save(path, Outcome(torch.zeros_like(outcome.predictions), 1, 0))
        poisoned.append(path)

    runs_save = runs.save_partial
    monkeypatch.setattr(runs, "save_partial", poison)
    monkeypatch.setattr(runs, "remove_partials", lambda paths: None)
    honest = evaluate(run, "clean")["clean"]["overall"]
    monkeypatch.undo()
    assert poisoned[0].exists()
    always_0 = evaluate(run, "clean")["clean"]
    assert always_0["per_class"] == [1.0] + [0.0] * 9, "the state is what is taken up"
    monkeypatch.setattr(runs, "save_partial", poison)
    monkeypatch.setattr(runs, "remove_partials", lambda paths: None)
    evaluate(run, "clean")
    monkeypatch.undo()
    monkeypatch.setattr(runs, "versions", lambda: {"torch": "0.0"})
    assert evaluate(run, "clean")["clean"]["overall"] == honest, "another version's is not"
    monkeypatch.undo()
    assert evaluate(run, "clean", fresh=True)["clean"]["overall"] == honest


def test_the_audit_joins_the_record_and_every_table(run, capsys) -> None:
    code, out, _ = call(
        capsys, "audit", run, "--subset", 30, "--autoattack", 0, "--queries", 20, "--device", "cpu"
    )
    report = record(run)["audit"]
    assert code == {"reliable": 0, "suspicious": 3}[report["verdict"]]
    assert report["subset"] == 30
    assert [c["name"] for c in report["checks"]][-2:] == ["choice of the epoch", "recorded number"]
    assert {c["name"]: c["verdict"] for c in report["checks"]}["AutoAttack"] == "not run"
    assert out.splitlines()[-1].startswith(report["verdict"])
    assert "(not run: " in out
    robust = report["accuracy"]["robust"]
    low, high = robust["worst_interval"]
    assert low <= robust["worst"] <= robust["overall"]
    assert f"{100 * robust['worst']:.2f} [{100 * low:.1f}, {100 * high:.1f}]" in out
    for check in report["checks"]:
        assert f"| {check['name']} " in out
    assert f"audit of this run: {report['verdict']}" in call(capsys, "evaluate", run, "--attack", "clean")[1]
    assert audit_verdict(record(run)) == report["verdict"]
    assert audit_verdict(record(run), checksum="another").startswith(
        "not audited (the record's audit is of other"
    )
    assert report["weights_checksum"] == record(run)["evaluations"][-1]["weights_checksum"]
    # of the other weights: beside their own numbers
    other = call(
        capsys, "audit", run, "--weights", "best", "--subset", 30, "--autoattack", 0, "--queries", 20, "--json",
        "--surrogate", shutil.copytree(run, run.parent / "other"),
    )  # fmt: skip
    best = json.loads(other[1])
    assert record(run)["best"]["audit"] == best
    assert record(run)["audit"] == report
    chosen = {c["name"]: c for c in best["checks"]}["choice of the epoch"]
    assert (chosen["verdict"], "held-out training images" in chosen["found"]) == ("passed", True)


def test_numbers_of_other_weights_or_an_epoch_chosen_by_test_images(run) -> None:
    from srat_fast.evaluation.audit import run as room

    content = record(run)
    report = {"accuracy": {"robust": {"overall": content["robust"]["overall"]}}, "subset": 100}
    assert room._recorded(content, "last", report).verdict == "passed"
    content["robust"]["overall"] += 0.4 if content["robust"]["overall"] < 0.5 else -0.4
    assert room._recorded(content, "last", report).verdict == "failed"
    assert room._choice(content, "best").verdict == "passed"
    assert room._choice(content | {"validation_images": 0}, "best").verdict == "failed"


BAD = [
    (["evaluate", "--attack", "pgd20"], "square, autoattack; did you mean pgd-20?"),
    (["evaluate", "--attack", "pgd"], "--attack = 'pgd': a comma-separated list of clean, fgsm"),
    (["evaluate", "--eps", "0"], "--eps (eval_attack.epsilon) = '0': a number > 0 and <= 400"),
    (["evaluate", "--eps", "4/255,2"], "--eps (eval_attack.epsilon) = 2.0: a number > 0 and <= 1 with"),
    (["evaluate", "--epsilon", "x"], "--eps (eval_attack.epsilon) = 'x': a number"),
    (["evaluate", "--subset", "0"], "--subset (data.test_limit) = '0': an integer >= 1"),
    (["evaluate", "--subset", "3"], "--subset (data.test_limit) = 3: an integer >= 10, one image a class"),
    (["analyse", "--subset", "3"], "--subset (data.test_limit) = 3: an integer >= 10, one image a class"),
    (["audit", "--subset", "3"], "--subset (data.test_limit) = 3: an integer >= 10, one image a class"),
    (["evaluate", "--batch-size", "0"], "--batch-size: run.eval_batch_size = '0': an integer >= 1"),
    (["evaluate", "--weights", "first"], "--weights = 'first': one of last, best, ema"),
    (
        ["evaluate", "--weights", "ema"],
        "--weights = 'ema': the run has no ema.safetensors; it is kept by optim.ema",
    ),
    (["audit", "--subset", "some"], "--subset = 'some': an integer >= 1, or all"),
    (["audit", "--subset", "0"], "--subset = '0': an integer >= 1, or all"),
    (["audit", "--weights", "ema"], "--weights = 'ema': the run has no ema.safetensors"),
    (["audit", "--surrogate", "nowhere"], "--surrogate = 'nowhere': is not a finished run"),
    (["audit", "--queries", "0"], "--queries"),
]


@pytest.mark.parametrize(("arguments", "says"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_input_is_one_line_and_code_2(arguments, says, trained, capsys) -> None:
    before = (trained / "record.json").read_bytes()
    code, out, err = call(capsys, arguments[0], trained, *arguments[1:])
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1
    assert (trained / "record.json").read_bytes() == before


def test_a_run_as_its_own_surrogate(trained, capsys) -> None:
    code, _, err = call(capsys, "audit", trained, "--surrogate", trained)
    assert code == 2
    assert "another run than the audited one is needed" in err


def test_a_run_that_cannot_be_written(run, capsys) -> None:
    shutil.rmtree(run / "evaluation", ignore_errors=True)
    (run / "evaluation").write_text("in the way of the directory")
    code, _, err = call(capsys, "evaluate", run)
    assert code == 2
    assert "cannot be written, so its record could not be" in err


@pytest.fixture
def full_disk(monkeypatch) -> None:
    """Nothing can be written any more."""

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_loses_no_result(run, capsys) -> None:
    """The table is printed, then one line; nothing half-written is left."""
    before = (run / "record.json").read_bytes()
    audit = ("audit", run, "--subset", 20, "--autoattack", 0, "--queries", 1, "--surrogate",
             shutil.copytree(run, run.parent / "other"))  # fmt: skip
    for command, shown in (
        (("evaluate", run, "--attack", "clean,fgsm"), "| fgsm "),
        (("evaluate", run, "--attack", "clean,fgsm", "--json"), '"per_class": ['),
        (audit, "| recorded number "),
        ((*audit, "--json"), '"verdict": '),
    ):
        code, out, err = call(capsys, *command)
        assert code == 1
        assert shown in out
        last = err.splitlines()[-1]
        assert last.startswith("error: the result is not on record: ")
        assert last.endswith("record.json cannot be written: No space left on device")
        assert "Traceback" not in err
    assert (run / "record.json").read_bytes() == before
    assert not [path for path in run.rglob(".*") if path.is_file() and path.name != ".lock"]


def test_a_full_disk_is_an_exception_with_the_result(run, full_disk) -> None:
    from srat_fast.errors import Unrecorded

    with pytest.raises(Unrecorded, match="cannot be written: No space left") as caught:
        evaluate(run, "clean")
    assert caught.value.result["clean"]["images"] == 100
    assert caught.value.record["evaluations"][-1]["attacks"] == caught.value.result


@pytest.mark.parametrize(
    "state", ["no_grad", "inference_mode", "float64", "meta", "autocast", "bf16 products"]
)
def test_the_caller_s_state_changes_no_number(state, run) -> None:
    import contextlib

    import torch

    import srat_fast

    def numbers(rows: dict) -> list:
        return [row["per_class"] for row in rows.values()]

    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    changes = {"data.test_limit": 50}
    plain = numbers(evaluate(run, "clean,pgd-2", changes=changes))
    weights = srat_fast.load(run).state_dict()
    with contextlib.ExitStack() as stack:
        if state == "float64":
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float64)
        elif state == "bf16 products":
            stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("medium")
        else:
            stack.enter_context({
                "no_grad": torch.no_grad, "inference_mode": torch.inference_mode,
                "meta": lambda: torch.device("meta"), "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
            }[state]())  # fmt: skip
        assert numbers(evaluate(run, "clean,pgd-2", changes=changes)) == plain
        model = srat_fast.load(run)
        analysis = srat_fast.analyse(run, changes=changes, points=0)
    torch.testing.assert_close(model.state_dict(), weights, rtol=0, atol=0)
    assert all(
        p.requires_grad and p.dtype == torch.float32 and not p.is_inference() for p in model.parameters()
    )
    assert analysis["clean"]["accuracy"]["per_class"] == plain[0]
    assert model(images.requires_grad_()).sum().backward() is None


def test_training_does_not_depend_on_the_caller_s_state(tmp_path) -> None:
    import random

    import torch

    recipe = tiny_recipe(RECIPE, optim__epochs=1, data__limit=100, run__deterministic=True)
    train(recipe, tmp_path / "plain")
    torch.set_default_dtype(torch.float64)
    before = torch.get_rng_state(), random.getstate()
    try:
        with torch.inference_mode():
            train(recipe, tmp_path / "run")
    finally:
        assert torch.get_default_dtype() == torch.float64
        torch.set_default_dtype(torch.float32)
    for name in ("model.safetensors", "best.safetensors"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    torch.testing.assert_close(torch.get_rng_state(), before[0], rtol=0, atol=0)
    assert random.getstate() == before[1]


BAD_CALLS = [
    ({"attacks": ["clean"]}, "--attack = "),
    ({"epsilons": "2"}, "eval_attack.epsilon"),
    ({"epsilons": ["x"]}, "eval_attack.epsilon"),
    ({"weights": None}, "--weights = None: one of last, best, ema"),
    ({"device": "gpu"}, "run.device = 'gpu'"),
    ({"changes": {"nothing": 1}}, "nothing"),
    ({"run": "nowhere"}, "is not a finished run"),
    ({"run": "x" * 300}, "File name too long"),
]


@pytest.mark.parametrize(("arguments", "says"), BAD_CALLS, ids=[says for _, says in BAD_CALLS])
def test_bad_arguments_of_evaluate(arguments, says, trained) -> None:
    with pytest.raises(UserError, match=says) as caught:
        evaluate(**({"run": trained} | arguments))
    assert "\n" not in str(caught.value)


LONG = "x" * 256


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--dataset", "digits", "--out", LONG],
        ["train", "--dataset", "digits", "--out", LONG, "--resume", "auto"],
        ["train", "--out", LONG, "--resume"],
        ["evaluate", LONG],
        ["audit", LONG],
        ["analyse", LONG],
        ["export", LONG],
        ["export", "RUN", "--out", LONG],
        ["report", LONG],
        ["report", "RUN", "--out", LONG],
        ["sweep", "status", LONG],
        ["sweep", "table", LONG],
    ],
    ids=lambda arguments: " ".join(arguments).replace(LONG, "LONG"),
)
def test_a_name_that_is_too_long_is_one_line(arguments, trained, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, *(trained if argument == "RUN" else argument for argument in arguments))
    assert code == 2, err
    assert err.startswith("error: ")
    assert "File name too long" in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_record_is_not_trained_over(run, capsys) -> None:
    (run / "record.json").unlink()
    (run / "record.json").symlink_to("record.json")
    before = (run / "model.safetensors").read_bytes()
    for command in (("train", "--out", run, "--resume"), ("evaluate", run), ("export", run), ("report", run)):
        code, _, err = call(capsys, *command)
        assert code == 2, (command, err)
        assert "its record.json cannot be read: Too many levels of symbolic links" in err
    assert (run / "model.safetensors").read_bytes() == before


def test_one_radius_and_a_torch_device_will_do(run) -> None:
    import torch

    rows = evaluate(
        run, "fgsm", epsilons="8/255", device=torch.device("cpu"), changes={"data.test_limit": 20}
    )
    assert rows["fgsm"]["epsilon"] == pytest.approx(8 / 255)


def test_logits_that_are_no_numbers_are_an_error_and_no_accuracy(run, capsys) -> None:
    import safetensors.torch

    state = safetensors.torch.load_file(run / "model.safetensors")
    state["linear.bias"][0] = float("nan")
    safetensors.torch.save_file(state, run / "model.safetensors")
    earlier = record(run)  # whose weights nobody vouched for
    del earlier["weights_checksums"]
    (run / "record.json").write_text(json.dumps(earlier))
    code, out, err = call(capsys, "evaluate", run, "--attack", "clean")
    assert (code, out) == (1, "")
    assert "the logits of 100 of 100 images are not finite; no accuracy is reported" in err
    assert "evaluations" not in record(run)


def test_a_run_on_images_in_memory_is_judged_on_them(tmp_path) -> None:
    import numpy as np

    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 40)
    images = (generator.integers(0, 60, (80, 8, 8)) + 150 * labels[:, None, None]).astype(np.uint8)
    data = {"train": (images, labels), "test": (images[::4], labels[::4])}
    recipe = tiny_recipe(RECIPE, data__test_limit=None, data__imbalance="none", optim__batch_size=16)
    train(recipe, tmp_path / "r", data=data)
    rows = evaluate(tmp_path / "r", "clean,pgd-3", data=data)
    assert rows["pgd-3"]["overall"] == record(tmp_path / "r")["robust"]["overall"]
    assert record(tmp_path / "r")["evaluations"][-1]["same_data"] is True
    with pytest.raises(UserError, match="given in memory"):
        evaluate(tmp_path / "r")


def test_a_weights_file_is_evaluated(run, tmp_path, capsys) -> None:
    """Somebody else's model: a bare state dict under the field's names, no run and no record."""
    file = tmp_path / "theirs" / "theirs.pt"
    file.parent.mkdir()
    torch.save({"state_dict": safetensors.torch.load_file(run / "model.safetensors")}, file)
    options = ["--dataset", "digits", "--subset", "50"]
    code, out, err = call(
        capsys, "evaluate", file, "--model", "resnet18", "--attack", "clean,pgd-2", *options, "--json"
    )
    assert code == 0, err
    rows = json.loads(out)
    assert (
        rows["clean"]["overall"]
        == evaluate(run, "clean", changes={"data.test_limit": 50})["clean"]["overall"]
    )
    assert list(rows) == ["clean", "pgd-2"]
    code, out, err = call(capsys, "evaluate", file, "--attack", "pgd-2", "--threat", "l2", *options, "--json")
    assert code == 0, err
    assert (json.loads(out)["pgd-2"]["threat"], json.loads(out)["pgd-2"]["epsilon"]) == ("l2", 0.5)
    code, out, err = call(capsys, "evaluate", file, "--attack", "clean", *options)
    assert code == 0, err
    assert "train n" in out or "class" in out
    audit = ["audit", file, "--model", "resnet18", "--dataset", "digits", "--subset", 20, "--autoattack", 0,
             "--queries", 1, "--surrogate", run, "--json"]  # fmt: skip
    for threat, epsilon in (((), 0.1), (("--threat", "l2"), 0.5)):
        code, out, err = call(capsys, *audit, *threat)
        report = json.loads(out)
        assert code in (0, 3), err
        assert report["attack"]["epsilon"] == pytest.approx(epsilon)
        assert report["weights_checksum"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert not {"recorded number", "choice of the epoch"} & {check["name"] for check in report["checks"]}
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("command", ["evaluate", "audit"])
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["FILE", "--model", "wrn-28-10", "--dataset", "digits"], "wrn-28-10"),
        (["FILE", "--weights", "best", "--dataset", "digits"], "a file holds one set of weights"),
        (["FILE", "--threat", "l1", "--dataset", "digits"], "one of linf, l2"),
        (["RUN", "--model", "resnet18"], "a run says what network it is"),
        (["RUN", "--dataset", "digits"], "a run has its own"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_a_file_that_does_not_fit_is_one_line(arguments, line, command, run, tmp_path, capsys) -> None:
    given = [{"FILE": str(run / "model.safetensors"), "RUN": str(run)}.get(a, a) for a in arguments]
    more = ["--attack", "clean"] if command == "evaluate" else ["--autoattack", 0]
    code, _, error = call(capsys, command, *given, *more, "--data-root", tmp_path / "none")
    assert code == 2
    assert line in error
    assert len(error.strip().splitlines()) == 1, error


def test_a_run_is_audited_in_its_own_ball(trained, capsys) -> None:
    code, _, error = call(capsys, "audit", trained, "--threat", "l2")
    assert (code, error.count("\n")) == (2, 1)
    assert "a run is audited in its own ball" in error


def test_images_of_other_classes_or_channels_are_one_line(run) -> None:
    file, generator = run / "model.safetensors", np.random.default_rng(0)

    def images(channels: int, classes: int) -> ImageArrays:
        pixels = generator.integers(0, 256, (4 * classes, 8, 8, channels), dtype=np.uint8)
        part = ImageSet(pixels, np.arange(4 * classes) % classes)
        return ImageArrays(part, part, tuple("abcdefghij"[:classes]))

    changes = {"data.imbalance": "none"}
    with pytest.raises(UserError, match="10 classes, arrays has 3; --dataset NAME"):
        evaluate(file, "clean", data=images(1, 3), changes=changes)
    with pytest.raises(UserError, match="does not take images of arrays"):
        evaluate(file, "clean", data=images(3, 10), changes=changes)
