"""Run directories: made new, written atomically, discarded when a run never began."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from srat_fast.errors import UserError
from srat_fast.record import RunDirectory, git_commit, plain_json, status_of, versions, write_atomically


def test_a_failed_write_leaves_the_old_file(tmp_path) -> None:
    file = tmp_path / "a"
    write_atomically(file, b"old")
    with pytest.raises(TypeError):
        write_atomically(file, "not bytes")
    assert file.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_discard_removes_only_what_create_made(tmp_path) -> None:
    run = RunDirectory.create(tmp_path / "x" / "y")
    run.write_json("recipe.json", {"a": 1})
    run.discard()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    run = RunDirectory.create(tmp_path / "mine")
    run.write_json("recipe.json", {"a": 1})
    run.discard()
    assert list((tmp_path / "mine").iterdir()) == []


def test_nan_is_null_in_every_file(tmp_path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    run.append_metrics({"loss": float("nan"), "list": (1, float("inf"))})
    assert json.loads((run.path / "metrics.jsonl").read_text()) == {"loss": None, "list": [1, None]}
    assert plain_json({1: (2.5,)}) == {"1": [2.5]}


def test_damaged_records_are_refused(tmp_path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    (run.path / "record.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        run.read_json("record.json")
    with pytest.raises(UserError, match=r"has no recipe\.json"):
        run.read_json("recipe.json")


@pytest.mark.parametrize("problem", [errno.EACCES, errno.EIO, errno.ELOOP])
def test_what_cannot_be_read_says_why(problem, tmp_path, monkeypatch) -> None:
    run = RunDirectory.create(tmp_path / "run")
    run.write_json("record.json", {})
    (run.path / "model.safetensors").write_bytes(b"weights")

    def refused(*arguments: object, **options: object) -> None:
        raise OSError(problem, os.strerror(problem))

    monkeypatch.setattr("pathlib.Path.read_text", refused)
    monkeypatch.setattr("pathlib.Path.read_bytes", refused)
    with pytest.raises(UserError, match=f"its record.json cannot be read: {os.strerror(problem)}"):
        run.read_json("record.json")
    with pytest.raises(UserError, match=f"its model.safetensors cannot be read: {os.strerror(problem)}"):
        run.read_weights("last")


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", '"text"', "[" * 100_000])
def test_json_that_is_no_record(content, tmp_path) -> None:
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(UserError, match=r"its record\.json is damaged"):
        RunDirectory(tmp_path).read_json("record.json")


def test_a_name_that_is_too_long_is_one_line(tmp_path) -> None:
    for place in (RunDirectory.create, RunDirectory.reopen, RunDirectory.open):
        with pytest.raises(UserError, match="File name too long"):
            place(tmp_path / ("x" * 256))
    assert list(tmp_path.iterdir()) == []


ENDED = """
import os, sys
from pathlib import Path
from srat_fast.record import RunDirectory
run = RunDirectory.create(Path(sys.argv[1]))
run.write_json("recipe.json", {})
run.append_metrics({"epoch": 0})
print("at work", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_process_that_a_signal_ended_does_not_run_for_ever(number, tmp_path) -> None:
    path = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", ENDED, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "at work\n"
        assert status_of(path, None) == {"status": "running"}
        with pytest.raises(UserError, match="another process is training in it"):
            RunDirectory.reopen(path)
    finally:
        process.send_signal(number)
        process.communicate()
    found = status_of(path, None)
    assert found["status"] == "killed"
    assert "after 1 epochs; train --resume goes on" in found["problem"]
    assert status_of(path, {"status": "interrupted", "problem": "an earlier attempt"}) == found
    assert status_of(path, {"status": "finished"}) == {"status": "finished"}
    with pytest.raises(UserError, match=r"has no model\.safetensors; killed: its process on "):
        RunDirectory.open(path)
    run = RunDirectory.reopen(path)
    assert status_of(path, None) == {"status": "running"}
    run.write_json("record.json", {"status": "interrupted"})
    run.release()
    assert status_of(path, {"status": "interrupted"}) == {"status": "interrupted"}


def test_an_end_that_could_not_be_recorded_is_seen_too(tmp_path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    run.write_json("recipe.json", {})
    run.release()  # on a full disk: without a record
    assert status_of(run.path, None)["status"] == "killed"


def test_another_host_s_run_is_not_taken_for_dead(tmp_path) -> None:
    (tmp_path / "recipe.json").write_text("{}")
    (tmp_path / ".lock").write_text("elsewhere")
    assert status_of(tmp_path, None) == {
        "status": "running", "problem": "on elsewhere, as far as can be seen from here",
    }  # fmt: skip
    old = time.time() - 2 * 24 * 3600
    for entry in (tmp_path / ".lock", tmp_path / "recipe.json", tmp_path):
        os.utime(entry, (old, old))
    assert status_of(tmp_path, None)["status"] == "killed"


def test_a_look_does_not_keep_a_run_from_starting(tmp_path) -> None:
    """`status_of` has the lock for a moment; whoever begins just then tries again."""
    (tmp_path / "recipe.json").write_text("{}")
    handle = os.open(tmp_path / ".lock", os.O_RDONLY | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_SH)
    timer = threading.Timer(0.08, os.close, [handle])
    timer.start()
    RunDirectory.reopen(tmp_path).release()
    timer.join()


def test_versions_and_commit() -> None:
    assert {"python", "torch", "numpy"} <= set(versions())
    commit = git_commit()
    assert commit is None or len(commit.partition("+")[0]) == 40


def test_a_directory_whose_name_is_no_text_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match=r"--out = b'.*caf\\xe9': is not UTF-8; rename it"):
        RunDirectory.create(tmp_path / os.fsdecode(b"caf\xe9"))
    assert list(tmp_path.iterdir()) == []
