"""Stages under a deadline: one that fails or hangs ends no other, and each leaves a row."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from benchmarks import lease
from benchmarks.lease import Task, left_over, perform, timed_out_or
from benchmarks.rows import read

ABOUT = {"device": "none"}


def task(name: str, code: str, seconds: float = 30.0, share: float = 0.4) -> Task:
    return Task(name, [sys.executable, "-c", code], seconds, share)


def performed(folder: Path, deadline: float, *tasks: Task) -> dict[str, str]:
    path = folder / "none.jsonl"
    found = perform(tasks, path, ABOUT, deadline)
    assert {row["name"]: row["status"] for row in read(path)} == found
    return found


def test_a_failing_stage_does_not_stop_the_next(tmp_path) -> None:
    found = performed(tmp_path, float("inf"), task("a", "raise SystemExit(3)"), task("b", "pass"))
    assert found == {"a": "failed: exit 3", "b": "ok"}


def test_a_stage_that_hangs_is_ended_and_the_next_has_its_time(tmp_path) -> None:
    hanging = task("a", "import time; time.sleep(60)", seconds=1)
    assert performed(tmp_path, float("inf"), hanging, task("b", "pass")) == {"a": "timed out", "b": "ok"}


def test_stages_without_time_are_passed_over_and_shorter_ones_begun(tmp_path) -> None:
    deadline = time.monotonic() + lease.GRACE + 20
    found = performed(
        tmp_path, deadline, task("long", "pass", 100), task("all", "pass", 30, 1.0), task("b", "pass")
    )
    assert found == {"long": "skipped: 20 s left of 100", "all": "skipped: 20 s left of 30", "b": "ok"}


def test_what_did_not_end_well_is_tried_again_last() -> None:
    about = {"device": "a", "source": "s", "torch": "t", "triton": None}
    ended = {"one": "failed: exit 1", "two": "ok", "three": "skipped: 3 s left of 9", "four": "timed out"}
    rows = [about | {"op": "stage", "name": name, "status": status} for name, status in ended.items()]
    tasks = [task(name, "pass") for name in ("one", "two", "three", "four", "five")]
    assert [one.name for one in left_over(tasks, rows, about)] == ["three", "five", "one", "four"]
    rows.append(rows[0] | {"status": "ok"})  # the last attempt counts
    assert [one.name for one in left_over(tasks, rows, about)] == ["three", "five", "four"]
    other = about | {"source": "other"}
    assert left_over(tasks, rows, other) == tasks
    assert [one.name for one in left_over(tasks, rows, other, any_source=True)] == ["three", "five", "four"]
    assert left_over(tasks, rows, about | {"torch": "newer"}, any_source=True) == tasks


def test_what_is_told_to_end_can_leave_what_it_has_and_its_children_end(tmp_path) -> None:
    code = f"""
import pathlib, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path({str(tmp_path / "child")!r}).write_text(str(child.pid))
def stop(number, frame):
    pathlib.Path({str(tmp_path / "left")!r}).write_text("what it has")
    sys.exit(1)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(60)
"""
    assert timed_out_or([sys.executable, "-c", code], 2.0) == "timed out"
    assert (tmp_path / "left").read_text() == "what it has"
    child = int((tmp_path / "child").read_text())
    end = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and "Z (zombie)" not in Path(f"/proc/{child}/status").read_text():
        assert time.monotonic() < end, "its child lives"
        time.sleep(0.05)


def test_one_that_does_not_listen_is_killed(monkeypatch) -> None:
    monkeypatch.setattr(lease, "GRACE", 0.3)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    started = time.monotonic()
    assert timed_out_or([sys.executable, "-c", code], 1.0) == "timed out"
    assert time.monotonic() - started < 30


def test_a_request_to_end_reaches_the_stage_under_way(tmp_path) -> None:
    mark = tmp_path / "pid"
    code = (
        f"import os, pathlib, time; pathlib.Path({str(mark)!r}).write_text(str(os.getpid())); time.sleep(60)"
    )
    root = Path(__file__).resolve().parents[2]
    driver = f"""
import sys; sys.path[:0] = [{str(root)!r}]
from benchmarks.lease import timed_out_or
from benchmarks.runs.process import end_in_order
end_in_order()
timed_out_or([sys.executable, "-c", {code!r}], 60)
"""
    import subprocess

    with subprocess.Popen([sys.executable, "-c", driver]) as process:
        end = time.monotonic() + 60
        while not mark.exists() or not mark.read_text():
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
    assert not os.path.exists(f"/proc/{mark.read_text()}")
