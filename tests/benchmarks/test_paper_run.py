"""The paper's claim as one command: its plan, its deadline, going on, judging, packing; trials are stand-ins."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.paper import children, options, run
from benchmarks.paper.judging import Job, attacked, jobs
from benchmarks.paper.pack import collect, pack
from benchmarks.paper.page import content
from benchmarks.paper.stages import FULL, PLANS, SMOKE, TRAINING, planned, spec_text
from srat_fast.recipe import flatten
from srat_fast.sweep import process
from srat_fast.sweep.plan import make_plan
from srat_fast.sweep.spec import spec_from_tree

ROOT = Path(__file__).resolve().parents[2]
STANDIN = Path(__file__).with_name("paper_standin.py")


def test_one_run_at_a_time_unless_asked() -> None:
    """Without a multi-process service several take turns, and a call of nine minutes ends before the first is done."""
    assert options.options().parse_args([]).slots == 1


@pytest.fixture
def images(tmp_path) -> Path:
    """Two classes of 100 training images each, ten test images, of 32 pixels."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 100), ("test", 5)):
        for k, name in enumerate(("cat", "dog")):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 128, (32, 32, 3), dtype=np.uint8) + 127 * k
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "images"


@pytest.fixture
def command(tmp_path, monkeypatch, images):
    """`run.main` with stand-ins, in the test's directory; gives (exit code, journal)."""
    monkeypatch.setattr(process, "CHILD", [sys.executable, str(STANDIN)])
    monkeypatch.setenv("STANDIN", str(tmp_path / "standin.json"))
    monkeypatch.setenv("SRAT_FAST_CACHE", str(tmp_path / "cache"))
    for module in (run, options):
        monkeypatch.setattr(module, "RESERVE", 1.0)
    for module in (run, options, children):
        monkeypatch.setattr(module, "WORTH", 0.0)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}

    def call(*arguments: str, seconds: float = 0.0, fails: tuple[str, ...] = ()) -> tuple[int, list[str]]:
        (tmp_path / "standin.json").write_text(json.dumps({"seconds": seconds, "fails": fails}))
        (tmp_path / "journal").write_text("")
        places = [
            "--data-root",
            str(images),
            "--out",
            str(tmp_path / "out"),
            "--work",
            str(tmp_path / "work"),
        ]
        code = run.main([*places, "--smoke", *arguments])
        return code, (tmp_path / "journal").read_text().splitlines()

    yield call
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("stage", "runs"), [("exp", 3), ("step", 3), ("choices", 6), ("others", 15), ("seeds", 12)]
)
@pytest.mark.parametrize("smoke", [False, True])
def test_specs_plan(tmp_path, stage, runs, smoke) -> None:
    text = spec_text(stage, tmp_path, smoke, {"model.width": 7})
    tree = tomllib.loads(text)
    assert tree["base"].pop("data_root") == str(tmp_path)
    tree["base"]["dataset"] = "cifar10"  # the counts of CIFAR-10 are known without its images
    plan = make_plan(spec_from_tree(tree, tmp_path, stage), stage)
    assert len(plan.trials) == runs
    recipes = [plan.recipe(trial) for trial in plan.trials]
    assert {recipe.model.width for recipe in recipes} == {7}
    assert {recipe.optim.epochs for recipe in recipes} == {2 if smoke else 200}
    assert plan.published == "cifar10"


def test_no_run_is_trained_twice(tmp_path) -> None:
    seen = []
    for stage in TRAINING:
        tree = tomllib.loads(spec_text(stage, tmp_path, False, {}))
        tree["base"] |= {"dataset": "cifar10"}
        plan = make_plan(spec_from_tree(tree, tmp_path, stage), stage)
        for trial in plan.trials:
            fields = flatten(plan.recipe(trial))
            # an average is judged beside the last weights, whose training is the same
            seen.append(tuple(str(v) for k, v in fields.items() if k != "optim.ema_decay"))
    assert len(seen) == len(set(seen)) == 39


def test_plans() -> None:
    assert planned("all") == ["exp", "judge", "step", "judge", "choices", "others", "seeds"]
    assert planned("choices, methods") == ["choices", "exp", "step"]
    assert {stage for plan in PLANS.values() for stage in plan} == {*TRAINING, "judge"}
    with pytest.raises(ValueError, match="all of it"):
        planned("exp,all of it")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--plan", "exp,none"], "--plan = none: of all, methods, exp"),
        (["--slots", "0"], "--slots = 0: an integer >= 1"),
        (["--minutes", "0.5"], "--minutes = 0.5: more than 1"),
        (["--data-root", "missing"], "has no folder train/"),
        (["--set", "optim.epoch=3"], "optim.epoch"),
        (["--set", "optim.epochs=none"], "optim.epochs"),
        (["--set", "seed"], "--set = seed: FIELD=VALUE"),
        (["--collect", "missing.tar.gz"], "is no archive of this command"),
    ],
)
def test_bad_input_is_one_line(images, tmp_path, capsys, given, says) -> None:
    with pytest.raises(SystemExit) as end:
        run.main(["--data-root", str(images), "--smoke", "--work", str(tmp_path / "work"), *given])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert not (tmp_path / "work").exists()


def test_without_a_gpu_only_smoke_scale_runs(images, capsys, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SystemExit) as end:
        run.main(["--data-root", str(images)])
    assert end.value.code == 2
    assert "no GPU is visible" in capsys.readouterr().err


def sleeping(monkeypatch, *texts: str) -> list[Job]:
    """Jobs that are Python texts instead of commands."""

    def spawn(arguments: list[str], environment: dict[str, str], log: object) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", arguments[0]], stdout=log, start_new_session=True)

    monkeypatch.setattr(children, "spawn", spawn)
    return [Job(str(k), [text]) for k, text in enumerate(texts)]


def test_commands_end_at_the_deadline(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(children, "GRACE", 1.0)
    monkeypatch.setattr(children, "WORTH", 0.0)
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    work = sleeping(
        monkeypatch, "print('said')", "import sys; sys.exit(4)", "import time; time.sleep(60)", stubborn, ""
    )
    started = time.monotonic()
    commands = children.Children(tmp_path / "logs", started + 3.0, dict(os.environ))
    assert commands.run_all(work, 2) == {"0": 0, "1": 4, "2": None, "3": None, "4": None}
    assert time.monotonic() - started < 15
    assert commands.last_words(work[0], 3).endswith("said")
    assert not commands.log(work[4]).exists(), "not begun after the deadline"


def test_jobs_are_what_is_left(tmp_path) -> None:
    row = {name: {"images": FULL.images} for name in FULL.attacks.split(",")}
    runs = {
        tmp_path / "a": {},
        tmp_path / "b": {
            "evaluations": [{"weights": "last", "attacks": row}],
            "audit": {"verdict": "reliable"},
        },
    }
    groups = jobs(runs, FULL, tmp_path / "t.png")
    assert [[job.name for job in group] for group in groups] == [["evaluate-a"], ["audit-a"], ["analyse-t"]]
    assert groups[1][0].good == (0, 3), "a suspicious audit is an outcome"
    (tmp_path / "t.png").touch()
    assert jobs({tmp_path / "b": runs[tmp_path / "b"]}, FULL, tmp_path / "t.png") == []
    assert jobs({}, FULL, None) == []
    fewer = {name: {"images": 20} for name in row}
    assert not attacked({"evaluations": [{"weights": "last", "attacks": fewer}]}, FULL)
    assert not attacked({"evaluations": [{"weights": "ema", "attacks": row}]}, FULL)
    assert not attacked({"evaluations": [{"weights": "last", "attacks": row}]}, SMOKE)
    averaged = {tmp_path / "b": runs[tmp_path / "b"] | {"ema": {"robust": {}}}}
    ((job,),) = jobs(averaged, FULL, None)
    assert job.arguments[-2:] == ["--weights", "ema"]


def test_everything_from_end_to_end_with_stand_ins(command, tmp_path, capsys) -> None:
    code, journal = command("--plan", "exp,judge", "--slots", "2", "--minutes", "5")
    said = capsys.readouterr().out
    assert code == 0, said
    assert "-- exp: 3 of 3 runs finished" in said
    assert "-- judge: 7 of 7 commands done" in said
    kinds = [line.split()[0] for line in journal]
    assert [k for k in kinds if k not in ("sweep", "load-data")] == [
        *["train"] * 3, *["evaluate"] * 3, *["audit"] * 3, "analyse",
    ]  # fmt: skip
    archive = tmp_path / "out" / run.ARCHIVE
    with tarfile.open(archive) as file:
        names = file.getnames()
    assert not [name for name in names if "safetensors" in name or "checkpoint" in name]
    results = tmp_path / "results"
    assert run.main(["--collect", str(archive), "--into", str(results)]) == 0
    records = [json.loads(path.read_text()) for path in results.glob("exp/*/record.json")]
    assert {record["recipe"]["method"] for record in records} == {"ce", "drcb-ldam", "srat-ldam"}
    assert str(tmp_path) not in "".join(p.read_text() for p in results.rglob("*.json")), (
        "no place of a machine"
    )
    text = "\n".join(content(results, ["tsne-exp.png"]))
    for title in (
        "accuracy, percent",
        "what SRAT gains",
        "further attacks",
        "separability",
        "each class",
        "time",
    ):
        assert title in text
    assert "| `srat-ldam` | 0 | 68.00 | 34.00 | 34.00 | 17.00 | suspicious |" in text
    assert "(tsne-exp.png)" in text
    again, journal = command("--plan", "exp,judge", "--slots", "2", "--minutes", "5")
    assert again == 0
    assert not [line for line in journal if line.split()[0] in ("train", "evaluate", "audit", "analyse")]


def test_it_goes_on_after_its_time(command, tmp_path, capsys) -> None:
    code, journal = command("--plan", "exp", "--slots", "3", "--minutes", "0.35", seconds=60.0)
    assert (code, sum(line.startswith("train") for line in journal)) == (run.TIME_IS_UP, 3)
    said = capsys.readouterr().out
    assert "-- exp: 0 of 3 runs finished, others after" in said
    assert said.count("epochs (1,234 images/s)") == 3
    with tarfile.open(tmp_path / "out" / run.ARCHIVE) as file:
        curves = [name for name in file.getnames() if name.endswith("metrics.jsonl")]
    assert len([name for name in curves if name.startswith("unfinished/exp/")]) == len(curves) == 3
    assert collect(tmp_path / "out" / run.ARCHIVE, tmp_path / "results") == ["manifest.json"]
    assert content(tmp_path / "work", []) != [], "a folder without a finished run is no error"
    begun = [float(p.read_text()) for p in (tmp_path / "work" / "exp" / "runs").glob("*/checkpoint.txt")]
    assert len(begun) == 3
    assert max(begun) < 30
    code, journal = command(
        "--plan", "exp", "--slots", "3", "--minutes", "5", "--other-code", seconds=min(begun)
    )
    assert code == 0
    assert any(line.startswith("sweep run") and line.endswith("--other-code") for line in journal)


def test_a_signal_keeps_what_is_there(command, tmp_path, capsys) -> None:
    timer = threading.Timer(8.0, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    code, _ = command("--plan", "exp", "--minutes", "5", seconds=120.0)
    timer.join()
    assert code == 143
    assert "stopped: the same command goes on" in capsys.readouterr().out
    assert (tmp_path / "out" / run.ARCHIVE).exists()


def test_failures_are_named_and_tried_again(command, tmp_path, capsys) -> None:
    code, journal = command("--plan", "exp,judge,step", "--minutes", "5", fails=("train",))
    said = capsys.readouterr().out
    assert code == 1
    assert not [line for line in journal if "step.toml" in line], (
        "what no run of a stage survives ends the plan"
    )
    assert "0 of 3 runs finished" in said
    assert "this one is to fail" in said
    assert "failed: exp" in said
    code, journal = command("--plan", "exp,judge", "--minutes", "5", fails=("audit",))
    said = capsys.readouterr().out
    assert code == 1
    assert "-- exp: 3 of 3 runs finished" in said
    assert "-- judge: 4 of 7 commands done" in said
    (tmp_path / "work" / "exp" / "plan.json").write_text("{")
    code, _ = command("--plan", "exp", "--minutes", "5")
    assert code == 1
    assert "-- exp: DIR = " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["../out.json", "/etc/x.json", "exp/model.safetensors", "else/record.json"])
def test_a_foreign_archive_is_refused(tmp_path, name) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for member in (name, "manifest.json"):
            archive.addfile(tarfile.TarInfo(member), io.BytesIO())
    with pytest.raises(ValueError, match="an archive of this command has no"):
        collect(tmp_path / "a.tar.gz", tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_an_archive_of_nothing_and_one_too_large(tmp_path, monkeypatch) -> None:
    assert pack(tmp_path / "work", tmp_path / "out" / "a.tar.gz", {}) < 1000
    assert collect(tmp_path / "out" / "a.tar.gz", tmp_path / "results") == ["manifest.json"]
    monkeypatch.setattr("benchmarks.paper.pack.LARGEST", 10)
    with pytest.raises(ValueError, match="too many"):
        pack(tmp_path / "work", tmp_path / "b.tar.gz", {})
    assert not (tmp_path / "b.tar.gz").exists()


@pytest.mark.slow
def test_everything_from_end_to_end_with_training(images, tmp_path) -> None:
    script = [sys.executable, str(ROOT / "benchmarks" / "paper" / "run.py"), "--smoke", "--plan", "exp,judge"]
    places = ["--data-root", str(images), "--out", str(tmp_path), "--work", str(tmp_path / "work")]
    environment = os.environ | {"SRAT_FAST_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*script, *places, "--minutes", "9"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert collect(tmp_path / run.ARCHIVE, tmp_path / "results")
    text = "\n".join(content(tmp_path / "results", ["tsne-exp.png"]))
    assert "| method | pgd-3 | cw-3 | apgd-ce | worst-case |" in text
    assert "ema weights" in text
