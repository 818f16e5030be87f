"""Checkpoints that can be trusted: faults are injected for real; what loads is what was saved, or it is refused."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch

from srat_fast import TrainingFailure, train
from srat_fast.errors import DiskFull, Interrupted, UserError
from srat_fast.record import RunDirectory
from srat_fast.training.checkpoint import MANIFEST, Checkpoints, Damaged, read
from tests.training.short_runs import StopAfter, assert_equal_runs, metrics, record, short

FILES = {"a": b"\x00" * 5000, "b": b"text"}


def flip(path: Path, at: int | None = None) -> None:
    """Turn one bit over."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 1
    path.write_bytes(content)


@pytest.fixture
def saved(tmp_path) -> Checkpoints:
    checkpoints = Checkpoints(tmp_path / "checkpoint")
    for step in range(4):
        checkpoints.save(f"{step:03}", FILES | {"b": str(step).encode()}, {"step": step})
    return checkpoints


def test_the_two_newest_stay_and_load(saved) -> None:
    assert sorted(p.name for p in saved.directory.iterdir()) == ["002", "003"]
    found, problems = saved.newest()
    assert (found.name, found.about, found.files["b"], problems) == ("003", {"step": 3}, b"3", [])


@pytest.mark.parametrize("file", ["a", "b", MANIFEST])
def test_one_flipped_bit_falls_back_to_the_previous_one(file, saved) -> None:
    """At every tenth byte of the manifest: its own fields are covered too."""
    path = saved.directory / "003" / file
    original = path.read_bytes()
    for at in range(0, len(original), 1 if len(original) < 5 else 23):
        flip(path, at)
        with pytest.raises(Damaged):
            read(path.parent)
        path.write_bytes(original)
    flip(path)
    found, problems = saved.newest()
    assert found.files["b"] == b"2"
    assert problems[0].startswith("003: ")
    assert not (saved.directory / "003").exists()


def test_truncated_missing_and_extra(saved) -> None:
    (saved.directory / "003" / "a").write_bytes(FILES["a"][:-1])
    with pytest.raises(Damaged, match="a has 4,999 bytes instead of 5,000"):
        read(saved.directory / "003")
    (saved.directory / "003" / "a").unlink()
    with pytest.raises(Damaged, match="No such file"):
        read(saved.directory / "003")


def test_all_damaged_is_refused_and_nothing_is_removed(saved) -> None:
    for name in ("002", "003"):
        flip(saved.directory / name / "a")
    with pytest.raises(
        UserError, match=r"every checkpoint is damaged .003: a .*002: a .*remove the directory"
    ):
        saved.newest()
    assert len(list(saved.directory.iterdir())) == 2


def test_another_schema_is_refused_by_name(saved) -> None:
    from srat_fast.training.checkpoint import _digest

    path = saved.directory / "003" / MANIFEST
    manifest = json.loads(path.read_bytes())
    manifest["schema"] = 0
    manifest["self"] = _digest({key: value for key, value in manifest.items() if key != "self"})
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="its schema is 0 and this version reads 1"):
        saved.newest()


def test_leftovers_of_killed_saves_are_cleaned(saved) -> None:
    shutil.copytree(saved.directory / "003", saved.directory / ".tmp-004")
    (saved.directory / ".tmp-004" / MANIFEST).unlink()
    assert saved.newest()[0].name == "003"
    assert sorted(p.name for p in saved.directory.iterdir()) == ["002", "003"]


def test_a_full_disk_leaves_the_old_checkpoint_and_says_what_is_needed(disk_of) -> None:
    checkpoints = Checkpoints(disk_of("3m") / "checkpoint")
    big = {"a": os.urandom(1_200_000)}
    checkpoints.save("001", big, {})
    checkpoints.save("002", big, {})
    with pytest.raises(TrainingFailure) as failure:
        checkpoints.save("003", big, {})
    said = str(failure.value)
    assert isinstance(failure.value, DiskFull)
    assert "the disk is full: a checkpoint of 1,200," in said
    assert str(checkpoints.directory) in said
    assert "the one before it (002) is intact" in said
    assert sorted(p.name for p in checkpoints.directory.iterdir()) == ["001", "002"]
    assert checkpoints.newest()[0].files == big


def test_a_run_on_a_full_disk_fails_in_words_and_goes_on_when_there_is_room(disk_of, tmp_path) -> None:
    recipe = short(run__checkpoint_epochs=1, run__tensorboard=False, optim__epochs=4)
    train(recipe, tmp_path / "whole")
    disk = disk_of("3m")
    out = disk / "run"
    with pytest.raises(Interrupted):
        train(recipe, out, stops=StopAfter(8))
    (disk / "ballast").write_bytes(b"\0" * (shutil.disk_usage(disk).free - 200_000))
    with pytest.raises(TrainingFailure, match=r"disk .*is full"):
        train(recipe, out, resume="auto")
    assert record(out)["status"] == "failed"
    assert "is full" in record(out)["problem"]
    assert record(out)["failure"] == "disk"
    (disk / "ballast").unlink()
    train(recipe, out, resume="auto")
    assert_equal_runs(tmp_path / "whole", out)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run stopped in its second epoch, with two checkpoints, and the same run uninterrupted."""
    place = tmp_path_factory.mktemp("checkpoint")
    recipe = short(run__checkpoint_epochs=1)
    train(recipe, place / "whole")
    with pytest.raises(Interrupted):
        train(recipe, place / "run", stops=StopAfter(7))
    assert len(list((place / "run" / "checkpoint").iterdir())) == 2
    return recipe, place / "run", place / "whole"


@pytest.fixture
def run(interrupted, tmp_path):
    """A copy of it to be damaged."""
    recipe, out, whole = interrupted
    shutil.copytree(out, tmp_path / "run")
    return recipe, tmp_path / "run", whole


def newest(out: Path) -> Path:
    return max((out / "checkpoint").iterdir())


def test_a_flipped_bit_in_a_run_is_told_and_the_result_is_the_same(run) -> None:
    """torch.load and safetensors would both load it silently."""
    recipe, out, whole = run
    flip(newest(out) / "model.safetensors")
    name = newest(out).name
    train(recipe, out, resume="auto")
    assert_equal_runs(whole, out)
    (entry,) = record(out)["resumed"]
    assert entry["fallback"] == [f"{name}: model.safetensors does not have the SHA-256 that was saved"]
    assert entry["from"] < name


class Bomb:
    """Pickles to a call of os.mkdir."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_a_pickle_bomb_as_a_checkpoint_is_refused_and_not_executed(run, tmp_path) -> None:
    """With a manifest that agrees, as an attacker would write it."""
    from srat_fast.training.checkpoint import _digest

    recipe, out, _ = run
    place, buffer = newest(out), io.BytesIO()
    torch.save({"position": Bomb(tmp_path / "executed")}, buffer)
    (place / "state.pt").write_bytes(buffer.getvalue())
    manifest = json.loads((place / MANIFEST).read_text())
    manifest["sha256"]["state.pt"] = hashlib.sha256(buffer.getvalue()).hexdigest()
    manifest["bytes"]["state.pt"] = len(buffer.getvalue())
    manifest["self"] = _digest({key: value for key, value in manifest.items() if key != "self"})
    (place / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"the checkpoint calls posix\.mkdir: refused, nothing was executed"):
        train(recipe, out, resume="auto")
    assert not (tmp_path / "executed").exists()
    torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    assert (tmp_path / "executed").exists(), "the bomb is live: the unguarded way runs it"


def test_another_recipe_is_refused_with_the_fields(run, tmp_path) -> None:
    recipe, out, _ = run
    before = sorted(p.name for p in out.iterdir())
    with pytest.raises(
        UserError, match=r"optim\.lr is 0\.1 there and 0\.2 here; optim\.decay is 0\.1 there and 0\.5"
    ):
        train(recipe.replace({"optim.lr": 0.2, "optim.decay": 0.5}), out, resume="auto")
    assert sorted(p.name for p in out.iterdir()) == before
    other = tmp_path / "other"
    with pytest.raises(Interrupted):
        train(recipe.replace({"seed": 1}), other, stops=StopAfter(7))
    shutil.rmtree(out / "checkpoint")
    shutil.copytree(other / "checkpoint", out / "checkpoint")  # a checkpoint that strayed into another run
    with pytest.raises(UserError, match="a run of another recipe: seed is 1 there and 0 here"):
        train(recipe, out, resume="auto")


def test_other_images_are_refused(run) -> None:
    from srat_fast.training.checkpoint import _digest

    recipe, out, _ = run
    path = newest(out) / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["data_checksum"] = "0" * 64
    manifest["self"] = _digest({key: value for key, value in manifest.items() if key != "self"})
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="its images are not those that the run began with"):
        train(recipe, out, resume="auto")


def test_a_torn_last_line_and_undone_epochs_leave_metrics(run) -> None:
    recipe, out, whole = run
    with (out / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": 1, "loss": 7.0}) + "\n" + '{"epoch": 2, "lo')
    train(recipe, out, resume="auto")
    assert metrics(out) == metrics(whole)


def test_tensorboard_shows_each_epoch_once(run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from srat_fast.training.curves import Curves

    recipe, out, _ = run
    undone = Curves(out, True)  # points of epochs that no checkpoint has: what a kill leaves
    undone.epoch(1, {"train/loss": 99.0})
    undone.epoch(2, {"train/loss": 99.0})
    undone.close()
    time.sleep(1.1)  # files are read in the order of their names, which have whole seconds
    train(recipe, out, resume="auto")
    events = EventAccumulator(str(out))
    events.Reload()
    points = events.Scalars("train/loss")
    assert [p.step for p in points] == [0, 1, 2]
    assert 99.0 not in [p.value for p in points]


def test_fields_that_change_nothing_computed_may_change_and_are_recorded(run) -> None:
    recipe, out, whole = run
    changed = recipe.replace({"run.checkpoint_minutes": 3.0, "run.tensorboard": False})
    train(changed, out, resume="must")
    assert_equal_runs(whole, out)
    (entry,) = record(out)["resumed"]
    assert entry["changes"] == {"run.checkpoint_minutes": [10.0, 3.0], "run.tensorboard": [True, False]}
    assert (entry["epoch"], entry["step"]) == (1, 4)
    assert record(out)["recipe"]["run"]["checkpoint_minutes"] == 3.0


def test_two_processes_cannot_train_in_one_directory(run) -> None:
    recipe, out, whole = run
    holder = RunDirectory.reopen(out)
    with pytest.raises(UserError, match="another process is training in it"):
        train(recipe, out, resume="auto")
    holder.release()
    train(recipe, out, resume="auto")
    assert_equal_runs(whole, out)


def test_a_finished_run_returns_its_record_at_once(interrupted, tmp_path) -> None:
    recipe, _, whole = interrupted
    before = {p.name: p.stat().st_mtime_ns for p in whole.iterdir()}
    assert train(recipe, whole, resume="auto") == record(whole)
    assert train(recipe, whole, resume="must") == record(whole)
    assert {p.name: p.stat().st_mtime_ns for p in whole.iterdir()} == before
    with pytest.raises(UserError, match="seed is 0 there and 5 here"):
        train(recipe.replace({"seed": 5}), whole, resume="auto")
    with pytest.raises(UserError, match=r"there is no run to continue: no recipe\.json"):
        train(recipe, tmp_path / "none", resume="must")
    assert not (tmp_path / "none").exists()


def test_a_run_killed_before_its_first_checkpoint_begins_again(interrupted, tmp_path) -> None:
    recipe, _, whole = interrupted
    out = tmp_path / "run"
    out.mkdir()
    (out / ".lock").touch()  # killed before the recipe was written
    (out / "events.out.tfevents.1.host.2.0").touch()
    with pytest.raises(Interrupted):
        train(recipe, out, resume="auto", stops=StopAfter(4))
    shutil.rmtree(out / "checkpoint")
    (out / "record.json").unlink()
    (out / "metrics.jsonl").write_text('{"epoch": 0}\n{"ep')
    train(recipe, out, resume="auto")
    assert_equal_runs(whole, out)
    assert record(out)["resumed"][0]["from"] is None
    assert record(out)["resumed"][0]["after"] == "killed"
