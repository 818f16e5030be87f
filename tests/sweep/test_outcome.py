"""Exits and actions: what an exit code, a record and a log mean, and when a trial is tried again."""

from __future__ import annotations

import pytest

from srat_fast.sweep.outcome import attempt_entry, next_action, read_exit

TRACE = 'Traceback (most recent call last):\n  File "a.py", line {line}, in f\n    g()\nValueError: {what}\n'


@pytest.mark.parametrize(
    ("code", "record", "log", "more", "kind"),
    [
        (0, {"status": "finished"}, "", {}, "finished"),
        (0, None, "", {}, "crashed"),
        (1, {"status": "failed", "problem": "the loss is nan in epoch 3"}, "error: x", {}, "crashed"),
        (1, None, TRACE.format(line=3, what="x"), {}, "crashed"),
        (1, {"status": "failed", "problem": "out of memory in epoch 1; lower --batch-size"}, "", {}, "memory"),
        (1, None, "torch.OutOfMemoryError: CUDA out of memory.", {}, "memory"),
        (1, None, "OSError: [Errno 28] No space left on device", {}, "disk"),
        (1, {"status": "failed", "problem": "the disk is full: a checkpoint of 3 bytes does not fit"}, "", {}, "disk"),
        (2, None, "error: --data-root: is not there", {}, "input"),
        (2, None, "error: --out = 'x': another process is training in it", {}, "killed"),
        (-9, None, "", {}, "killed"),
        (-9, None, "", {"hung": True}, "hung"),
        (124, None, "", {}, "hung"),
        (143, {"status": "interrupted"}, "", {"asked": True}, "stopped"),
        (143, {"status": "interrupted"}, "", {}, "killed"),
        (-15, None, "", {"asked": True}, "stopped"),
        (1, {"status": "finished"}, "boom", {}, "crashed"),
    ],
)  # fmt: skip
def test_endings(code, record, log, more, kind) -> None:
    exit = read_exit(code, record, log, **more)
    assert exit.kind == kind
    assert bool(exit.problem) == (kind != "finished")


def entry(code: int, log: str) -> dict:
    return attempt_entry(read_exit(code, None, log), code, 0.0, 1.0, "here")


def test_the_same_crash_twice_is_enough_and_others_are_bounded() -> None:
    same = read_exit(1, None, TRACE.format(line=3, what="at 0x7f00"))
    again = read_exit(1, None, TRACE.format(line=3, what="at 0x7fff"))
    elsewhere = read_exit(1, None, TRACE.format(line=4, what="at 0x7fff"))
    assert same.signature == again.signature != elsewhere.signature
    first = entry(1, TRACE.format(line=3, what="at 0x7f00"))
    assert next_action(again, [], 2, alone=True).status == "retry"
    assert next_action(again, [first], 2, alone=True).status == "failed"
    assert next_action(elsewhere, [first], 2, alone=True).status == "retry"
    assert next_action(elsewhere, [first, entry(-9, "")], 2, alone=True).status == "failed"
    assert next_action(elsewhere, [], 0, alone=True).status == "failed"


def test_what_is_not_the_trials_fault_costs_no_attempt() -> None:
    stopped = attempt_entry(read_exit(143, None, "", asked=True), 143, 0.0, 1.0, "here")
    full = entry(1, "No space left on device")
    killed = read_exit(-9, None, "")
    assert next_action(killed, [stopped] * 5 + [full] * 5, 1, alone=True).status == "retry"
    action = next_action(read_exit(1, None, "No space left on device"), [], 0, alone=True)
    assert (action.status, action.pause) == ("queued", True)


def test_memory_is_tried_again_only_where_fewer_slots_help() -> None:
    exit = read_exit(1, None, "torch.OutOfMemoryError: CUDA out of memory.")
    assert next_action(exit, [], 2, alone=False).status == "retry"
    assert next_action(exit, [], 2, alone=True).status == "failed"
