"""Whole runs on real digits: what they leave behind, bit-equality, both engines, failures."""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from rich.console import Console
from torch.autograd import DeviceType

from srat_fast import TrainingFailure, UserError, evaluate, train
from srat_fast.errors import Interrupted
from srat_fast.models.classifier import Classifier
from srat_fast.models.files import load_model
from srat_fast.record import WEIGHTS
from srat_fast.training.cost import busy_seconds
from srat_fast.training.fit import MovingAverage
from srat_kernels import resolve_backend
from tests.tiny import tiny_recipe
from tests.training.short_runs import StopAfter, assert_equal_runs, metrics
from tests.training.short_runs import short as resumable


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "one"
    return out, train(tiny_recipe(optim__ema_decay=0.5, data__val_fraction=0.2, run__tensorboard=True), out)


def test_a_run_directory_is_complete(finished) -> None:
    out, record = finished
    names = {p.name for p in out.iterdir() if not p.name.startswith("events.out.tfevents.")}
    files = ["recipe.json", "metrics.jsonl", "record.json", "samples.npz"]
    assert names == {*files, "model.safetensors", "best.safetensors", "ema.safetensors"}
    assert len(list(out.glob("events.out.tfevents.*"))) == 1
    assert json.loads((out / "record.json").read_text()) == json.loads(json.dumps(record))
    recipe = json.loads((out / "recipe.json").read_text())
    assert recipe == record["recipe"]
    assert None not in [
        recipe["attack"]["step_size"],
        recipe["optim"]["milestones"],
        recipe["data"]["subset_seed"],
    ]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1]
    assert lines[0]["lr"] < lines[1]["lr"] or recipe["optim"]["warmup_epochs"] == 1
    assert lines[-1]["loss"] == pytest.approx(
        lines[-1]["classification"] + recipe["loss"]["separation_weight"] * lines[-1]["separation"], rel=1e-5
    )


def test_the_record_has_the_contracts_fields(finished) -> None:
    _, record = finished
    for kind in ("standard", "robust"):
        judged = {"overall", "well", "under", "balanced", "worst", "per_class", "intervals"}
        assert set(record[kind]) == judged
        assert len(record[kind]["per_class"]) == 10
        assert record[kind]["overall"] == pytest.approx((record[kind]["well"] + record[kind]["under"]) / 2)
    # not robust <= standard: PGD may turn a wrong answer into the right one, and a short run has many
    assert set(record["seconds"]) == {"total", "attack", "step", "data", "evaluation", "compile"}
    assert record["seconds"]["attack"] > record["seconds"]["data"] > 0
    assert record["seconds"]["total"] > record["seconds"]["attack"] + record["seconds"]["step"]
    assert record["status"] == "finished"
    assert record["backend"] == resolve_backend("auto", "cpu") == "torch"
    assert record["mfu"] is None  # no peak is known for a CPU
    assert record["peak_memory_bytes"] > 10**7
    assert record["images_per_second"] > 0
    assert record["versions"]["torch"]
    assert len(record["data_checksum"]) == 64
    assert sum(record["counts"]) + record["validation_images"] == 120
    assert record["validation_images"] == pytest.approx(24, abs=5)  # a fifth of each class, rounded
    assert record["best"]["epoch"] in (0, 1)
    assert set(record["ema"]) == {"standard", "robust", "collapsed"}


def test_a_name_is_no_recipe() -> None:
    with pytest.raises(UserError, match=r"recipe = 'smoke': a Recipe is needed: build_recipe\("):
        train("smoke")


def test_tensorboard_reads_the_curves(finished) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished[0]))
    events.Reload()
    assert {"train/loss", "train/lr", "validation/robust", "test/robust"} <= set(events.Tags()["scalars"])
    assert [e.step for e in events.Scalars("train/loss")] == [0, 1]


def test_evaluate_gives_the_recorded_numbers_again(finished) -> None:
    out, record = finished
    results = evaluate(out, "clean,pgd-2", device="cpu")
    for name, kind in (("clean", "standard"), ("pgd-2", "robust")):
        assert {k: results[name][k] for k in record[kind]} == record[kind]
    stored = json.loads((out / "record.json").read_text())
    assert stored["evaluations"][-1]["attacks"]["pgd-2"]["overall"] == record["robust"]["overall"]
    assert stored["evaluations"][-1]["same_data"] is True
    harmless = evaluate(out, "pgd-2", changes={"eval_attack.epsilon": 1e-7}, device="cpu")
    assert harmless["pgd-2"]["per_class"] == record["standard"]["per_class"]
    with pytest.raises(UserError, match="a comma-separated list of clean, fgsm, pgd-K"):
        evaluate(out, "pgd-0")
    with pytest.raises(UserError, match="not a finished run"):
        evaluate(out.parent)


def test_saved_weights_load_without_the_recipe(finished) -> None:
    model = load_model(finished[0] / "model.safetensors")
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("method", ["ce", "srat-ldam"])
def test_equal_seeds_give_byte_equal_files(method: str, tmp_path) -> None:
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        recipe = tiny_recipe(method=method, seed=seed, run__deterministic=True, optim__epochs=1,
                       optim__ema_decay=0.5, data__val_fraction=0.2)  # fmt: skip
        record = train(recipe, tmp_path / name)
        weights.append(safetensors.torch.load_file(tmp_path / name / "model.safetensors"))
        for kind, file in WEIGHTS.items():
            content = (tmp_path / name / file).read_bytes()
            assert record["weights_checksums"][kind] == hashlib.sha256(content).hexdigest()
    for file in WEIGHTS.values():
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    assert not torch.equal(weights[0]["linear.weight"], weights[2]["linear.weight"])
    assert not torch.are_deterministic_algorithms_enabled()  # the process is left as it was


@pytest.mark.parametrize(
    ("engine", "head", "added"),
    [
        ("fast", "linear", "linear.bias"),
        ("reference", "linear", "linear.bias"),
        ("fast", "cosine", "linear.shift"),
    ],
)
def test_training_goes_on_with_the_raw_head_and_all_that_is_judged_is_adjusted(
    engine, head, added, tmp_path
) -> None:
    """Post-hoc logit adjustment: the weights of plain training, and z_c - ln(n_c / N) in every file and number."""
    options = {"method": "ce", "run__engine": engine, "model__head": head, "optim__epochs": 2}
    adjusted = resumable(**options, model__inference_prior=1.0)
    one, other, stopped = (tmp_path / name for name in ("raw", "adjusted", "stopped"))
    raw = train(resumable(**options), one)
    record = train(adjusted, other)
    counts = torch.tensor(record["counts"], dtype=torch.float64)
    prior = (counts / counts.sum()).log()
    for kind in ("last", "ema"):  # another epoch may be the best
        states = [safetensors.torch.load_file(run / WEIGHTS[kind]) for run in (one, other)]
        expected = states[0] | {added: (states[0][added].double() - prior).float()}
        torch.testing.assert_close(states[1], expected, rtol=0, atol=0)
    lines = [metrics(run) for run in (one, other)]
    assert [line["loss"] for line in lines[0]] == [line["loss"] for line in lines[1]]
    assert raw["standard"] != record["standard"]
    assert [line["validation"] for line in lines[0]] != [line["validation"] for line in lines[1]]
    for kind, told in (("last", record), ("best", record["best"]), ("ema", record["ema"])):
        found = evaluate(other, "clean,pgd-2", weights=kind, device="cpu")
        assert found["clean"]["per_class"] == told["standard"]["per_class"]
        assert found["pgd-2"]["per_class"] == told["robust"]["per_class"]
    with pytest.raises(Interrupted):
        train(adjusted, stopped, stops=StopAfter(5))
    train(adjusted, stopped, resume="must")
    assert_equal_runs(other, stopped)


def test_both_engines_learn_alike(tmp_path) -> None:
    """Chaotic in float32 (see equivalence/test_step.py): first losses are compared closely, later ones loosely."""
    lines = {}
    for engine in ("fast", "reference"):
        record = train(tiny_recipe(run__engine=engine, optim__epochs=2, method="srat-ce"), tmp_path / engine)
        assert record["recipe"]["run"]["engine"] == engine
        assert record["backend"] == ("reference" if engine == "reference" else "torch")
        text = (tmp_path / engine / "metrics.jsonl").read_text()
        lines[engine] = [json.loads(line)["loss"] for line in text.splitlines()]
    assert lines["fast"][0] == pytest.approx(lines["reference"][0], rel=0.03)
    assert lines["fast"][1] == pytest.approx(lines["reference"][1], rel=0.1)


def test_bf16_trains_too(tmp_path) -> None:
    record = train(tiny_recipe(run__precision="bf16"), tmp_path / "run")
    assert record["recipe"]["run"]["precision"] == "bf16"
    assert record["final_epoch"]["nonfinite_gradients"] == 0
    assert not list((tmp_path / "run").glob("events*"))


def test_a_loss_that_is_not_finite_ends_the_run_and_is_recorded(tmp_path) -> None:
    out = tmp_path / "run"
    with pytest.raises(
        TrainingFailure, match=r"the loss is nan in epoch 2, step 1 \(before its update\); try a lower"
    ):
        train(tiny_recipe(method="ce", optim__lr=1e12, optim__clip_norm=0, optim__epochs=2), out)
    record = json.loads((out / "record.json").read_text())
    assert record["status"] == "failed"
    assert "lower optim.lr" in record["problem"]
    assert record["failure"] == "nonfinite"
    assert not (out / "model.safetensors").exists()


def test_an_output_directory_is_never_overwritten(tmp_path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        train(tiny_recipe(), tmp_path / "full")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["notes.txt"]


def test_bad_data_leave_nothing_behind(tmp_path) -> None:
    with pytest.raises(UserError, match="is not a directory"):
        train(tiny_recipe(data__name="folder", data__root=str(tmp_path / "none")), tmp_path / "deep" / "run")
    assert list(tmp_path.iterdir()) == []


def test_progress_is_plain_lines_where_the_output_is_no_terminal(tmp_path, capsys) -> None:
    train(tiny_recipe(method="natural"), tmp_path / "run", console=Console(width=60))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "natural on digits (exp 10: 120 images, 10 classes), resnet18 of width 4, L-inf eps 0.1, 2 epochs"
    )
    assert [line.split()[:3] for line in lines[1:3]] == [["natural", "epoch", f"{n}/2"] for n in (1, 2)]
    assert "\x1b" not in "".join(lines)


def test_progress_is_a_bar_on_a_terminal(tmp_path) -> None:
    import io

    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=140)
    train(tiny_recipe(method="ce"), tmp_path / "run", console=console)
    text = output.getvalue()
    assert "img/s" in text
    assert "epoch 2/2" in text


def test_a_collapsed_model_is_named(tmp_path) -> None:
    record = train(tiny_recipe(method="natural", optim__lr=1e-9, optim__epochs=1), tmp_path / "run")
    assert record["collapsed"] is not None  # an untrained network names one class for everything
    assert record["standard"]["per_class"][record["collapsed"]] == 1.0


def test_normalisation_and_validation_options(tmp_path) -> None:
    record = train(
        tiny_recipe(model__normalize="dataset", optim__epochs=1, method="natural"), tmp_path / "run"
    )
    state = safetensors.torch.load_file(tmp_path / "run" / "model.safetensors")
    assert 0 < float(state["mean"]) < 1
    assert "best" not in record
    assert (
        evaluate(tmp_path / "run", "clean", device="cpu")["clean"]["overall"] == record["standard"]["overall"]
    )


def test_shares_of_time_zero_gradients_and_memory_are_recorded_each_epoch(finished) -> None:
    out, record = finished
    for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()):
        assert 0 <= line["zero_gradient_share"] < 1
        assert line["nonfinite_gradients"] == 0
        assert line["peak_memory_bytes"] > 10**7
        assert line["mfu"] is None
        parts = line["seconds"]
        assert parts["attack"] + parts["step"] + parts["data"] <= parts["total"]
    assert record["seconds"]["compile"] == 0.0
    assert (record["recipe"]["run"]["compile"], record["recipe"]["run"]["capture"]) == ("off", "off")


def test_a_natural_run_has_no_gradients_to_count(tmp_path) -> None:
    record = train(tiny_recipe(method="natural", optim__epochs=1), tmp_path / "run")
    assert record["final_epoch"]["zero_gradient_share"] is None


def test_a_profile_counts_a_kernel_once() -> None:
    """On a GPU the operator that launched a kernel and the range around it carry the kernel's time again."""

    def entry(kind: DeviceType, annotation: bool, device: float, cpu: float) -> SimpleNamespace:
        return SimpleNamespace(
            device_type=kind,
            is_user_annotation=annotation,
            self_device_time_total=device,
            self_cpu_time_total=cpu,
        )

    found = [
        entry(DeviceType.CUDA, False, 3e6, 0),  # kernels
        entry(DeviceType.CUDA, False, 1e6, 0),
        entry(DeviceType.CPU, False, 4e6, 2e6),  # the operator that launched them
        entry(DeviceType.CUDA, True, 4e6, 0),  # a named range on the device
        entry(DeviceType.CPU, True, 4e6, 0.5e6),
    ]
    assert busy_seconds(found, cuda=True) == 4
    assert busy_seconds(found, cuda=False) == 2.5


def test_profile(tmp_path, capsys) -> None:
    train(tiny_recipe(run__profile=True, optim__epochs=12), tmp_path / "run", console=Console(width=300))
    text = capsys.readouterr().out
    assert "5 steps in" in text
    assert "share outside of operators" in text
    assert (tmp_path / "run" / "profile.txt").read_text() in text
    assert json.loads((tmp_path / "run" / "profile.json").read_text())["traceEvents"]


def test_out_of_memory_says_what_to_lower(tmp_path, monkeypatch) -> None:
    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr("srat_fast.training.step.FastEngine.step", full)
    with pytest.raises(TrainingFailure, match="out of memory in epoch 1; lower --batch-size"):
        train(tiny_recipe(), tmp_path / "run")
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert (record["status"], record["failure"]) == ("failed", "memory")


def test_capture_needs_cuda(tmp_path) -> None:
    with pytest.raises(UserError, match="CUDA graphs need a CUDA device"):
        train(tiny_recipe(run__capture="on"), tmp_path / "run")


def test_the_moving_average_is_one() -> None:
    model = Classifier("resnet18", 3, width=4).train()
    average = MovingAverage(model, 0.75)
    first = model.linear.weight.detach().clone()
    with torch.no_grad():
        model.linear.weight.add_(1.0)
        model.backbone.bn1.running_mean.fill_(5.0)
    average.update()
    assert torch.allclose(average.module.linear.weight, first + 0.25)
    assert float(average.module.backbone.bn1.running_mean[0]) == 5.0  # statistics are the model's own
