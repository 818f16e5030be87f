"""The paper's claim on real images, as one command that goes on where it stopped.

`python benchmarks/paper/run.py --data-root DIR --minutes 9 --out DIR` trains, judges and packs what --plan names, the
most important first, and ends before the minutes are over; the same command goes on. `--collect FILE` puts what came
back where docs/explanation/paper.md is made from. Exit codes: 0 all done, 1 failures, 2 bad input, 3 time is up.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [
    str(ROOT),
    str(ROOT / "kernels"),
]  # a script's own folder is on the path, the repository's is not

from benchmarks.paper.children import WORTH, Asked, Children, asked  # noqa: E402
from benchmarks.paper.judging import Job, finished_runs, jobs  # noqa: E402
from benchmarks.paper.options import ARCHIVE, RESERVE, RESULTS, bad, checked, options  # noqa: E402
from benchmarks.paper.pack import collect, pack  # noqa: E402
from benchmarks.paper.stages import FULL, JUDGED, SMOKE, spec_text  # noqa: E402
from srat_fast.errors import UserError  # noqa: E402

TIME_IS_UP = 3


class Measurement:
    """The stages of a plan, one after another.

    Args:
        arguments: of the command line, checked.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        from srat_fast.sweep.local import visible_gpus

        self.arguments, self.work = arguments, arguments.work.resolve()
        self.judging = SMOKE if arguments.smoke else FULL
        self.on_gpu = bool(visible_gpus())
        self.failed: list[str] = []
        self.left_over = self.hopeless = False
        environment = dict(os.environ)
        there = os.environ.get("PYTHONPATH", "")  # commands find this tree also where it is not installed
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(ROOT), str(ROOT / "kernels"), *filter(None, there.split(os.pathsep))]
        )
        for name, folder in (("TORCHINDUCTOR_CACHE_DIR", "inductor"), ("TRITON_CACHE_DIR", "triton")):
            environment.setdefault(name, str(self.work / "cache" / folder))  # one for all stages
        stop_at = time.monotonic() + 60 * arguments.minutes - RESERVE
        self.children = Children(self.work / "logs", stop_at, environment)

    def stage(self, name: str) -> None:
        """Train or judge, as far as time allows.

        Args:
            name: of a stage.
        """
        started = time.monotonic()
        outcome = self.judge() if name == "judge" else self.train(name)
        line = {"stage": name, "seconds": round(time.monotonic() - started, 1), "outcome": outcome}
        calls = {"slots": self.arguments.slots, "on_gpu": self.on_gpu}
        with (self.work / "calls.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line | calls) + "\n")
        print(f"-- {name}: {outcome} ({line['seconds']:.0f} s)", flush=True)

    def train(self, name: str) -> str:
        """Run a stage's sweep.

        Args:
            name: of the stage.

        Returns:
            How far it came, in words.
        """
        from srat_fast.sweep.directory import requeue

        out, spec = self.work / name, self.work / "specs" / f"{name}.toml"
        spec.parent.mkdir(parents=True, exist_ok=True)
        a = self.arguments
        spec.write_text(spec_text(name, a.data_root.resolve(), a.smoke, a.changes), encoding="utf-8")
        if (out / "plan.json").exists():  # what failed in an earlier call is tried again
            requeue(out, [], fresh=False)
        slots = ["--slots-per-gpu" if self.on_gpu else "--cpu-slots", str(a.slots)]
        other = ["--other-code"] if a.other_code else []
        job = Job(f"sweep-{name}", ["sweep", "run", str(spec), "--out", str(out), *slots, *other])
        code = self.children.run(job)
        if code not in (0, 143, None):
            self.failed.append(name)
            print(self.children.last_words(job, 8), flush=True)
        return self.progress(name, out)

    def progress(self, name: str, out: Path) -> str:
        """How far a stage's sweep is; its table is written.

        Args:
            name: of the stage.
            out: its directory.

        Returns:
            Such as "3 of 3 runs finished".
        """
        from srat_fast.sweep.directory import SweepDirectory
        from srat_fast.sweep.status import read_status
        from srat_fast.sweep.table import build_table, write_table

        if not (out / "plan.json").exists():
            self.left_over = True
            return "not begun"
        sweep = SweepDirectory.open(out)
        status = read_status(sweep)
        done, total = status.counts["done"], len(sweep.plan.trials)
        self.left_over |= done < total
        # what makes every run of a stage fail will do so in the next one too, and time is dear
        self.hopeless |= status.counts["failed"] == total
        for row in status.of("failed"):
            print(f"   failed: {row.trial.name}: {row.state.get('reason')}", flush=True)
        if done:
            content = build_table(sweep, per_class=True)
            for ending in ("md", "csv"):
                write_table(content, out / f"table.{ending}")
        others = [_reached(sweep.run(row.trial)) for row in status.of("interrupted")]
        return f"{done} of {total} runs finished" + (f", others after {'; '.join(others)}" if others else "")

    def judge(self) -> str:
        """Attack, audit and analyse the runs of `JUDGED` that have finished.

        Returns:
            How far it came, in words.
        """
        done = wanted = 0
        for name in JUDGED:
            if not (self.work / name / "plan.json").exists():
                continue
            runs = finished_runs(self.work / name / "runs")
            whole = len(runs) == len(_trials(self.work / name))
            (self.work / "figures").mkdir(exist_ok=True)
            figure = self.work / "figures" / f"tsne-{name}.png" if whole else None
            for group in jobs(runs, self.judging, figure):
                codes = self.children.run_all(group, self.arguments.slots)
                wanted += len(group)
                for job in group:
                    code = codes[job.name]
                    done += code in job.good
                    if code is not None and code not in job.good:
                        self.failed.append(job.name)
                        print(f"   failed: {job.name}\n{self.children.last_words(job, 4)}", flush=True)
        self.left_over |= done < wanted
        return f"{done} of {wanted} commands done" if wanted else "nothing to do"

    def keep(self) -> None:
        """Pack what has finished."""
        calls = self.work / "calls.jsonl"
        entries = [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []
        smoke = self.arguments.smoke
        judging = {"attacks": self.judging.attacks, "images": self.judging.images}
        manifest = {"smoke": smoke, "changes": self.arguments.changes, "judging": judging, "calls": entries}
        path = self.arguments.out / ARCHIVE
        size = pack(self.work, path, manifest)
        print(f"{path}: {size / 2**20:.2f} MiB", flush=True)


def _trials(sweep: Path) -> list[Any]:
    from srat_fast.sweep.directory import SweepDirectory

    return SweepDirectory.open(sweep).plan.trials


def _reached(run: Path) -> str:
    """How far an interrupted run is, such as "12 epochs (5,104 images/s)"."""
    from srat_fast.sweep.process import last_line

    line = last_line(run / "metrics.jsonl") if (run / "metrics.jsonl").exists() else {}
    return f"{line['epoch'] + 1} epochs ({line['images_per_second']:,.0f} images/s)" if line else "no epoch"


def main(given: list[str] | None = None) -> int:
    """Measure, or collect.

    Args:
        given: of the command line; None for the process's.

    Returns:
        The exit code.
    """
    parser = options()
    first = parser.parse_args(given)
    if first.collect is not None:
        from benchmarks.paper.page import write

        try:
            names = collect(first.collect, first.into)
        except ValueError as error:
            bad(f"--collect: {error}")
        print(f"{sum(name.endswith('record.json') for name in names)} runs in {first.into}")
        if first.into == RESULTS:
            write(RESULTS)
        return 0
    arguments = checked(parser, given)
    measurement = Measurement(arguments)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, asked)
    code = 0
    try:
        for name in arguments.stages:
            if measurement.hopeless or measurement.children.left <= WORTH:
                measurement.left_over = True
                break
            try:
                measurement.stage(name)
            except UserError as error:  # such as a damaged plan; what else is there is kept
                measurement.failed.append(name)
                print(f"-- {name}: {error.line()}", flush=True)
    except Asked as request:
        code = request.code
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # nothing runs any more but the packing
    measurement.keep()
    left = "time is up: the same command goes on" if measurement.left_over else "all of the plan is done"
    failed = f"; failed: {', '.join(measurement.failed)}" if measurement.failed else ""
    print(("stopped: the same command goes on" if code else left) + failed)
    return code or (1 if measurement.failed else TIME_IS_UP if measurement.left_over else 0)


if __name__ == "__main__":
    sys.exit(main())
