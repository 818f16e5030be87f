"""A sweep whose trials and drivers are killed at random, with a journal of the kills (`OUT/kills.jsonl`).

    python benchmarks/sweep/kills.py benchmarks/sweep/digits.toml OUT --trials 5 --drivers 2

Trials and drivers are ended by SIGKILL at random moments (a fixed seed), and the driver is started again each time.
Only processes that this script started are killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from srat_fast.sweep.claims import alive
from srat_fast.sweep.directory import SweepDirectory


def running(out: Path) -> list[tuple[str, int]]:
    """(name, process id) of the trials that have finished an epoch and still run."""
    if not (out / "plan.json").exists():
        return []
    sweep = SweepDirectory.open(out)
    found = []
    for trial in sweep.plan.trials:
        process = sweep.state(trial).get("running")
        if process and alive(process) and (sweep.run(trial) / "metrics.jsonl").exists():
            found.append((trial.name, int(process["pid"])))
    return found


def main() -> int:
    """Run the sweep to its end under fire."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spec", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--trials", type=int, default=5, help="SIGKILLs of trials")
    parser.add_argument("--drivers", type=int, default=2, help="SIGKILLs of the driver")
    parser.add_argument("--every", type=float, default=20.0, help="seconds between two")
    parser.add_argument("--cpu-slots", type=int, default=2)
    options = parser.parse_args()
    rng, begun = random.Random(0), time.time()
    victims = ["trial"] * options.trials + ["driver"] * options.drivers
    rng.shuffle(victims)
    journal: list[dict[str, object]] = []

    def note(**event: object) -> None:
        journal.append({"seconds": round(time.time() - begun, 1), **event})
        print(json.dumps(journal[-1]), flush=True)

    command = [sys.executable, "-m", "srat_fast", "sweep", str(options.spec), "--out", str(options.out)]
    command += ["--cpu-slots", str(options.cpu_slots)]
    driver = subprocess.Popen(command)
    note(event="driver starts", process=driver.pid)
    next_kill = time.time() + options.every
    while driver.poll() is None or victims:
        time.sleep(0.2)
        if driver.poll() is not None:
            if driver.returncode >= 0:
                break
            driver = subprocess.Popen(command)
            note(event="driver starts", process=driver.pid)
        living = running(options.out) if victims and time.time() > next_kill else []
        if not living:
            continue
        next_kill = time.time() + options.every * rng.uniform(0.5, 1.5)
        if victims.pop() == "driver":
            note(event="SIGKILL to the driver", process=driver.pid, under=[name for name, _ in living])
            driver.kill()
            driver.wait()
        else:
            name, process = rng.choice(living)
            note(event="SIGKILL to a trial", process=process, run=name)
            os.kill(process, signal.SIGKILL)
    note(event="driver ends", code=driver.wait(), kills_left=len(victims))
    (options.out / "kills.jsonl").write_text("".join(json.dumps(event) + "\n" for event in journal))
    return driver.returncode


if __name__ == "__main__":
    sys.exit(main())
