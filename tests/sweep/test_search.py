"""Searches: what a [search] table may say, and one that is killed, goes on and stops hopeless runs."""

from __future__ import annotations

import errno
import json
import os
import time
import tomllib
from pathlib import Path

import pytest

from srat_fast.sweep.claims import Claims
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.sweep.plan import make_plan
from srat_fast.sweep.spec import BadSpec, spec_from_tree

SPEC = """
recipe = "digits"
[base]
device = "cpu"
epochs = 20
data.val_fraction = 0.2
[search]
trials = 9
after = 2
factor = 2
[search.space]
loss.separation_weight = { low = 0.0, high = 8.0 }
loss.temperature = { low = 0.01, high = 1.0, log = true }
optim.batch_size = { low = 32, high = 64 }
method = ["srat-ce", "srat-ldam"]
"""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("data.val_fraction = 0.2", "", "never by the test set"),
        ("trials = 9", "", "search: trials: is missing"),
        ("trials = 9", "trials = 0", "search: trials = 0: an integer >= 1"),
        ("after = 2", "after = 20", "less than optim.epochs = 20"),
        ("after = 2", "aftr = 2", "search: aftr: one of trials, sampler, seed, after"),
        ("after = 2", "aftr = 2", "space; did you mean after?"),
        ("factor = 2", "sampler = 'grid'", "one of tpe, random"),
        ("low = 0.0", "low = 9.0", "numbers low < high are needed"),
        ("low = 0.0", "low = -1.0", "search.space: loss.separation_weight = -1.0: a number >= 0"),
        ("low = 0.01", "low = 0.0", "(low > 0 with log = true)"),
        ("loss.temperature", "loss.temprature", "did you mean loss.temperature?"),
        ("['x']", "['x']", None),
        ('method = ["srat-ce", "srat-ldam"]', 'method = ["srat-ce"]', "at least two choices"),
        ('method = ["srat-ce", "srat-ldam"]', 'method = ["srat-ce", "srat"]', "method = 'srat': one of natural"),
        ("[base]", "seeds = 2\n[base]", "a search runs each suggestion with one seed"),
        ("[search]", "[axes]\nmethod = ['ce']\n[search]", "axes: has no place beside [search]"),
        ("[base]", "[base]\nmethod = 'ce'", "search.space: method: is in [base] too"),
        ("loss.temperature = { low = 0.01, high = 1.0, log = true }", "protocol = ['srat', 'own']",
         "cannot be searched: the settings of protocol = own follow from it"),
    ],
)  # fmt: skip
def test_bad_searches(old, new, says) -> None:
    spec = spec_from_tree(tomllib.loads(SPEC.replace(old, new)), Path("."), "t")
    if says is None:
        assert make_plan(spec, "t").search["space"]["optim.batch_size"] == {
            "low": 32,
            "high": 64,
            "log": False,
        }
        return
    with pytest.raises(BadSpec) as error:
        make_plan(spec, "t")
    assert says in "\n".join(error.value.problems)


def search(stage, *options: str):
    return ("sweep", "spec.toml", "--out", str(stage.out), "--cpu-slots", "2", "--min-free", "0", *options)


def test_two_drivers_never_run_one_search(stage, monkeypatch, capsys) -> None:
    (stage.path / "spec.toml").write_text(SPEC)
    assert (
        stage.here(monkeypatch, "sweep", "plan", str(stage.path / "spec.toml"), "--out", str(stage.out)) == 0
    )
    assert "trials 0 to" not in capsys.readouterr().out, "there are none yet"
    claims = Claims(stage.out / "claims")
    claims.take("search")
    assert stage.here(monkeypatch, "sweep", str(stage.path / "spec.toml"), "--out", str(stage.out)) == 2
    assert "another process runs this search" in capsys.readouterr().err
    claims.close()


def test_a_search_is_killed_goes_on_and_ends_hopeless_runs(stage) -> None:
    (stage.path / "spec.toml").write_text(SPEC)
    stage.behave({"else": ["validated:20"]})
    driver = stage.start(*search(stage))
    end = time.monotonic() + 60

    def under_way() -> int:
        """Trials that run after others have ended."""
        words = [line[0] for line in stage.journal()]
        return words.count("start") - words.count("end") - words.count("saved") if len(words) > 3 else 0

    while under_way() < 2:
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.1)
    driver.kill()
    driver.communicate()
    code, text = stage.call(*search(stage))
    assert code == 0, text
    sweep = SweepDirectory.open(stage.out)
    states = [sweep.state(trial)["status"] for trial in sweep.plan.trials]
    assert len(states) == 9
    assert set(states) == {"done", "pruned"}
    assert "stopped early: " in text
    values = {}
    for trial, state in zip(sweep.plan.trials, states, strict=True):
        lines = (sweep.run(trial) / "metrics.jsonl").read_text().splitlines()
        ended = json.loads(lines[-1])["epoch"] == 19
        assert ended == (state == "done"), "a hopeless run ends before its last epoch"
        if state == "done":
            values[trial.name] = json.loads(lines[-1])["validation"]["robust"]["balanced"]
    assert f"best of {len(values)} by validation: {100 * max(values.values()):.2f} %" in text
    assert max(values, key=values.get) in text
    for trial in sweep.plan.trials:
        recipe = sweep.plan.recipe(trial)
        assert 0 <= recipe.loss.separation_weight <= 8
        assert 32 <= recipe.optim.batch_size <= 64
        assert recipe.method in ("srat-ce", "srat-ldam")
    starts = len(stage.journal())
    assert stage.call(*search(stage))[0] == 0
    assert len(stage.journal()) == starts, "nothing is left"
    (stage.path / "spec.toml").write_text(SPEC.replace("trials = 9", "trials = 10"))
    assert stage.call(*search(stage))[0] == 0
    assert len(SweepDirectory.open(stage.out).plan.trials) == 10
    (stage.path / "spec.toml").write_text(SPEC.replace("high = 8.0", "high = 4.0"))
    code, text = stage.call(*search(stage))
    assert code == 2
    assert "holds another search or sweep" in text


def test_a_search_that_ends_while_it_makes_a_suggestion(stage, monkeypatch, capsys) -> None:
    """None of its runs is without a suggestion, and none is missing in the end; a torn journal is read."""
    optuna = pytest.importorskip("optuna")
    space = "[search.space]\noptim.batch_size = { low = 32, high = 64 }\n"
    (stage.path / "spec.toml").write_text(
        SPEC.partition("[search.space]")[0].replace("trials = 9", "trials = 2") + space
    )
    command = ("sweep", str(stage.path / "spec.toml"), "--out", str(stage.out), "--min-free", "0")

    def dies(*arguments: object) -> None:
        raise RuntimeError("here")

    def full(study: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert stage.here(monkeypatch, "sweep", "plan", *command[1:4]) == 0
    for broken in ("optuna.trial.Trial.set_user_attr", "srat_fast.sweep.directory.plan_bytes"):
        with monkeypatch.context() as broke:
            broke.setattr(broken, dies)
            with pytest.raises(RuntimeError, match="here"):
                stage.here(monkeypatch, *command)
        assert not SweepDirectory.open(stage.out).plan.trials
    with monkeypatch.context() as broke:
        broke.setattr(optuna.Study, "ask", full)
        assert stage.here(monkeypatch, *command) == 3
    assert "paused: the disk is full" in capsys.readouterr().out
    with (stage.out / "search.journal").open("a") as journal:
        journal.write('{"torn')
    read, real = [], optuna.Study.get_trials
    monkeypatch.setattr(
        optuna.Study, "get_trials", lambda *given, **options: (read.append(1), real(*given, **options))[1]
    )
    assert stage.here(monkeypatch, *command) == 0
    assert len(read) == 3, "at the start and at the end: the journal may lie on a disk elsewhere"
    assert stage.counts() == {"done": 2}
    assert "best of 2 by validation" not in capsys.readouterr().out, "a stand-in has no validation"


def test_search_options(stage) -> None:
    code, text = stage.sweep("--search", "tpe")
    assert code == 2
    assert "the spec has no [search] table" in text
    (stage.path / "spec.toml").write_text(SPEC)
    code, text = stage.sweep("--search", "grid")
    assert code == 2
    assert "--search = 'grid': one of tpe, random" in text
    code, text = stage.sweep("--search", "random", "--dry-run")
    assert code == 0, text
    assert "search: 9 runs by random: loss.separation_weight from 0.0 to 8.0" in text
    assert "no run yet; " in text
