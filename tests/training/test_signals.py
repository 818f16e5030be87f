"""Signals to a real process: it saves at the next step, exits with its code, and goes on to the same weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from srat_fast import train
from srat_fast.sweep.driver import Stop, stopped_by_signals
from srat_fast.training.stops import Stops
from tests.tiny import tiny_recipe
from tests.training.short_runs import SHORT, assert_equal_runs, command, finish, record

LONG = SHORT | {
    "optim.epochs": 16,
    "data.val_fraction": 0.0,
    "optim.ema_decay": 0.0,
    "run.tensorboard": False,
}
ROOT = Path(__file__).resolve().parents[2]


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    """Until it is so; fails where the process ends first."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"ended with {process.returncode}: {process.communicate()}"
        assert time.monotonic() < end, "too slow"
        time.sleep(0.02)


def wait_until(condition) -> None:
    """Until it is so in this process, or ten seconds are over."""
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)


def epochs(out: Path) -> int:
    """Epochs that metrics.jsonl has."""
    file = out / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def start(arguments: list[str], **more) -> subprocess.Popen:
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("signals") / "whole"
    train(tiny_recipe(LONG), out)
    return out


def test_each_signal_saves_and_the_run_goes_on(whole, tmp_path) -> None:
    """One run, stopped by SIGTERM and Ctrl-C (SIGUSR1: the SLURM example; a closed terminal: further below)."""
    out = tmp_path / "run"
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        before = epochs(out)
        process = start(command(out, "--resume", "auto", recipe=LONG))
        wait_for(lambda: epochs(out) > before + 1, process)  # noqa: B023
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == code, errors
        assert errors.startswith(f"stopped by {number.name} in epoch ")
        assert "the state is saved, --resume goes on" in errors
        assert errors.count("\n") == 1
        assert record(out)["status"] == "interrupted"
        assert number.name in record(out)["problem"]
        assert record(out)["failure"] is None
        assert list((out / "checkpoint").glob("0*"))
    assert finish(out, "--resume", recipe={}).returncode == 0  # no option but --out: the run's own recipe
    assert_equal_runs(whole, out)
    assert len(record(out)["resumed"]) == 2
    assert not (out / "checkpoint").exists()


BLOCKED = """
import time
from srat_fast import train
from srat_fast.sweep.driver import Stop, stopped_by_signals
from srat_fast.training.stops import Stops
with Stops() as stops:
    print("ready", flush=True)
    while not stops.requested:
        time.sleep(0.01)
    print("noted", flush=True)
    import ctypes
    ctypes.CDLL(None).sem_wait(ctypes.byref(ctypes.create_string_buffer(32)))
"""


def test_a_second_signal_ends_the_process_at_once() -> None:
    """Even inside a long call into C, where Python would not run a handler."""
    for second, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        process = start([sys.executable, "-c", BLOCKED])
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "noted\n"
        time.sleep(0.3)
        started = time.monotonic()
        process.send_signal(second)
        process.communicate(timeout=30)
        assert process.returncode == code
        assert time.monotonic() - started < 20


def test_handlers_are_put_back_and_other_threads_install_none() -> None:
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    with Stops() as stops:
        assert signal.getsignal(signal.SIGTERM) is not before[signal.SIGTERM]
        os.kill(os.getpid(), signal.SIGUSR1)
        wait_until(lambda: stops.requested)
        assert (stops.signal, stops.code) == (signal.SIGUSR1, 143)
    assert {n: signal.getsignal(n) for n in before} == before
    assert signal.set_wakeup_fd(-1) == -1

    seen = []

    def elsewhere() -> None:
        with Stops():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [before[signal.SIGTERM]]


def test_a_signal_that_comes_twice_counts_once_and_hanging_up_not_under_nohup() -> None:
    """A shell that ends passes SIGHUP on, and the kernel sends another, as a batch system and torchrun do with SIGTERM.

    `nohup` has SIGHUP ignored.
    """
    for number, code in ((signal.SIGHUP, 129), (signal.SIGTERM, 143)):
        with Stops() as stops:
            for _ in range(2):
                os.kill(os.getpid(), number)
                time.sleep(0.02)
            wait_until(lambda: stops.requested)
            assert stops.code == code
    driver = Stop()
    with stopped_by_signals(driver):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)
        assert (driver.times, driver.code) == (1, 129)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stops() as stops, stopped_by_signals(driver):
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.1)
            assert not stops.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_slurm_example_requeues_and_goes_on(whole, tmp_path) -> None:
    """The batch script itself, in bash: USR1 to it as SLURM would, a stub scontrol, then the job's second start."""
    tools = tmp_path / "bin"
    tools.mkdir()
    called = tmp_path / "requeued"
    for name, line in (
        ("scontrol", f'echo "$@" >> {called}'),
        ("srat-fast", f'exec {sys.executable} -m srat_fast "$@"'),
    ):
        (tools / name).write_text(f"#!/bin/bash\n{line}\n")
        (tools / name).chmod(0o755)
    out = tmp_path / "run"
    environment = os.environ | {
        "PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_ID": "4711", "RUN": str(out),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")]),
    }  # fmt: skip
    arguments = command(out, recipe=LONG)[4:-2]  # without the interpreter and --out
    job = ["bash", str(ROOT / "examples" / "slurm" / "train.sbatch"), *arguments]
    process = start(job, env=environment)
    wait_for(lambda: epochs(out) > 1, process)
    process.send_signal(signal.SIGUSR1)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    assert called.read_text() == "requeue 4711\n"
    assert record(out)["status"] == "interrupted"
    assert subprocess.run(job, env=environment, capture_output=True, check=False).returncode == 0
    assert called.read_text() == "requeue 4711\n"
    assert_equal_runs(whole, out)
