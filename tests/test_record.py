"""Run directories: made new, written atomically, discarded when a run never began."""

from __future__ import annotations

import json
import os

import pytest

from srat_fast.errors import UserError
from srat_fast.record import RunDirectory, git_commit, plain_json, versions, write_atomically


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


def test_versions_and_commit() -> None:
    assert {"python", "torch", "numpy"} <= set(versions())
    commit = git_commit()
    assert commit is None or len(commit.partition("+")[0]) == 40


def test_a_directory_whose_name_is_no_text_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match=r"--out = b'.*caf\\xe9': is not UTF-8; rename it"):
        RunDirectory.create(tmp_path / os.fsdecode(b"caf\xe9"))
    assert list(tmp_path.iterdir()) == []
