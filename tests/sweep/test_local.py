"""The local engine under real faults: trials that are killed, crash, hang, fill the disk; drivers that die or meet."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from srat_fast.sweep.directory import SweepDirectory


def wait_for(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_plan_run_skip_and_grow(stage) -> None:
    code, text = stage.call("sweep", "spec.toml", "--dry-run")
    assert code == 0, text
    assert "4 runs in 2 cells" in text
    assert "estimated time: unknown (unknown until a run" in text
    assert not (stage.path / "sweeps").exists()
    code, text = stage.sweep()
    assert code == 0, text
    assert "4 of 4 done" in text
    assert [line[0] for line in stage.journal()].count("end") == 4
    code, text = stage.sweep()  # nothing is left
    assert code == 0, text
    assert "4 done" in text
    assert len([line for line in stage.journal() if line[0] in ("start", "again")]) == 4
    before = SweepDirectory.open(stage.out).plan.trials
    stage.spec(seeds=[0, 1, 2])
    assert stage.sweep()[0] == 0
    plan = SweepDirectory.open(stage.out).plan
    assert plan.trials[:4] == before, "indices of a plan never change"
    assert len(plan.trials) == 6
    assert stage.counts() == {"done": 6}
    stage.spec(seeds=[0, 1], axes={"method": ["ce", "focal"]})
    code, text = stage.sweep()
    assert code == 2
    assert "holds another sweep: 4 of its 6 runs are not in this spec" in text
    assert "Traceback" not in text


def test_a_removed_run_directory_is_run_again(stage) -> None:
    stage.spec(seeds=[0], axes={"method": ["ce"]})
    assert stage.sweep()[0] == 0
    (run,) = (stage.out / "runs").iterdir()
    run.rename(stage.path / "moved")
    assert stage.counts() == {"queued": 1}
    assert stage.sweep()[0] == 0
    assert stage.counts() == {"done": 1}


def test_killed_crashed_and_bad_trials(stage) -> None:
    stage.spec(seeds=list(range(9)), axes={"method": ["ce"]})
    stage.behave(
        {
            "0": ["killed", "ok"],
            "1": ["crash:always the same"],
            "2": ["crash:one", "crash:another", "ok"],
            "3": ["bad:no such thing"],
            "4": ["killed"],
            "5": ["nonfinite:in epoch 1", "nonfinite:in epoch 2", "nonfinite:in epoch 3"],
            "6": ["locked:by an earlier attempt", "locked:by an earlier attempt", "ok"],
            "7": ["silent"],
            "8": [
                "nonfinite:in epoch 1",
                "silent",
                "ok",
            ],  # the first one's record says nothing of the second
        }
    )
    code, text = stage.sweep()
    assert code == 1, text
    assert "4 of 9 done" in text
    sweep = SweepDirectory.open(stage.out)
    kinds = {t.seed: [a["kind"] for a in sweep.state(t)["attempts"]] for t in sweep.plan.trials}
    assert kinds == {
        0: ["killed", "finished"],
        1: ["error"] * 2,  # the same twice: a third time would be no better
        2: ["error", "error", "finished"],
        3: ["input"],
        4: ["killed"] * 3,
        5: ["nonfinite"] * 3,
        6: ["locked", "locked", "finished"],
        7: ["error"] * 2,
        8: ["nonfinite", "error", "finished"],
    }
    code, text = stage.call("sweep", "status", str(stage.out))
    assert "the same error twice: ValueError: always the same" in text
    assert "Traceback (most recent call last)" in text
    assert "bad input, not tried again: no such thing" in text
    assert "was killed (SIGKILL); 3 attempts" in text
    assert "the same error twice: nothing was printed" in text
    before = stage.journal()
    assert stage.sweep()[0] == 1  # failed ones stay failed until asked for
    assert stage.journal() == before
    stage.behave({})
    code, text = stage.call("sweep", "retry", str(stage.out), "1")
    assert code == 0, text
    assert "is queued again" in text
    assert stage.counts() == {"done": 4, "failed": 4, "interrupted": 1}
    assert stage.call("sweep", "retry", str(stage.out))[0] == 0
    assert stage.sweep()[0] == 0
    assert stage.counts() == {"done": 9}


def test_a_hang_is_ended_and_tried_again(stage) -> None:
    stage.spec(seeds=[0], axes={"method": ["ce"]})
    stage.behave({"0": ["hang", "ok"]})
    started = time.monotonic()
    code, text = stage.sweep("--stall-timeout", "1")
    assert code == 0, text
    assert "made no progress and was stopped" in text
    assert time.monotonic() - started < 45  # SIGTERM is ignored: SIGKILL after 10 s


def test_out_of_memory_takes_a_slot_away(stage) -> None:
    stage.spec(seeds=[0, 1, 2], axes={"method": ["ce"]})
    problem = "memory:too much in epoch 1"
    stage.behave({"0": [problem, "ok"], "1": ["epochs:10"], "2": [problem]})
    code, text = stage.sweep()
    assert code == 1, text
    assert "the CPU takes 1 trial(s) at a time from now on" in text
    assert "(it had its processor to itself)" in text
    assert stage.counts() == {"done": 2, "failed": 1}


@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_stopped_driver_lets_trials_save(stage, number, expected) -> None:
    stage.behave({"else": ["epochs:400"]})
    driver = stage.start("sweep", "spec.toml", "--out", str(stage.out), "--cpu-slots", "2", "--min-free", "0")
    wait_for(lambda: len(list(stage.out.glob("runs/*/checkpoint.txt"))) == 2)
    driver.send_signal(number)
    text, _ = driver.communicate(timeout=30)
    assert driver.returncode == expected, text
    assert "2 trial(s) save and exit" in text
    assert [line[0] for line in stage.journal()].count("saved") == 2
    assert stage.counts() == {"interrupted": 2, "queued": 2}
    stage.behave({"else": ["epochs:3"]})
    assert stage.sweep()[0] == 0
    assert stage.counts() == {"done": 4}
    sweep = SweepDirectory.open(stage.out)
    assert all(
        a["kind"] in ("stopped", "finished") for t in sweep.plan.trials for a in sweep.state(t)["attempts"]
    )


def test_a_killed_driver_takes_its_trials_along_and_the_next_resumes(stage) -> None:
    stage.behave({"else": ["epochs:30"]})
    driver = stage.start("sweep", "spec.toml", "--out", str(stage.out), "--cpu-slots", "2", "--min-free", "0")
    wait_for(lambda: len(list(stage.out.glob("runs/*/checkpoint.txt"))) == 2)
    children = [line[3] for line in stage.journal()]
    driver.kill()
    driver.communicate()
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in children), 10)
    assert [line[0] for line in stage.journal()].count("saved") == 2, "trials save when their driver dies"
    code, text = stage.sweep()
    assert code == 0, text
    assert stage.counts() == {"done": 4}
    records = [json.loads(p.read_text()) for p in stage.out.glob("runs/*/record.json")]
    assert [r["epochs"] for r in records] == [30] * 4, "resumed, not started again"


def test_two_drivers_never_run_a_trial_twice(stage) -> None:
    stage.spec(seeds=list(range(8)), axes={"method": ["ce"]})
    stage.behave({"else": ["epochs:4"]})
    options = ("sweep", "spec.toml", "--out", str(stage.out), "--cpu-slots", "2", "--min-free", "0")
    drivers = [stage.start(*options) for _ in range(2)]
    for driver in drivers:
        text, _ = driver.communicate(timeout=60)
        assert driver.returncode == 0, text
        assert "8 of 8 done" in text
    starts = [line[2] for line in stage.journal() if line[0] in ("start", "again")]
    assert sorted(starts) == list(range(8))


def test_a_full_disk_pauses_the_sweep(stage, disk_of) -> None:
    disk = disk_of("4m")
    stage.out = disk / "sweep"
    stage.spec(seeds=[0, 1, 2], axes={"method": ["ce"]})
    stage.behave({"1": ["fill", "ok"]})
    code, text = stage.call(
        "sweep", "spec.toml", "--out", str(stage.out), "--cpu-slots", "1", "--min-free", "0"
    )
    assert code == 3, text
    assert "paused: the disk is full (" in text
    assert "free some space, then run the same command again" in text
    for big in stage.out.glob("runs/*/big"):
        big.unlink()
    code, text = stage.call(
        "sweep", "spec.toml", "--out", str(stage.out), "--cpu-slots", "1", "--min-free", "50"
    )
    assert code == 3, text
    assert "less than 50 MiB (--min-free) are free" in text
    assert stage.sweep()[0] == 0
    assert stage.counts() == {"done": 3}


def test_run_one(stage) -> None:
    stage.spec(seeds=[0, 1], axes={"method": ["ce"]})
    assert stage.call("sweep", "run-one", str(stage.out), "0")[0] == 2
    code, text = stage.call("sweep", "plan", "spec.toml", "--out", str(stage.out))
    assert code == 0, text
    assert f"trials 0 to 1: srat-fast sweep run-one {stage.out} INDEX" in text
    assert not stage.journal()
    stage.behave({"0": ["epochs:100"], "1": ["ok"]})
    driver = stage.start("sweep", "spec.toml", "--out", str(stage.out), "--cpu-slots", "1", "--min-free", "0")
    wait_for(lambda: stage.journal())
    code, text = stage.call("sweep", "run-one", str(stage.out), "0")
    assert code == 2, text
    assert "is being run by" in text
    code, text = stage.call("sweep", "run-one", str(stage.out), "1")
    assert code == 0, text
    driver.terminate()
    driver.communicate(timeout=30)
    assert stage.counts() == {"done": 1, "interrupted": 1}
    assert stage.call("sweep", "run-one", str(stage.out), "2")[0] == 2
    stage.behave({"0": ["bad:gone"]})
    assert stage.call("sweep", "run-one", str(stage.out), "0")[0] == 1
    assert stage.call("sweep", "run-one", str(stage.out), "0")[0] == 1
    assert stage.call("sweep", "run-one", str(stage.out), "1")[0] == 0, (
        "what became of another is not its failure"
    )


def test_data_that_cannot_be_prepared_stop_the_sweep_before_it_starts(stage, image_folder) -> None:
    base = {"dataset": "folder", "data_root": str(image_folder), "imbalance": "none", "device": "cpu"}
    stage.spec(recipe="smoke", base=base, axes={"method": ["ce"]})
    victim = image_folder / "train" / "cat" / "2.bmp"
    good = victim.read_bytes()
    victim.write_bytes(b"")
    code, text = stage.sweep()
    assert code == 2, text
    assert "cannot be prepared" in text
    assert str(victim) in text
    assert "Traceback" not in text
    assert not stage.journal()
    victim.write_bytes(good + b"\0")
    code, text = stage.sweep()
    assert code == 2, "the data's identity enters the ids"
    assert "2 of its 2 runs are not in this spec" in text
    victim.write_bytes(good)
    assert stage.sweep("--out", str(stage.path / "other"))[0] == 0
