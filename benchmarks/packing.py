"""What several trials on one GPU gain over one after another: `python benchmarks/packing.py [--trials 2,4,8]`.

A trial is a process of `srat-fast train`, as a sweep starts them, of its own seed. What is compared is the speed of all
in one window, after each has compiled and trained two epochs; one alone is measured before and after. Rows say whether
NVIDIA's multi-process service runs ("mps"); none is started here (`nvidia-cuda-mps-control -d` starts one).
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.measure import ON_GPU, Unmeasured, own_cache, parsed, parser, record
from benchmarks.rows import Row
from benchmarks.run import CLASSES, TrainingProcess, about, write_images
from srat_fast.record import RECIPE
from srat_fast.sweep.local import mps_is_running

#: Epochs before the window: the first compiles, the second shows that nothing is compiled any more.
WARM = 2
#: Epochs that each trial must end within the window, so that its speed is one of whole epochs.
LEAST = 3
_POLL = 0.01


class Pace(NamedTuple):
    """What a number of trials reached."""

    images_per_second: float  # of all together
    slowest: float  # images a second of the slowest trial
    peak_bytes: int  # memory of all together, as the trials count it
    start_seconds: float  # from the start of the first to the window


def paced(
    start: Callable[[int], TrainingProcess], trials: int, images: int, window: float, limit: float
) -> Pace:
    """The speed of so many trials at once, in a window of seconds in which each ends `LEAST` epochs.

    `start` starts the trial of a number, `images` are those of an epoch. Unmeasured where a trial ends by itself, or
    all of it takes longer than `limit` seconds.
    """
    begun = time.perf_counter()
    runs = [start(number) for number in range(trials)]
    try:

        def wait(done: Callable[[], bool]) -> None:
            while not done():
                for run in runs:
                    if run.process.poll() is not None:
                        raise Unmeasured(f"a trial ended by itself:\n{run.output()}")
                if time.perf_counter() - begun > limit:
                    raise Unmeasured(f"{trials} trials: no window within {limit:.0f} s:\n{runs[0].output()}")
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


def row_of(trials: int, together: Pace, alone: tuple[Pace, Pace]) -> Row:
    """The row of a number of trials, against one alone before and after; ratio > 1 means that packing gains."""
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


def trial_options(images: Path, small: bool, seed: int) -> list[str]:
    """What a trial is started with: nothing but its seed differs; whole batches, so that there is one shape."""
    fields = {
        "seed": seed,
        "data.imbalance": "none",
        "data.image_size": 32,
        "optim.epochs": 100_000,
        "run.compile": "on" if ON_GPU else "off",
        "run.checkpoint_minutes": 0,
    }
    if small:
        fields |= {"model.width": 8, "attack.steps": 1, "optim.batch_size": 32}
    pairs = [text for name, value in fields.items() for text in ("--set", f"{name}={value}")]
    return ["--dataset", "npz", "--data-root", str(images), *pairs]


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    made = parser(__doc__)
    made.add_argument("--trials", default="2,4,8", help="numbers of trials, separated by commas")
    made.add_argument("--window", type=float, default=10.0, help="seconds in which speed is taken")
    made.add_argument("--limit", type=float, default=150.0, help="seconds for each number of trials")
    found = parsed(made, arguments)
    counts = [int(part) if part.isdecimal() else 0 for part in found.trials.split(",")]
    if min(counts) < 2:
        made.error(f"--trials = {found.trials!r}: integers >= 2, separated by commas")
    found.trials = counts
    if found.small:
        found.trials, found.window = [2], min(found.window, 1.0)
    return found


def measured(found: argparse.Namespace) -> Iterator[Row]:
    """One trial, so many at a time, one trial; then a row a number of trials."""
    with tempfile.TemporaryDirectory() as name, own_cache(Path(name)):
        directory = Path(name)
        per_class = 8 if found.small else 512  # 5120 = 40 batches of 128: an epoch of half a second alone
        images = write_images(directory / "images.npz", per_class, 2)
        folders = (directory / f"run-{count}" for count in itertools.count(1))

        def start(trial: int) -> TrainingProcess:
            return TrainingProcess(next(folders), trial_options(images, found.small, trial))

        def pace(trials: int) -> Pace:
            reached = paced(start, trials, CLASSES * per_class, found.window, found.limit)
            print(f"{trials} at a time: {reached.images_per_second:,.0f} images/s", flush=True)
            return reached

        before, together, failed = pace(1), {}, []
        for count in found.trials:
            try:
                together[count] = pace(count)
            except Unmeasured as error:  # such as memory that does not suffice; fewer trials are a result
                failed.append(str(error))
        after = pace(1)
        recipe = json.loads((directory / "run-1" / RECIPE).read_text(encoding="utf-8"))
    for count, reached in together.items():
        yield {"op": "packing", **about(recipe), "mps": mps_is_running()} | row_of(
            count, reached, (before, after)
        )
    if failed:
        raise Unmeasured("\n".join(failed))


if __name__ == "__main__":
    chosen = options()
    record(measured(chosen), chosen.out)
