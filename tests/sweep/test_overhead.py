"""What a trial costs its driver: the promise is 100 ms a trial beside the trial itself."""

from __future__ import annotations

import time
import tomllib
from pathlib import Path

from rich.console import Console

from srat_fast.sweep import process
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.sweep.driver import Options
from srat_fast.sweep.local import LocalEngine, Slot
from srat_fast.sweep.spec import spec_from_tree
from srat_fast.sweep.status import SweepView
from tests.sweep.conftest import BASE, toml

#: Ends at once, as a trial that has finished; written in sh, which starts in a millisecond.
FINISHED = """#!/bin/sh
while [ "$1" != --out ]; do shift; done
mkdir -p "$2"
echo '{"status": "finished", "images_per_second": 1, "seconds": {"total": 1}}' > "$2/record.json"
"""


def test_a_trial_costs_its_driver_little(tmp_path: Path, monkeypatch) -> None:
    program = tmp_path / "trial.sh"
    program.write_text(FINISHED)
    monkeypatch.setattr(process, "CHILD", ["/bin/sh", str(program)])
    trials = 60
    spec = spec_from_tree(tomllib.loads(toml(BASE | {"seeds": trials // 2})), tmp_path, "t")
    sweep = SweepDirectory.create(tmp_path / "s", spec, "t.toml")
    with SweepView("t", Console(quiet=True)) as view:
        engine = LocalEngine(sweep, [Slot(None, 1, 1, "cpu 0")], view, Options(min_free=0))
        wall, cpu = time.perf_counter(), time.process_time()
        assert engine.run() == 0
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        f"{1000 * wall / trials:.1f} ms a trial, {1000 * cpu / trials:.1f} ms of it the driver's processor time"
    )
    assert cpu / trials < 0.1
    assert wall / trials < 0.4  # 0.1 on a machine that is not shared: waiting counts here
