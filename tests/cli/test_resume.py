"""`--resume` on the command line: with a value and without, what it reads from the run, what it refuses."""

from __future__ import annotations

import json

import pytest

from srat_fast.cli import main
from srat_fast.cli.options import spelled_out

RUN = ["--dataset", "digits", "--epochs", "1", "--method", "natural", "--device", "cpu", "--set", "model.width=4",
       "--set", "data.limit=60", "--set", "data.test_limit=20", "--set", "eval_attack.steps=1"]  # fmt: skip


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


@pytest.mark.parametrize(
    ("given", "spelled"),
    [
        (["--resume"], ["--resume=must"]),
        (["--resume", "auto"], ["--resume", "auto"]),
        (["--resume=auto"], ["--resume=auto"]),
        (["--resume", "--out", "x"], ["--resume=must", "--out", "x"]),
        (["--out", "x", "--resume"], ["--out", "x", "--resume=must"]),
        ([], []),
    ],
)
def test_a_value_may_be_left_out(given, spelled) -> None:
    assert spelled_out(given) == spelled


def test_resume_by_command_and_by_directory(capsys, tmp_path) -> None:
    out = ["--out", str(tmp_path / "run")]
    code, first, err = call(capsys, "train", *RUN, *out, "--resume", "auto")
    assert (code, err) == (0, "")
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["catastrophic_overfitting"] is None  # natural training has no attack to overcome
    written = (tmp_path / "run" / "record.json").stat().st_mtime_ns
    for more in (["--resume", "auto", *RUN], [*RUN, "--resume"], ["--resume"]):
        code, text, err = call(capsys, "train", *out, *more)
        assert (code, err) == (0, "")
        assert "| clean " in text
        assert text.splitlines()[-1] == first.splitlines()[-1]
    assert (tmp_path / "run" / "record.json").stat().st_mtime_ns == written
    code, _, err = call(capsys, "train", *out, "--resume", "--seed", "4")
    assert code == 2
    assert "it is a run of another recipe: seed is 0 there and 4 here" in err


def test_what_resume_refuses(capsys, tmp_path) -> None:
    out = ["--out", str(tmp_path / "run")]
    code, _, err = call(capsys, "train", *RUN, *out, "--resume")
    assert code == 2
    assert "--resume = " in err
    assert "there is no run to continue: no recipe.json" in err
    code, _, err = call(capsys, "train", *RUN, *out, "--resume=maybe")
    assert code == 2
    assert "--resume = 'maybe': give it without a value, or auto" in err
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    code, _, err = call(capsys, "train", *RUN, *out, "--resume", "auto")
    assert code == 2
    assert "is not empty" in err
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["notes.txt"]
    assert err.count("\n") == 1


def test_watchdog_is_an_option(capsys) -> None:
    code, out, _ = call(capsys, "train", *RUN, "--watchdog", "90", "--print-recipe")
    assert code == 0
    assert "watchdog_seconds = 90.0" in out
    code, _, err = call(capsys, "train", *RUN, "--watchdog", "-1")
    assert code == 2
    assert "--watchdog (run.watchdog_seconds) = '-1': a number >= 0" in err
