"""The local engine under real faults: trials that are killed, crash, hang, fill the disk; drivers that die or meet."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
import tomllib

import pytest
from rich.console import Console

from srat_fast.errors import UserError
from srat_fast.sweep import driver as driver_module
from srat_fast.sweep import local, process
from srat_fast.sweep.claims import alive, process_identity
from srat_fast.sweep.directory import SweepDirectory, requeue
from srat_fast.sweep.driver import Options
from srat_fast.sweep.local import LocalEngine, Slot
from srat_fast.sweep.spec import spec_from_tree
from srat_fast.sweep.status import SweepView
from tests.sweep.conftest import BASE, toml
from tests.tiny import TINY


def wait_for(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_plan_run_skip_and_grow(stage) -> None:
    code, text = stage.call("sweep", "spec.toml", "--dry-run")
    assert code == 0, text
    assert "4 runs in 2 cells" in text
    assert "estimated time: unknown until a run" in text
    assert "GiB a trial (resnet18 of width 4, batches of" in text
    assert not (stage.path / "sweeps").exists()
    assert stage.sweep("--dry-run")[0] == 0
    assert not stage.out.exists()
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
    code, text = stage.sweep(
        "--dry-run"
    )  # of a sweep that is there: what is left of it, and how long its runs took
    assert code == 0, text
    assert "6 runs in 2 cells: 4 done, 2 queued" in text
    assert "from 4 finished run(s) of this sweep" in text
    assert SweepDirectory.open(stage.out).plan.trials == before
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


def test_a_running_sweep_takes_up_what_was_put_back(stage, monkeypatch) -> None:
    stage.spec(seeds=[0, 1], axes={"method": ["ce"]})
    stage.behave({"0": ["bad:once", "ok"], "1": ["epochs:3"]})
    real = driver_module.Driver.settle

    def settle(self, trial, action, state) -> None:
        real(self, trial, action, state)
        if action.status == "failed":
            requeue(stage.out, [], fresh=False)

    monkeypatch.setattr(driver_module.Driver, "settle", settle)
    command = ("sweep", str(stage.path / "spec.toml"), "--out", str(stage.out), "--cpu-slots", "1")
    assert stage.here(monkeypatch, *command, "--min-free", "0") == 0
    assert stage.counts() == {"done": 2}


def test_starts_are_spaced_while_one_after_the_other_fails(stage, monkeypatch, capsys) -> None:
    monkeypatch.setattr(driver_module, "_OUTAGE", 2)
    monkeypatch.setattr(driver_module, "_MOST_SPACE", 1.5)
    stage.spec(seeds=[0, 1, 2, 3], axes={"method": ["ce"]})
    stage.behave({"0": ["bad:no images"], "1": ["bad:no images"], "else": ["ok"]})
    command = ("sweep", str(stage.path / "spec.toml"), "--out", str(stage.out), "--cpu-slots", "1")
    assert stage.here(monkeypatch, *command, "--min-free", "0") == 1
    text = capsys.readouterr().out
    assert "2 attempts in a row failed within 60 s: the next start is in 2 s" in text
    assert text.count("in a row") == 1
    starts = {seed: when for word, _, seed, _, when in stage.journal() if word == "start"}
    assert starts[2] - starts[1] > 1.5


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


def limited(stage, monkeypatch, capsys, minutes: float) -> tuple[int, str]:
    """`sweep --minutes` with trials that start and save at once: (exit code, what it said)."""
    monkeypatch.setattr(driver_module, "SAVING", 1.0)
    monkeypatch.setattr(driver_module, "STARTING", 0.5)
    options = ("--out", str(stage.out), "--cpu-slots", "2", "--min-free", "0")
    code = stage.here(
        monkeypatch, "sweep", "run", str(stage.path / "spec.toml"), *options, "--minutes", str(minutes)
    )
    return code, capsys.readouterr().out


def test_a_sweep_with_a_time_limit_saves_in_time_and_goes_on(stage, monkeypatch, capsys) -> None:
    stage.behave({"else": ["epochs:200"]})
    started = time.monotonic()
    code, said = limited(stage, monkeypatch, capsys, 6 / 60)
    assert time.monotonic() - started < 7, "it ends about when its time is over"
    assert code == 3, said
    assert "time is nearly up: 2 trial(s) save and exit" in said
    assert "time is up (--minutes): the same command goes on" in said
    assert [line[0] for line in stage.journal()] == ["start"] * 2 + ["saved"] * 2
    assert stage.counts() == {"interrupted": 2, "queued": 2}
    saved = {path: int(path.read_text()) for path in stage.out.glob("runs/*/checkpoint.txt")}
    assert min(saved.values()) > 0
    stage.behave({"else": ["epochs:" + str(max(saved.values()) + 1)]})
    code, said = limited(stage, monkeypatch, capsys, 2)
    assert code == 0, said
    assert "time is" not in said
    assert stage.counts() == {"done": 4}
    sweep = SweepDirectory.open(stage.out)
    kinds = [a["kind"] for t in sweep.plan.trials for a in sweep.state(t)["attempts"]]
    assert sorted(kinds) == ["finished"] * 4 + ["stopped"] * 2, "time that is up costs no retry"


def test_what_does_not_save_in_time_is_ended(stage, monkeypatch, capsys) -> None:
    stage.behave({"else": ["hang"]})
    started = time.monotonic()
    code, said = limited(stage, monkeypatch, capsys, 3 / 60)
    assert time.monotonic() - started < 10, "not the minute for which it would sleep"
    assert code == 3
    assert "2 trial(s) stopped before their first checkpoint and need more of it" in said
    sweep = SweepDirectory.open(stage.out)
    assert [a["kind"] for t in sweep.plan.trials for a in sweep.state(t)["attempts"]] == ["stopped"] * 2


def test_no_trial_starts_that_would_not_come_to_its_first_step(stage, monkeypatch, capsys) -> None:
    stage.spec(seeds=[0], axes={"method": ["ce"]})
    assert stage.here(monkeypatch, "sweep", str(stage.path / "spec.toml"), "--out", str(stage.out)) == 0
    (record,) = stage.out.glob("runs/*/record.json")
    content = json.loads(record.read_text())
    content["seconds"]["compile"] = 90.0
    record.write_text(json.dumps(content))
    for state in stage.out.glob("state/*"):
        state.unlink()  # read from the record again
    stage.spec(seeds=[0, 1], axes={"method": ["ce"]})
    code, said = limited(stage, monkeypatch, capsys, 1.5)
    assert code == 3, said
    assert "1 of 2 done, 0 running, 1 queued" in said
    assert len([line for line in stage.journal() if line[0] == "start"]) == 1
    assert limited(stage, monkeypatch, capsys, 2)[0] == 0


@pytest.mark.parametrize("minutes", ["0.75", "-1", "nan"])
def test_a_time_limit_that_leaves_no_time(stage, monkeypatch, capsys, minutes) -> None:
    options = ("--out", str(stage.out), "--minutes", minutes)
    assert stage.here(monkeypatch, "sweep", str(stage.path / "spec.toml"), *options) == 2
    said = capsys.readouterr().err
    assert (
        said == f"error: --minutes = {float(minutes)}: a number > 0.75: to start and to save takes so long\n"
    )
    assert not stage.out.exists()


def test_images_that_are_not_prepared_in_time(stage, monkeypatch, capsys, image_folder) -> None:
    base = {"dataset": "folder", "data_root": str(image_folder), "imbalance": "none", "device": "cpu"}
    stage.spec(recipe="smoke", base=base, seeds=[0], axes={"method": ["ce"]})
    with monkeypatch.context() as slow:
        script = "import time; print('here', flush=True); time.sleep(60)"
        slow.setattr(
            process, "spawn", lambda a, e, log: subprocess.Popen([sys.executable, "-c", script], stdout=log)
        )
        code, said = limited(stage, monkeypatch, capsys, 1.6 / 60)
    assert code == 3
    assert "before the images were prepared: the same command goes on" in said
    assert not stage.journal()
    assert limited(stage, monkeypatch, capsys, 2)[0] == 0


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


@pytest.fixture
def sleeping(tmp_path, monkeypatch):
    """A function that starts the only trial of a sweep as a process that sleeps, in an engine."""
    monkeypatch.setattr(process, "CHILD", [sys.executable, "-c", "import time; time.sleep(60)"])
    spec = spec_from_tree(
        tomllib.loads(toml(BASE | {"seeds": [0], "axes": {"method": ["ce"]}})), tmp_path, "t"
    )
    sweep = SweepDirectory.create(tmp_path / "s", spec, "t.toml")
    engines = []

    def start() -> LocalEngine:
        view = SweepView("t", Console(quiet=True))
        engines.append(LocalEngine(sweep, [Slot(None, 1, 1, "cpu 0")], view, Options(min_free=0)))
        engines[-1]._fill()
        return engines[-1]

    yield start
    for engine in engines:
        for one in engine.running.values():
            one.kill()
            one.process.wait()
        engine.driver.claims.close()


def test_progress_is_no_matter_of_clocks(sleeping) -> None:
    """Of the disk's host an hour behind, and a driver whose own clock is put forward."""
    (trial,) = sleeping().running.values()
    log = trial.sweep.log(trial.trial)
    for number in range(3):
        os.utime(log, (time.time() - 3600 + number,) * 2)
        trial.check_progress(0.5)
        assert not trial.hung
        time.sleep(0.3)
    trial.check_progress(0.5)
    assert not trial.hung, "0.3 s ago there was some"
    time.sleep(0.3)
    trial.check_progress(0.5)
    assert trial.hung
    assert trial.process.wait(10) == -signal.SIGTERM


def test_who_lost_a_trial_leaves_its_state_to_the_new_driver(sleeping) -> None:
    engine = sleeping()
    (mine,) = engine.running.values()
    sweep, trial = engine.sweep, mine.trial
    other = {"host": "elsewhere:0:0", "pid": 1, "ticks": 1}
    (sweep.path / "claims" / f"{trial.id}.1").write_text(json.dumps({"driver": other}))
    sweep.write_state(trial, {"status": "running", "running": other, "attempts": []})
    engine._looked = -10.0
    engine._look_after_running()
    assert mine.process.wait(10) == -signal.SIGKILL
    engine._look_after_running()
    assert not engine.running
    assert sweep.state(trial) == {"status": "running", "running": other, "attempts": []}
    assert engine.driver.next_trial() is None
    assert list(engine.driver.elsewhere) == [trial]


def test_another_hosts_process_counts_by_the_disks_clock(sleeping, monkeypatch) -> None:
    engine = sleeping()
    sweep, trial = engine.sweep, engine.sweep.plan.trials[0]
    state = {"status": "running", "running": {"host": "elsewhere:0:0", "pid": 1}, "attempts": []}
    sweep.write_state(trial, state)
    now = time.time()
    for ahead in (-3600, 0, 3600):
        monkeypatch.setattr(time, "time", lambda ahead=ahead: now + ahead)
        assert process.still_running(sweep, trial, state), "its state was touched a moment ago"
    os.utime(sweep.state_path(trial), (now - 61,) * 2)
    assert not process.still_running(sweep, trial, state)


def test_what_does_not_end_after_its_driver_is_killed_with_what_it_started(sleeping, monkeypatch) -> None:
    script = "trap '' TERM; sleep 60 & echo $!; wait"
    monkeypatch.setattr(process, "CHILD", ["/bin/sh", "-c", script])
    engine = sleeping()
    (trial,) = engine.running.values()
    log = engine.sweep.log(trial.trial)
    wait_for(lambda: log.read_text().splitlines()[-1].isdecimal())
    started = process_identity(int(log.read_text().splitlines()[-1]))
    monkeypatch.setattr(process, "_GRACE", -1.0)
    assert process.still_running(engine.sweep, trial.trial, trial.state)
    assert trial.process.wait(10) == -signal.SIGKILL
    wait_for(lambda: not alive(started), 10)


def test_trials_save_where_the_driver_fails(stage, monkeypatch) -> None:
    stage.spec(seeds=[0], axes={"method": ["ce"]})
    stage.behave({"else": ["epochs:400"]})

    def fails(self: SweepView, snapshot: object) -> None:
        raise RuntimeError("of the view")

    monkeypatch.setattr(SweepView, "due", property(lambda self: any(stage.out.glob("runs/*/checkpoint.txt"))))
    monkeypatch.setattr(SweepView, "update", fails)
    with pytest.raises(RuntimeError, match="of the view"):
        stage.here(
            monkeypatch, "sweep", str(stage.path / "spec.toml"), "--out", str(stage.out), "--min-free", "0"
        )
    assert [line[0] for line in stage.journal()] == ["start", "saved"]
    assert stage.counts() == {"interrupted": 1}


def test_a_disk_that_is_full_before_the_first_trial_pauses_the_sweep(stage, monkeypatch, capsys) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(process, "cache_data", full)
    assert stage.here(monkeypatch, "sweep", str(stage.path / "spec.toml"), "--out", str(stage.out)) == 3
    assert f"paused: the disk of {stage.out} is full; free some space" in capsys.readouterr().out


def test_what_to_type_next_is_quoted(stage, monkeypatch, capsys) -> None:
    stage.spec(seeds=[0], axes={"method": ["ce"]})
    stage.behave({"else": ["bad:x"]})
    out = stage.path / "two words; ä"
    assert stage.here(monkeypatch, "sweep", "plan", str(stage.path / "spec.toml"), "--out", str(out)) == 0
    assert f"srat-fast sweep run-one '{out}' INDEX" in capsys.readouterr().out
    assert stage.here(monkeypatch, "sweep", str(stage.path / "spec.toml"), "--out", str(out)) == 1
    assert f"again: srat-fast sweep retry '{out}'\n" in capsys.readouterr().out


def test_a_task_whose_trial_has_ended_prepares_no_images(stage, monkeypatch) -> None:
    stage.spec(seeds=[0], axes={"method": ["ce"]})
    asked: list[list] = []
    monkeypatch.setattr(local, "cache_data", lambda sweep, trials, say: asked.append(trials))
    assert (
        stage.here(monkeypatch, "sweep", "plan", str(stage.path / "spec.toml"), "--out", str(stage.out)) == 0
    )
    for _ in range(2):
        assert stage.here(monkeypatch, "sweep", "run-one", str(stage.out), "0") == 0
    assert [len(trials) for trials in asked] == [1, 0]


def test_retry_changes_nothing_where_a_trial_runs(sleeping) -> None:
    """Its driver may have died, and it be saving still."""
    engine = sleeping()
    sweep, trial = engine.sweep, engine.sweep.plan.trials[0]
    for living in (True, False):
        with pytest.raises(UserError, match="is running"):
            requeue(sweep.path, [trial.id, "0"], fresh=False)
        assert sweep.state(trial)["status"] == "running"
        if living:
            engine.driver.claims.release(trial.id)
    (mine,) = engine.running.values()
    mine.kill()
    mine.process.wait()
    assert requeue(sweep.path, [trial.id, "0"], fresh=False) == [f"{trial.name} is queued again"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--images-per-second", "nan"),
        ("--stall-timeout", "nan"),
        ("--min-free", "nan"),
        ("--min-free", "inf"),
    ],
)
def test_numbers_that_are_none(stage, monkeypatch, capsys, option, value) -> None:
    assert stage.here(monkeypatch, "sweep", str(stage.path / "spec.toml"), option, value) == 2
    assert capsys.readouterr().err.startswith(f"error: {option} = {value}: a number >")


def test_run_one(stage) -> None:
    stage.spec(seeds=[0, 1], axes={"method": ["ce"]})
    assert stage.call("sweep", "run-one", str(stage.out), "0")[0] == 2
    code, text = stage.call("sweep", "plan", "spec.toml", "--out", str(stage.out))
    assert code == 0, text
    assert f"trials 0 to 1: srat-fast sweep run-one {stage.out} INDEX" in text
    assert not stage.journal()
    stage.behave({"0": ["epochs:400"], "1": ["ok"]})
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


def test_run_one_of_a_plan_of_other_code(stage, monkeypatch, capsys) -> None:
    stage.spec(seeds=[0], axes={"method": ["ce"]})
    assert (
        stage.here(monkeypatch, "sweep", "plan", str(stage.path / "spec.toml"), "--out", str(stage.out)) == 0
    )
    path = stage.out / "plan.json"
    path.write_text(path.read_text().replace(json.loads(path.read_text())["code"], "0.1+older"))
    command = ("sweep", "run-one", str(stage.out), "0")
    assert stage.here(monkeypatch, *command) == 2
    assert "its plan was made by code 0.1+older" in capsys.readouterr().err
    assert not stage.journal()
    assert stage.here(monkeypatch, *command, "--other-code") == 0
    assert stage.counts() == {"done": 1}


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


def test_a_trial_of_two_processes_saves_and_ends_as_one(tmp_path, monkeypatch) -> None:
    """The real thing: torchrun, gloo and SIGTERM as the driver sends it."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    base = TINY | {"optim.epochs": 300, "model.width": 1}
    tree = {"recipe": "digits", "seeds": [0], "base": base, "gpus_per_trial": 2, "axes": {"method": ["ce"]}}
    spec = spec_from_tree(tomllib.loads(toml(tree)), tmp_path, "t")
    assert not spec.problems
    sweep = SweepDirectory.create(tmp_path / "s", spec, "t.toml")
    (trial,) = SweepDirectory.open(tmp_path / "s").plan.trials
    environment = process.child_environment(sweep.path, 1, None, True)
    run = process.TrialProcess(sweep, trial, environment, "cpu", True)
    try:
        metrics = sweep.run(trial) / "metrics.jsonl"
        wait_for(lambda: metrics.exists() or run.process.poll() is not None, 60)
        run.stop()
        wait_for(lambda: run.process.poll() is not None)
    finally:
        run.kill()
    action = run.finish()
    assert action is not None
    log = sweep.log(trial).read_text()
    assert (action.status, run.state["attempts"][-1]["kind"]) == ("queued", "stopped"), log
    assert run.process.returncode == 143
    record = sweep.record(trial)
    assert record is not None
    assert (record["status"], record["processes"]) == ("interrupted", 2)
    assert log.count("stopped by SIGTERM in epoch ") == 1
    assert log.splitlines()[-1].startswith(
        "stopped by SIGTERM in epoch "
    )  # torchrun's own lines are left out
