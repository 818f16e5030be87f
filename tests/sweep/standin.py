"""A trial's process that does not train: arguments, files, signals and exit codes of `train --resume auto`, in 0.1 s.

What it does in which attempt is in the JSON file $STANDIN: {"behaviour": {seed: [first attempt, second, ...]}}; the
last one repeats. Every start and end is a line in the file named by "journal".
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import tomllib
from pathlib import Path

from srat_fast.sweep.child import end_with, failure_codes, load_data
from srat_fast.sweep.outcome import FAILURE_CODES

end_with(int(sys.argv[1]))
arguments = sys.argv[3:]
if sys.argv[2] == "load-data":  # the real one
    load_data(Path(sys.argv[3]))
    sys.exit(0)
assert sys.argv[2] == "train"
assert arguments[arguments.index("--resume") + 1] == "auto"
out = Path(arguments[arguments.index("--out") + 1])
recipe = tomllib.loads(Path(arguments[arguments.index("--recipe") + 1]).read_text())
setting = json.loads(Path(os.environ["STANDIN"]).read_text())


def journal(word: str) -> None:
    with open(setting["journal"], "a") as file:
        file.write(json.dumps([word, recipe["method"], recipe["seed"], os.getpid(), time.time()]) + "\n")


def record(status: str, **more: object) -> None:
    part = {"overall": 0.5 + recipe["seed"] / 100, "under": 0.25, "well": 0.75, "per_class": [0.5, 0.5]}
    content = {
        "status": status, "standard": part, "robust": part, "classes": ["a", "b"], "collapsed": None,
        "images_per_second": 1000.0, "seconds": {"total": 2.0}, "git_commit": "none", "epochs": done(),
    }  # fmt: skip
    (out / "record.json").write_text(json.dumps(content | more))


def done() -> int:
    path = out / "checkpoint.txt"
    return int(path.read_text()) if path.exists() else 0


def save() -> None:
    """One epoch more; at once, as the signal's handler reads it."""
    (out / "new").write_text(str(done() + 1))
    (out / "new").rename(out / "checkpoint.txt")


def save_and_exit(number: int, frame: object) -> None:
    signal.signal(
        number, signal.SIG_IGN
    )  # a driver of several threads that is killed may make the system send two
    record("interrupted")
    journal("saved")
    sys.exit(143)


signal.signal(signal.SIGTERM, save_and_exit)
if (out / "record.json").exists() and json.loads((out / "record.json").read_text())["status"] == "finished":
    journal("again")
    sys.exit(0)
out.mkdir(parents=True, exist_ok=True)
attempts = out / "attempts.txt"
number = len(attempts.read_text()) if attempts.exists() else 0
attempts.write_text("x" * (number + 1))
wanted = setting["behaviour"].get(str(recipe["seed"]), setting["behaviour"].get("else", ["ok"]))
what, _, value = wanted[min(number, len(wanted) - 1)].partition(":")
journal("start")
if what == "epochs":  # of a tenth of a second, a checkpoint after each
    while done() < int(value):
        time.sleep(0.1)
        save()
        with (out / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"epoch": done() - 1, "images_per_second": 500.0}) + "\n")
elif what == "validated":  # epochs with a validation accuracy that follows lambda
    while done() < int(value):
        time.sleep(0.15)
        signal.pthread_sigmask(
            signal.SIG_BLOCK, [signal.SIGTERM]
        )  # an epoch is saved with its line, or not at all
        save()
        accuracy = recipe["loss"]["separation_weight"] / 10 + done() / 1000
        with (out / "metrics.jsonl").open("a") as file:
            validation = {"robust": {"balanced": accuracy}}
            file.write(
                json.dumps({"epoch": done() - 1, "images_per_second": 500.0, "validation": validation}) + "\n"
            )
        if done() == int(value):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # too late to be stopped early
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
elif what == "crash":
    raise ValueError(value)
elif what == "silent":
    sys.exit(1)
elif what in ("memory", "nonfinite"):
    record("failed", problem=value, failure=what)
    print(f"error: {value}", file=sys.stderr)
    sys.exit(FAILURE_CODES[what])
elif what == "locked":
    print(f"error: {value}", file=sys.stderr)
    sys.exit(FAILURE_CODES[what])
elif what == "bad":
    print(f"error: {value}", file=sys.stderr)
    sys.exit(2)
elif what == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
elif what == "hang":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)
elif what == "fill":  # the disk, for real
    with failure_codes(), (out / "big").open("wb") as file:
        for _ in range(1024):
            file.write(b"\0" * 2**20)
            file.flush()
record("finished")
journal("end")
