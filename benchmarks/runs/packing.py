"""Several trials on one GPU at once against one alone: `python benchmarks/runs/packing.py [--trials 2,4,8] [--mps]`.

Enters nothing; leaves a line a number of trials in benchmarks/results/<device>.jsonl (--out DIR elsewhere). A trial
is a process of `srat-fast train`, as a sweep starts them, of its own seed. What is compared is the speed of all in
one window, after each has compiled and trained two epochs; one alone is measured before and after.
--mps starts NVIDIA's multi-process service for these processes only, where its program is installed and allowed to run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]  # a script's own folder is on the path, the repository's root is not

from benchmarks.engine.work import ON_GPU  # noqa: E402
from benchmarks.measure import machine, wished_mode  # noqa: E402
from benchmarks.rows import RESULTS, append, path_for  # noqa: E402
from benchmarks.runs.images import CLASSES, write_images  # noqa: E402
from benchmarks.runs.mps import NoService, service  # noqa: E402
from benchmarks.runs.process import TrainingProcess, end_in_order  # noqa: E402
from benchmarks.runs.whole import about as about_recipe  # noqa: E402
from srat_fast.record import RECIPE  # noqa: E402
from srat_fast.sweep.local import mps_is_running  # noqa: E402

#: Epochs before the window: the first compiles, the second shows that nothing is compiled any more.
WARM = 2
#: Epochs that each trial must end within the window, so that its speed is one of whole epochs.
LEAST = 3
_POLL = 0.01


class Pace(NamedTuple):
    """What a number of trials reached.

    Attributes:
        images_per_second: of all together.
        slowest: images a second of the slowest trial.
        peak_bytes: memory of all together, as the trials count it.
        start_seconds: from the start of the first to the window.
    """

    images_per_second: float
    slowest: float
    peak_bytes: int
    start_seconds: float


def paced(
    start: Callable[[int], TrainingProcess], trials: int, images: int, window: float, limit: float
) -> Pace:
    """The speed of so many trials at once.

    Args:
        start: starts the trial of a number; it must train for longer than this looks.
        trials: at a time.
        images: of an epoch.
        window: seconds, longer where a trial has not ended `LEAST` epochs by then.
        limit: seconds for all of it.

    Raises:
        RuntimeError: a trial ended by itself, or the window did not come to its end within the limit.
    """
    begun = time.perf_counter()
    runs = [start(number) for number in range(trials)]
    try:

        def wait(done: Callable[[], bool]) -> None:
            while not done():
                for run in runs:
                    if run.process.poll() is not None:
                        raise RuntimeError(f"a trial ended by itself:\n{run.output()}")
                if time.perf_counter() - begun > limit:
                    raise RuntimeError(
                        f"{trials} trials: no window within {limit:.0f} s:\n{runs[0].output()}"
                    )
                time.sleep(_POLL)

        wait(lambda: all(run.epochs() >= WARM for run in runs))
        opened = time.perf_counter()
        ends: list[list[tuple[float, int]]] = [
            [] for _ in runs
        ]  # when each trial was seen to have ended an epoch
        seen = [run.epochs() for run in runs]

        def watched() -> bool:
            now = time.perf_counter()
            for number, run in enumerate(runs):
                if (epochs := run.epochs()) > seen[number]:
                    seen[number] = epochs
                    ends[number].append((now, epochs))
            return now - opened >= window and all(len(times) > LEAST for times in ends)

        wait(watched)
        peak = sum(run.metrics()[-1]["peak_memory_bytes"] for run in runs)
    finally:
        for run in runs:
            run.end()
    rates = [images * (t[-1][1] - t[0][1]) / (t[-1][0] - t[0][0]) for t in ends]
    return Pace(sum(rates), min(rates), peak, opened - begun)


def row_of(trials: int, together: Pace, alone: tuple[Pace, Pace]) -> dict[str, Any]:
    """The row of a number of trials; ratio > 1 means that packing gains.

    Args:
        trials: at a time.
        together: their speed.
        alone: one trial, before and after.
    """
    ratios = sorted(together.images_per_second / one.images_per_second for one in alone)
    return {
        "trials": trials,
        "reference": "one after another",
        "images_per_second": round(together.images_per_second, 2),
        "slowest_images_per_second": round(together.slowest, 2),
        "reference_images_per_second": round(sum(one.images_per_second for one in alone) / 2, 2),
        # of two: the middle and both ends
        "ratio": {"median": round(sum(ratios) / 2, 3), "quartiles": [round(value, 3) for value in ratios]},
        "peak_bytes": together.peak_bytes,
        "start_seconds": round(together.start_seconds, 2),
    }


def options(images: Path, small: bool, compile_mode: str, number: int) -> list[str]:
    """What a trial is started with: nothing but its seed differs; whole batches, so that there is one shape.

    Args:
        images: the .npz file.
        small: for a CPU.
        compile_mode: `run.compile_mode`.
        number: of the trial.
    """
    fields = {
        "seed": number,
        "data.imbalance": "none",
        "data.image_size": 32,
        "optim.epochs": 100_000,
        "run.compile_mode": compile_mode,
        "run.compile": "on" if ON_GPU else "off",
        "run.checkpoint_minutes": 0,
    }
    if small:
        fields |= {"model.width": 8, "attack.steps": 1, "optim.batch_size": 32}
    pairs = [text for name, value in fields.items() for text in ("--set", f"{name}={value}")]
    return ["--dataset", "npz", "--data-root", str(images), *pairs]


def main() -> int:
    """Parse, measure, append.

    Returns:
        0; 1 where a number of trials could not be measured.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", default="2,4,8", help="numbers of trials, separated by commas")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--window", type=float, default=10.0, help="seconds in which speed is taken")
    parser.add_argument("--limit", type=float, default=150.0, help="seconds for each number of trials")
    parser.add_argument("--mps", action="store_true", help="with a multi-process service of its own")
    parser.add_argument("--compile-mode", choices=("default", "max-autotune"), default=wished_mode())
    parser.add_argument("--small", action="store_true", help="for a CPU, to see that it works")
    arguments = parser.parse_args()
    counts = [int(part) if part.isdecimal() else 0 for part in arguments.trials.split(",")]
    if min(counts) < 2:
        parser.error(f"--trials = {arguments.trials!r}: integers >= 2, separated by commas")
    end_in_order()
    try:
        return measure(arguments, counts)
    except NoService as error:
        print(error, file=sys.stderr)
        return 1


def measure(arguments: argparse.Namespace, counts: list[int]) -> int:
    """One trial, so many at a time, one trial; then the rows.

    Args:
        arguments: of the command line.
        counts: numbers of trials.

    Returns:
        0; 1 where a number of trials could not be measured.

    Raises:
        NoService: --mps cannot be had.
    """
    about, failed = machine(), 0
    with tempfile.TemporaryDirectory() as name, service(arguments.mps) as environment:
        directory = Path(name)
        environment = environment | {"SRAT_FAST_CACHE": str(directory / "cache")}
        # 5120 = 40 batches of 128: an epoch of half a second alone
        images = write_images(directory / "images.npz", 8 if arguments.small else 512, 2)
        number = CLASSES * (8 if arguments.small else 512)
        folders = (directory / f"run-{count}" for count in itertools.count(1))

        def start(trial: int) -> TrainingProcess:
            chosen = options(images, arguments.small, arguments.compile_mode, trial)
            return TrainingProcess(next(folders), chosen, environment)

        def pace(trials: int) -> Pace:
            found = paced(start, trials, number, arguments.window, arguments.limit)
            print(f"{trials} at a time: {found.images_per_second:,.0f} images/s", flush=True)
            return found

        before, together = pace(1), {}
        for count in counts:
            try:
                together[count] = pace(count)
            except RuntimeError as error:  # such as memory that does not suffice; fewer trials are a result
                print(error, file=sys.stderr)
                failed = 1
        after = pace(1)
        recipe = json.loads((directory / "run-1" / RECIPE).read_text(encoding="utf-8"))
    for count, found in together.items():
        row = {"op": "packing", **about_recipe(recipe), "mps": arguments.mps or mps_is_running()}
        row |= row_of(count, found, (before, after)) | about
        append(path_for(arguments.out, about["device"]), row)
        print(
            f"{count} trials: {row['ratio']['median']} {row['ratio']['quartiles']} x one after another",
            flush=True,
        )
    return failed


if __name__ == "__main__":
    sys.exit(main())
