"""`python benchmarks/gpu.py`: what it refuses, passes over and leaves, its order; its questions on a CPU."""

from __future__ import annotations

import importlib
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu import Question, ask, ended, unanswered
from benchmarks.rows import RESULTS, path_for, problem, read

ROOT = Path(__file__).resolve().parents[2]
ABOUT = {"device": "none", "torch": "t", "commit": None, "triton": None, "source": "s"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line(tmp_path, capsys) -> None:
    assert gpu.main(["--out", str(tmp_path / "out")]) == 2
    said = "benchmarks/gpu.py needs a CUDA device; --small goes through it on a CPU\n"
    assert capsys.readouterr() == ("", said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--minutes", "0"], "--minutes = 0: more than 0"),
        (["--data-root", "nowhere"], "--data-root = nowhere: a folder that holds train/ and test/"),
        (["run", "gone"], "question = gone: of step-128, searched-128"),
    ],
)
def test_bad_options_are_refused(options, problem, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        gpu.options(options)
    assert stopped.value.code == 2
    assert problem in capsys.readouterr().err


def test_the_list_is_in_order_of_importance(capsys) -> None:
    assert gpu.main(["--list"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names[:4] == ["step-128", "searched-128", "leak", "run"]
    assert names.index("run") < names.index("network") < names.index("modes")
    assert len(names) == len(set(names))


@pytest.fixture
def like_a_gpu(monkeypatch) -> None:
    """Sizes and names are those of a GPU."""
    from benchmarks import kernels

    monkeypatch.setattr(kernels, "ON_GPU", True)


@pytest.mark.parametrize("question", gpu.questions(ROOT / "some images"), ids=lambda question: question.name)
def test_every_question_is_understood_by_its_script(question, like_a_gpu, tmp_path) -> None:
    """What runs on a GPU only: each script can be imported, and takes its options, names of rungs and of kernels."""
    script = importlib.import_module(f"benchmarks.{question.script}")
    found = script.options([*shlex.split(question.options), "--out", str(tmp_path)])
    assert found.out == tmp_path
    if question.script in ("run", "loaders", "leak"):
        assert found.data_root == ROOT / "some images"
    assert (ROOT / "benchmarks" / f"{question.script}.py").is_file()


@pytest.mark.parametrize(
    ("script", "options", "problem"),
    [
        ("step", ["--rungs", "eager,turbo"], "--rungs = turbo: of reference, eager"),
        ("step", ["--parts", "all"], "--parts = all: of step, attack"),
        ("kernels", ["--only", "B=3"], "--only = 'B=3': no such case, as \"srat_loss forward B=128"),
        ("evaluation", ["--rounds", "1"], "--rounds = 1: at least 2, for quartiles"),
    ],
)
def test_a_script_refuses_what_it_does_not_know(script, options, problem, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(f"benchmarks.{script}").options(options)
    assert stopped.value.code == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize("name", ["parts-128", "loss-128", "evaluation-searched", "loaders", "leak"])
def test_a_question_is_answered_in_small(name, monkeypatch) -> None:
    """The others have tests of their own in this folder."""
    monkeypatch.setattr(torch, "compile", lambda function=None, **options: function)  # takes minutes
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)  # and put back
    (question,) = (each for each in gpu.questions() if each.name == name)
    script = importlib.import_module(f"benchmarks.{question.script}")
    found = script.options([*shlex.split(question.options), "--small"])
    assert found.out != RESULTS, "small sizes stay apart"
    rows = list(script.measured(found))
    assert rows
    assert not any(problem(row | ABOUT) for row in rows)
    assert all(row.get("search") == ("searched" in name or None) for row in rows)
    if name == "ladder":
        assert {"reference", "eager", "autocast", "shadow"} <= {r["implementation"] for r in rows} | {
            "reference"
        }
    if name == "parts-128":
        assert {row["op"] for row in rows} == {"attack", "update", "epoch"}


def asked(folder: Path, deadline: float, small: bool = False, **codes: str) -> dict[str, str]:
    """Ask questions that are lines of Python; name -> how it ended."""
    (folder / "benchmarks").mkdir(exist_ok=True)
    there = []
    for name, code in codes.items():
        (folder / "benchmarks" / f"{name}.py").write_text(code)
        there.append(Question(name, name, "--x 'a b'", 30))
    found = gpu.options(["--small"] if small else [])
    ask(there, found, folder / "none.jsonl", ABOUT, deadline)
    return {row["name"]: row["status"] for row in read(folder / "none.jsonl")}


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    return tmp_path


def test_a_failing_question_does_not_stop_the_next(here) -> None:
    words = ["--x", "a b", "--out", str(here), "--small"]
    told = f"import sys; assert sys.argv[1:] == {words!r}, sys.argv"
    found = asked(here, float("inf"), small=True, a="raise SystemExit(3)", b=told)
    assert found == {"a": "failed: exit 3", "b": "ok"}


def test_questions_without_time_are_left_for_later(here) -> None:
    found = asked(here, time.monotonic() + gpu.GRACE + 5, a="raise SystemExit(3)")
    assert found == {"a": "skipped: 5 s left of 30"}


def test_what_is_answered_is_passed_over_and_failures_come_last() -> None:
    status = {"one": "failed: exit 1", "two": "ok", "three": "skipped: 3 s left of 9", "four": "timed out"}
    rows = [ABOUT | {"op": "stage", "name": name, "status": text} for name, text in status.items()]
    there = [Question(name, "step", "", 9) for name in ("one", "two", "three", "four", "five")]

    def names(about: dict) -> list[str]:
        return [question.name for question in unanswered(there, rows, about)]

    assert names(ABOUT) == ["three", "five", "one", "four"]
    rows.append(rows[0] | {"status": "ok"})  # the last attempt counts
    assert names(ABOUT) == ["three", "five", "four"]
    for other in ("source", "torch", "device"):
        assert names(ABOUT | {other: "other"}) == [question.name for question in there]


def test_the_command_goes_on_and_shows_what_is_known(here, monkeypatch, capsys) -> None:
    def one(data_root: Path | None = None) -> list[Question]:
        return [Question("a", "a", "", 30), Question("b", "b", "", 30)]

    monkeypatch.setattr(gpu, "questions", one)
    before = signal.getsignal(signal.SIGTERM)
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "PYTHONPATH"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # put back afterwards
    paths = f"import os; assert os.environ['PYTHONPATH'].split(os.pathsep)[:2] == {gpu.PLACES!r}"
    (here / "benchmarks").mkdir()
    (here / "benchmarks" / "a.py").write_text(paths)
    (here / "benchmarks" / "b.py").write_text("raise SystemExit(1)")
    out = ["--small", "--out", str(here / "out")]
    try:
        assert gpu.main(out) == 1
        assert "| b | failed: exit 1 |" in capsys.readouterr().out
        (here / "benchmarks" / "a.py").write_text("raise SystemExit(5)")
        (here / "benchmarks" / "b.py").write_text("")
        assert gpu.main(out) == 0
        assert gpu.main([*out, "--again", "a"]) == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    (path,) = (here / "out").iterdir()
    assert [(r["name"], r["status"]) for r in read(path)] == [
        ("a", "ok"), ("b", "failed: exit 1"), ("b", "ok"), ("a", "failed: exit 5"),
    ]  # fmt: skip
    assert path == path_for(here / "out", read(path)[0]["device"])


def test_what_is_told_to_end_can_leave_what_it_has_and_its_children_end(tmp_path) -> None:
    code = f"""
import pathlib, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path({str(tmp_path / "child")!r}).write_text(str(child.pid))
def stop(number, frame):
    pathlib.Path({str(tmp_path / "left")!r}).write_text("what it has")
    sys.exit(1)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(60)
"""
    assert ended([sys.executable, "-c", code], 2.0) == "timed out"
    assert (tmp_path / "left").read_text() == "what it has"
    child = int((tmp_path / "child").read_text())
    end = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and "Z (zombie)" not in Path(f"/proc/{child}/status").read_text():
        assert time.monotonic() < end, "its child lives"
        time.sleep(0.05)


def test_one_that_does_not_listen_is_killed(monkeypatch) -> None:
    monkeypatch.setattr(gpu, "GRACE", 0.3)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    started = time.monotonic()
    assert ended([sys.executable, "-c", code], 1.0) == "timed out"
    assert time.monotonic() - started < 30


def test_a_request_to_end_reaches_the_question_under_way(tmp_path) -> None:
    mark = tmp_path / "pid"
    code = (
        f"import os, pathlib, time; pathlib.Path({str(mark)!r}).write_text(str(os.getpid())); time.sleep(60)"
    )
    driver = f"""
import signal, sys; sys.path[:0] = [{str(ROOT)!r}]
from benchmarks.gpu import ended
signal.signal(signal.SIGTERM, signal.default_int_handler)
ended([sys.executable, "-c", {code!r}], 60)
"""
    with subprocess.Popen([sys.executable, "-c", driver], stderr=subprocess.DEVNULL) as process:
        end = time.monotonic() + 60
        while not mark.exists() or not mark.read_text():
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) != 0
    assert not os.path.exists(f"/proc/{mark.read_text()}")
