"""Outcomes: how an attempt exited, by exit code and record and never by a sentence, and when it is tried again."""

from __future__ import annotations

import errno
import os

import pytest

from srat_fast.cli import main
from srat_fast.errors import DiskFull, InUse, OutOfMemory, TrainingFailure, UserError, failure_of
from srat_fast.sweep import child
from srat_fast.sweep.outcome import FAILURE_CODES, attempt_entry, next_action, read_exit

TRACE = 'Traceback (most recent call last):\n  File "a.py", line {line}, in f\n    g()\nValueError: {what}\n'
#: What a sentence may say by chance: nothing is decided by it.
MISLEADING = (
    "No space left on device [Errno 28] out of memory OutOfMemoryError: the disk is full; the loss is nan; "
    "another process is training in it; hang: no step ended for 3 s"
)


def failed(failure: str | None, problem: str = "x") -> dict:
    return {"status": "failed", "failure": failure, "problem": problem}


@pytest.mark.parametrize("words", ["", "x", MISLEADING])
@pytest.mark.parametrize(
    ("code", "record", "more", "kind"),
    [
        (0, {"status": "finished"}, {}, "finished"),
        (0, None, {}, "error"),
        (1, None, {}, "error"),
        (1, failed("error"), {}, "error"),
        (1, failed("memory"), {}, "memory"),
        (1, failed("nonfinite"), {}, "nonfinite"),
        (1, failed("disk"), {}, "disk"),
        (124, failed("hang"), {}, "hang"),
        (124, None, {}, "hang"),
        (-9, None, {"hung": True}, "hang"),
        (FAILURE_CODES["memory"], None, {}, "memory"),  # before a record could be written
        (FAILURE_CODES["disk"], None, {}, "disk"),
        (FAILURE_CODES["disk"], None, {"asked": True}, "disk"),
        (FAILURE_CODES["locked"], None, {}, "locked"),
        (FAILURE_CODES["locked"], failed("nonfinite"), {}, "locked"),  # the record is another process's
        (2, None, {}, "input"),
        (-9, None, {}, "killed"),
        (143, {"status": "interrupted", "failure": None}, {}, "killed"),
        (143, {"status": "interrupted", "failure": None}, {"asked": True}, "stopped"),
        (-15, None, {"asked": True}, "stopped"),
        (1, {"status": "finished"}, {}, "error"),
    ],
)
def test_an_exit_is_read_from_data_and_no_sentence_changes_it(code, record, more, kind, words) -> None:
    record = record and record | {"problem": words}
    exit = read_exit(code, record, f"error: {words}\n", **more)
    assert exit.kind == kind
    assert bool(exit.problem) == (kind != "finished")


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        ("out of memory in epoch 1; lower --batch-size", "memory"),
        ("the disk is full: a checkpoint of 3 bytes does not fit", "disk"),
        ("the disk of runs/a is full; make room and go on", "disk"),
        ("the loss is nan in epoch 3, step 1", "error"),
        ("KeyError", "error"),
    ],
)
def test_a_record_of_an_earlier_version_is_read_by_its_sentence(problem, kind) -> None:
    assert read_exit(1, {"status": "failed", "problem": problem}, "").kind == kind


def full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a file")


@pytest.mark.parametrize(
    ("error", "kind", "public"),
    [
        (OutOfMemory("x"), "memory", 1),
        (MemoryError("x"), "memory", None),
        (DiskFull("x"), "disk", 1),
        (full(), "disk", 1),
        (InUse("--out", "x"), "locked", 2),
        (TrainingFailure("x"), "error", 1),
        (ValueError("x"), "error", None),
        (UserError("--out", "x"), None, 2),
    ],
)
def test_an_error_has_a_kind_and_a_trial_its_exit_code(error, kind, public, tmp_path, monkeypatch) -> None:
    def raises(*arguments: object, **options: object) -> None:
        raise error

    assert failure_of(error) == kind
    monkeypatch.setattr("srat_fast.training.trainer.train", raises)
    command = ["train", "--dataset", "digits", "--out", str(tmp_path / "run")]
    if public is not None:  # else it is a bug, and its traceback shown
        with pytest.raises(SystemExit) as end:
            main(command)
        assert end.value.code == public
    monkeypatch.setattr(child, "end_with", lambda parent: None)
    monkeypatch.setattr("sys.argv", ["child", "1", *command])
    with pytest.raises(SystemExit) as end:
        child.main()
    assert end.value.code == FAILURE_CODES.get(kind, public or 1)


def test_a_full_disk_is_one_also_where_it_led_to_another_error() -> None:
    def wrapped(hide: bool) -> BaseException:
        try:
            try:
                raise full()
            except OSError as error:
                raise UserError("--out", "cannot be written") from (None if hide else error)
        except UserError as error:
            return error

    assert {failure_of(wrapped(hide)) for hide in (True, False)} == {"disk"}


def entry(code: int, log: str) -> dict:
    return attempt_entry(read_exit(code, None, log), code, 0.0, 1.0, "here")


def test_the_same_error_twice_is_enough_and_others_are_bounded() -> None:
    same = read_exit(1, None, TRACE.format(line=3, what="at 0x7f00"))
    again = read_exit(1, None, TRACE.format(line=3, what="at 0x7fff"))
    elsewhere = read_exit(1, None, TRACE.format(line=4, what="at 0x7fff"))
    assert same.signature == again.signature != elsewhere.signature
    first = entry(1, TRACE.format(line=3, what="at 0x7f00"))
    assert next_action(again, [], 2, alone=True).status == "retry"
    assert next_action(again, [first], 2, alone=True).status == "failed"
    assert next_action(again, [first | {"kind": "crashed"}], 2, alone=True).status == "failed", (
        "of an earlier version"
    )
    assert next_action(elsewhere, [first], 2, alone=True).status == "retry"
    assert next_action(elsewhere, [first, entry(-9, "")], 2, alone=True).status == "failed"
    assert next_action(elsewhere, [], 0, alone=True).status == "failed"
    for kind in ("hang", "locked"):  # the same again may end well
        exit = read_exit(FAILURE_CODES.get(kind, 124), None, "x")
        before = attempt_entry(exit, 1, 0.0, 1.0, "here")
        assert next_action(exit, [before], 2, alone=True).status == "retry"


def test_what_is_not_the_trials_fault_costs_no_attempt() -> None:
    stopped = attempt_entry(read_exit(143, None, "", asked=True), 143, 0.0, 1.0, "here")
    disk = entry(FAILURE_CODES["disk"], "")
    killed = read_exit(-9, None, "")
    assert next_action(killed, [stopped] * 5 + [disk] * 5, 1, alone=True).status == "retry"
    action = next_action(read_exit(FAILURE_CODES["disk"], None, ""), [], 0, alone=True)
    assert (action.status, action.pause) == ("queued", True)


def test_memory_is_tried_again_only_where_fewer_slots_help() -> None:
    exit = read_exit(1, failed("memory"), "")
    assert next_action(exit, [], 2, alone=False).status == "retry"
    assert next_action(exit, [], 2, alone=True).status == "failed"
