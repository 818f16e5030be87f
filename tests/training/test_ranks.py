"""One run on several processes: the method of one process, the same images, and an end together."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from rich.console import Console

from srat_fast import Recipe, UserError, ranks, train
from srat_fast.data.arrays import ImageSet
from srat_fast.data.memory import MemoryLoader
from srat_fast.errors import Interrupted, TrainingFailure, launched, teller
from srat_fast.models.build import build_model
from srat_fast.ranks import Ranks
from srat_fast.recipe import build_recipe
from srat_fast.record import RunDirectory, versions
from srat_fast.training.checkpoint import Checkpoints
from srat_fast.training.resume import Begin, begin
from srat_fast.training.setup import Setup
from srat_fast.training.step import FastEngine
from srat_fast.training.stops import Stops
from srat_fast.training.trainer import _place
from tests.training.short_runs import StopAfter, assert_equal_runs, record, short
from tests.training.together import Together, together
from tests.training.trajectories import CASES, COUNTS, LOCAL, MORE, UNDER, tiny_network, trajectories


class Part(Ranks):
    """One of several processes, as loaders see it."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


def both() -> dict[str, dict[str, Any]]:
    """Twenty-one steps of three methods, three of what else sees more than its own images."""
    return trajectories(CASES | MORE, dict.fromkeys(MORE, 1) | {"stages": 2, "captured": 2})


def one() -> dict[str, dict[str, Any]]:
    """The method that gathers most."""
    return trajectories({"srat-ldam": CASES["srat-ldam"]})


@pytest.mark.parametrize("size", [2, 3])
def test_trajectories_are_those_of_one_process_in_float64(
    size: int, expected: dict[str, dict[str, Any]]
) -> None:
    """Batches that do not divide, and a last one of a single image."""
    found = together(size, both if size == 2 else one)
    for name in found[0]:
        alone = expected[name]
        for own in (result[name] for result in found):
            assert (own["weights"] == found[0][name]["weights"]).all(), name
            assert (own["stopped_at"], own["kept"]) == (1, True), name  # a NaN in the last one's images
            if name == LOCAL:
                continue
            assert own["correct"] == alone["correct"], name
            np.testing.assert_allclose(own["losses"], alone["losses"], rtol=0, atol=1e-10, err_msg=name)
            np.testing.assert_allclose(own["weights"], alone["weights"], rtol=0, atol=1e-10, err_msg=name)
            np.testing.assert_allclose(own["figures"], alone["figures"], rtol=0, atol=1e-9, err_msg=name)
        # the attack on 8 images, and in the first process on the one of the last batch
        assert [result[name]["captured"] for result in found] == (
            [2, 1] if name == "captured" else [0] * size
        )
        if name != LOCAL:
            assert sum(result[name]["zero"] for result in found) == alone["zero"]


@pytest.fixture(scope="module")
def expected() -> dict[str, dict[str, Any]]:
    return both()


@pytest.mark.parametrize("size", [2, 3, 7])
@pytest.mark.parametrize("policy", ["off", "randaugment"])
def test_shares_are_the_batches_of_one_process(size: int, policy: str) -> None:
    """No image twice and none lost: put together in order they are what one process has, bit for bit."""
    pixels = np.random.default_rng(0).integers(0, 256, (37, 8, 8, 3), dtype=np.uint8)
    data = ImageSet(pixels, np.arange(37) % 4)

    def loader(ranks: Ranks) -> MemoryLoader:
        return MemoryLoader(
            data, batch_size=16, device=torch.device("cpu"), seed=3, crop_padding=1, flip=True, shuffle=True,
            policy=policy, ranks=ranks,
        )  # fmt: skip

    whole = list(loader(Ranks()).epoch(2, 1))
    parts = [list(loader(Part(rank, size)).epoch(2, 1)) for rank in range(size)]
    for at, (images, labels) in enumerate(whole):
        assert torch.equal(torch.cat([part[at][0] for part in parts]), images)
        assert all(torch.equal(part[at][1], labels) for part in parts)
        assert max(len(part[at][0]) for part in parts) <= -(-len(images) // size)


def in_turn(out: Path) -> list[str]:
    """A whole run; the same one interrupted in its middle and taken up again; and statistics of shares."""
    with tiny_network():
        return _in_turn(out)


def tiny_run(**changes: Any) -> Recipe:
    """A short run of the tiny network."""
    return short(model__name="tiny", run__tensorboard=False, **changes)


def _in_turn(out: Path) -> list[str]:
    recipe, second = tiny_run(), launched()[0] == 1
    told = [json.dumps(train(recipe, out / "whole"), sort_keys=True)]
    stops = StopAfter(5) if second else Stops()
    try:
        train(recipe, out / "cut", stops=stops)
    except Interrupted as stop:
        told.append(str(stop))
    told.append(f"asked: {stops.requested}")
    if not second:
        shutil.copytree(out / "cut", out / "one")
    train(recipe, out / "cut", resume="must")
    try:
        train(recipe.replace({"optim.batch_size": 1}), out / "bad")
    except UserError as error:
        told.append(error.line())
    local = tiny_run(run__batch_norm="local", attack__bn="frozen", feedback__rule="wat", method="trades")
    train(local, out / "local")
    try:
        train(tiny_run(optim__lr=1e30, optim__warmup_epochs=0, run__checkpoint_minutes=1e-9), out / "inf")
    except TrainingFailure as error:
        told.append(str(error))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDirectory, "append_metrics", full)
        try:
            train(recipe, out / "full")
        except TrainingFailure as error:
            told.append(f"{error.failure}: {error}")
    for changes in ({"seed": 1}, {"run.device": "cuda:1"}):  # of one of two commands
        try:
            train(recipe.replace(changes if second else {}), out / "other")
        except (TrainingFailure, UserError) as error:
            told.append(f"{teller(error)}{error}")
    return told


def full(run: RunDirectory, line: dict[str, Any]) -> None:
    """No room is left."""
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_run_on_two_processes(tmp_path: Path) -> None:
    """fp32, validated, resumed to the bit; another number of processes goes on and says so."""
    told, other = together(2, in_turn, tmp_path)
    assert told.pop(0) == other.pop(0) == json.dumps(record(tmp_path / "whole"), sort_keys=True)
    # a signal of the first one's own would be its first, not the second, which ends a process at once
    assert (told.pop(1), other.pop(1)) == ("asked: False", "asked: True")
    assert told[:3] == other[:3]
    assert "in epoch 1, step 2 (before its update)" in told[2]
    assert record(tmp_path / "inf")["failure"] == "nonfinite"
    newest = max((tmp_path / "inf" / "checkpoint").glob("0*"))
    assert newest.name == "000000-0000001"  # though a save was due at each step
    assert told[3].startswith("disk: the disk of ")
    assert other[3] == f"disk: rank 0 has failed: {told[3].removeprefix('disk: ')}"
    assert told[0].startswith("stopped by SIGTERM in epoch ")
    assert told[1].startswith("optim.batch_size = 1: at least an image a process is needed, 2")
    assert not (tmp_path / "bad").exists()
    assert not (tmp_path / "other").exists()
    assert re.fullmatch(r"rank 1 \(on .+\) and rank 0 differ: their recipes", told[4])
    assert other[4] == f"None{told[4]}"
    wrong = "run.device = 'cuda:1': auto, cpu or cuda: each process takes the GPU of its own number on its machine"
    assert (told[5], other[5]) == (f"rank 1 has failed: {wrong}", f"rank 1: {wrong}")
    assert_equal_runs(tmp_path / "whole", tmp_path / "cut")
    with tiny_network():
        train(tiny_run(), tmp_path / "alone")
        heard = io.StringIO()
        train(tiny_run(), tmp_path / "one", resume="must", console=Console(file=heard, width=200))
    assert record(tmp_path / "one")["resumed"][-1]["processes"] == [2, 1]
    assert "2 process(es) before, 1 now: the same images and noise" in heard.getvalue()
    one, two = record(tmp_path / "alone"), record(tmp_path / "whole")
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["fingerprint"] == two["fingerprint"]
    for kind in ("standard", "robust"):
        assert abs(one[kind]["overall"] - two[kind]["overall"]) <= 0.1
    assert record(tmp_path / "local")["final_epoch"]["loss"] > 0


def until_killed(out: Path) -> list[str]:
    """A run that a signal ends, and then the end of another process."""
    told = []
    with tiny_network():
        recipe = tiny_run(optim__epochs=300)
        for resume in (None, "must"):
            try:
                train(recipe, out, resume=resume)
            except (Interrupted, TrainingFailure) as end:
                told.append(f"{getattr(end, 'code', 1)} {end}")
    return told


def test_a_signal_or_the_end_of_one_process_ends_all(tmp_path: Path) -> None:
    """SIGTERM to one alone: all stop at one step, and the first saves. SIGKILL: the others name it, within seconds."""
    out = tmp_path / "run"
    run = Together(2, until_killed, out)
    try:
        second = run.processes[1].pid
        assert second is not None
        wait_until(lambda: epochs(out) >= 2, run)
        os.kill(second, signal.SIGTERM)
        wait_until(lambda: (out / "record.json").exists(), run)
        saved = record(out)
        assert saved["status"] == "interrupted"
        assert len(list((out / "checkpoint").glob("0*"))) == 1
        before = epochs(out)
        wait_until(lambda: epochs(out) > before, run)
        os.kill(second, signal.SIGKILL)
        killed = time.monotonic()
    finally:
        (done, told), (other_done, _) = run.results()
    assert time.monotonic() - killed < 20
    assert (done, other_done) == (True, False)
    assert told[0].startswith("143 stopped by SIGTERM in epoch ")
    assert told[1].startswith(f"1 rank 1 (process {second} on ")
    assert "was killed or ended without a word; --resume goes on from the last checkpoint" in told[1]
    assert record(out)["status"] == "failed"


def epochs(out: Path) -> int:
    """Lines of metrics."""
    file = out / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def wait_until(condition: Callable[[], bool], run: Together) -> None:
    """Half a minute at most."""
    until = time.monotonic() + 30
    while not condition():
        assert run.running(), run.results(0.0)
        assert time.monotonic() < until, "too slow"
        time.sleep(0.02)


def test_a_process_that_never_starts_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ranks, "_STORES", [])
    with pytest.raises(
        TrainingFailure, match=r"^rank 1 of 2 did not start within 0\.5 s \(run\.peer_seconds\)$"
    ):
        train(short(run__peer_seconds=0.5), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_process_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of four wait in vain, and say so to each other; the first of them prints it."""
    monkeypatch.setattr(ranks, "_TOLD", 0.05)
    store, told = dist.HashStore(), {}
    for rank in (1, 3):
        group = ranks.Group(rank, 4, 60.0)
        group._store = store
        told[rank] = group
    told[3]._lost(RuntimeError("timed out"))
    first, last = told[1]._lost(RuntimeError("timed out")), told[3]._lost(RuntimeError("timed out"))
    assert str(first).startswith("rank 0, 2 of 4 is gone or silent for 60 s (run.peer_seconds)")
    assert (getattr(first, "rank", None), getattr(last, "rank", None)) == (1, None)


class Gone:
    """A store whose process has ended."""

    def check(self, *given: object) -> bool:
        raise RuntimeError("Broken pipe")

    set = check


def test_a_launcher_that_is_gone_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    group = ranks.Group(1, 2, 60.0)
    group._store = Gone()
    with pytest.raises(ranks.PeerLost, match=r"^torchrun has ended without a word; --resume goes on"):
        group.on_first(lambda: None)


def test_a_gpu_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe of a run has the first one's; all processes of a machine refuse too few in the same words."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    group = ranks.Group(1, 2, 60.0)
    assert [group.device(asked) for asked in ("auto", "cuda", "cuda:0", "cpu")] == ["cuda:1"] * 3 + ["cpu"]
    with pytest.raises(UserError, match=r"^run\.device = 'cuda:1': auto, cpu or cuda"):
        group.device("cuda:1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    for rank in range(4):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        with pytest.raises(
            UserError, match=r"^--nproc-per-node = 4: this machine has 2 GPU\(s\); a GPU each"
        ):
            ranks.Group(rank, 4, 60.0).device("auto")


def test_features_that_rest_exchange_no_statistics() -> None:
    fields = {
        "data.name": "folder", "data.image_size": 12, "model.name": "tiny", "model.width": 4, "method": "ce",
        "stages.lengths": "1, 6", "stages.train": "all, head", "optim.epochs": 7, "attack.random_start": False,
        "run.batch_norm": "local", "run.precision": "fp32", "run.compile": "off", "run.capture": "off",
    }  # fmt: skip
    with tiny_network():
        recipe = build_recipe("paper", fields).resolve()
        model = build_model(recipe, classes=4, channels=3, moments=None)
        engine = FastEngine(recipe, model, COUNTS, UNDER, Part(0, 3))
    engine.start_epoch(1)
    before = [buffer.clone() for buffer in model.buffers()]
    engine.step(torch.rand(23, 3, 12, 12), torch.arange(23) % 4)
    assert all(torch.equal(old, new) for old, new in zip(before, model.buffers(), strict=True))


def test_several_processes_take_up_a_compiled_run(tmp_path: Path) -> None:
    """They go on uncompiled, whatever was asked for, and so does one process after them."""
    compiled = short(run__compile="on", run__capture="off").resolve().to_dict()
    run = RunDirectory.create(tmp_path / "run")
    run.write_json("recipe.json", compiled)
    run.release()
    about = {"recipe": compiled, "versions": versions(), "epoch": 1, "step": 3}
    Checkpoints(run.path / "checkpoint").save("000001-0000000", {}, about)

    def taken_up(choice: str, processes: int) -> Begin:
        start = begin(short(run__compile=choice).resolve(), run.path, "must", processes=processes)
        start.run.release()
        return start

    assert taken_up("auto", 1).recipe.run.compile == "on"
    for choice in ("auto", "on", "off"):
        start = taken_up(choice, 2)
        assert start.recipe.run.compile == "off"
        assert start.entries[-1]["changes"]["run.compile"] == ["on", "off"]
    run.write_json("recipe.json", start.recipe.to_dict())
    assert taken_up("auto", 1).recipe.run.compile == "off"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "2 processes on cpu, BatchNorm sync, nothing captured"),
        ({"attack.bn": "running"}, "2 processes on cpu, BatchNorm sync, the attack alone captured"),
        ({"run.batch_norm": "local", "run.capture": "off"}, "2 processes on cpu, BatchNorm local"),
    ],
)
def test_a_run_says_what_is_captured(changes: dict[str, Any], says: str) -> None:
    fields = {"data.name": "digits", "model.width": 2, "run.compile": "off", "run.capture": "on"}
    recipe, cpu = build_recipe("paper", fields | changes).resolve(), torch.device("cpu")
    model = build_model(recipe, classes=4, channels=1, moments=None)
    engine = FastEngine(recipe, model, COUNTS, UNDER, Part(0, 2))
    unused: Any = None
    assert _place(Setup(recipe, cpu, unused, unused, engine, Part(0, 2))) == says
