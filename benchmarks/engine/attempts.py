"""Attempts at more speed: `python benchmarks/engine/attempts.py [--minutes 8] [--only NAME,...]`.

Enters nothing; each attempt is built in a process of its own, passes the gate of `ladder.check`, is timed against the
product in turns (A B A B) and leaves one row; then a table: predicted, measured, keep? What has a row of this code is
passed over.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]  # a script's own folder is on the path, the repository's root is not

import torch  # noqa: E402

from benchmarks.engine.ladder import FAST, PRODUCT, check, make_engine, warm  # noqa: E402
from benchmarks.engine.variants import (  # noqa: E402
    FusedConvolution,
    FusedNorm,
    PaddedStem,
    TurnedStem,
    halves,
    loss_inside,
    with_shadow,
)
from benchmarks.engine.work import COUNTS, DEVICE, ON_GPU, PRECISIONS, UNDER, Work, batch_of  # noqa: E402
from benchmarks.measure import machine, spread, take_turns  # noqa: E402
from benchmarks.rows import RESULTS, append, path_for, read  # noqa: E402
from srat_fast.models.build import build_model  # noqa: E402
from srat_fast.training.step import FastEngine  # noqa: E402

#: A gain that is worth its code: median, and the quartile that most turns beat.
WORTH, SURE = 1.01, 1.0
#: The seconds below which no attempt is begun.
LEAST = 30


class Attempt(NamedTuple):
    """One idea.

    Attributes:
        name: unique.
        sizes: (batch, attack.bn) at which it is measured, the one that decides first.
        gain: predicted time of the product / time of the attempt, at the first size.
        why: the reasoning, in one line of the table.
        make: size -> engine before its first step, of the product's recipe.
        settings: of torch._inductor.config while the engine compiles.
        cudnn: let cuDNN time its kernels instead of guessing, in a thread of its own: plans are kept by thread.
    """

    name: str
    sizes: tuple[tuple[int, str], ...]
    gain: float
    why: str
    make: Callable[[Work], FastEngine]
    settings: dict[str, Any] = {}  # noqa: RUF012 - a NamedTuple's default, never written to
    cudnn: bool = False


def product(work: Work) -> FastEngine:
    """The engine that `srat-fast train` uses."""
    return make_engine(PRODUCT, work)


def uncompiled(work: Work) -> FastEngine:
    """The product without torch.compile: launches are captured all the same."""
    recipe = work.recipe(**{**FAST[PRODUCT], "run.compile": "off"})
    model = build_model(recipe, classes=len(COUNTS), channels=3, moments=None).to(DEVICE)
    return FastEngine(recipe, model, COUNTS, UNDER)


BATCH, RUNNING, LARGE = (128, "batch"), (128, "running"), (512, "running")
#: In the order of expected gain a minute.
ATTEMPTS = (
    Attempt(
        "fused-norm",
        (BATCH, (512, "batch")),
        1.12,
        "inductor launches 3 to 4 kernels a BatchNorm and direction, 141 an attack step (read from its code); here 80",
        lambda work: with_shadow(product(work), FusedNorm, compiled=False),
    ),
    Attempt(
        "fused-convolution",
        (RUNNING, LARGE),
        1.10,
        "bias and ReLU as a pass of their own are 2.4 of 10.6 MB an image and 20 of 82 launches (floor.py)",
        lambda work: with_shadow(product(work), FusedConvolution, compiled=False),
    ),
    Attempt(
        "padded-stem",
        (BATCH, RUNNING),
        1.08,
        "cuDNN has no tensor-core kernel for the gradient of 3 channels: 50 to 200 us where 25 are the floor",
        lambda work: with_shadow(product(work), PaddedStem, compiled=True),
    ),
    Attempt(
        "turned-stem",
        (BATCH, RUNNING),
        1.08,
        "the same gradient as a forward convolution 64 -> 8",
        lambda work: with_shadow(product(work), TurnedStem, compiled=True),
    ),
    Attempt(
        "cudnn-timed",
        (BATCH, RUNNING),
        1.05,
        "timed kernels instead of cuDNN's first guess; the guess is often good, the last stage's 64 tiles rarely",
        product,
        cudnn=True,
    ),
    Attempt(
        "halves",
        (RUNNING,),
        1.06,
        "the last two stages fill 64 to 128 of 132 multiprocessors, a launch's start and end none: overlap two streams",
        lambda work: halves(product(work)),
    ),
    Attempt(
        "loss-inside",
        (BATCH, RUNNING),
        1.01,
        "six small launches less of some 190 an attack step",
        lambda work: loss_inside(product(work)),
    ),
    Attempt(
        "uncompiled",
        (BATCH, RUNNING),
        0.75,
        "what compilation is worth beside its minutes: ATen's BatchNorm, ReLU and sum are passes of their own",
        uncompiled,
    ),
    Attempt(
        "pointwise-tuned",
        (BATCH,),
        1.02,
        "Triton's settings timed, cuDNN's convolutions left alone",
        product,
        settings={"max_autotune_pointwise": True},
    ),
)


@contextmanager
def conditions(attempt: Attempt) -> Iterator[None]:
    """What holds while an attempt's engine compiles and is captured; put back afterwards."""
    import torch._inductor.config as inductor

    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.benchmark_limit
    if attempt.cudnn:
        cudnn.benchmark, cudnn.benchmark_limit = True, 0  # 0: all plans, not the first ten
    try:
        with inductor.patch(attempt.settings):
            yield
    finally:
        cudnn.benchmark, cudnn.benchmark_limit = before


def built(attempt: Attempt, work: Work) -> tuple[FastEngine, float]:
    """The attempt's engine, compiled and captured, and how many seconds that took."""
    images, labels = batch_of(work)
    found: list[FastEngine] = []
    failure: list[BaseException] = []

    def build() -> None:
        try:
            with conditions(attempt):
                if attempt.cudnn:  # backward passes in this thread too: it has plans of its own
                    torch.autograd.set_multithreading_enabled(False)
                engine = attempt.make(work)
                warm(engine, images, labels)
                engine.step(images, labels)
                found.append(engine)
        except BaseException as error:
            failure.append(error)

    torch.compiler.reset()  # code compiled for another engine fits this one as well, but not its settings
    started = time.perf_counter()
    if attempt.cudnn:
        thread = threading.Thread(target=build)
        thread.start()
        thread.join()
    else:
        build()
    if failure:
        raise failure[0]
    return found[0], time.perf_counter() - started


def measured(attempt: Attempt, work: Work, rounds: int, block: float) -> dict[str, Any]:
    """The row of one attempt at one size.

    Args:
        attempt: of `ATTEMPTS`.
        work: the size.
        rounds: turns of either side, at least 2.
        block: seconds a turn.

    Returns:
        Ratio of times, product / attempt: above 1 is faster.

    Raises:
        AssertionError: the attempt computes something else.
    """
    images, labels = batch_of(work)
    ours, seconds = built(attempt, work)
    theirs, product_seconds = built(attempt._replace(make=product, settings={}, cudnn=False), work)
    # the reference's separation loss is a loop over pairs, too slow for a large batch (work.py)
    oracle = "reference" if work.reference_method == work.method else "eager"
    helpers = [make_engine(oracle, work), make_engine("autocast", work)]
    for helper in helpers:
        warm(helper, images, labels)
    check(PRODUCT, ours, *helpers, work, images, labels)
    functions = {"ours": lambda: ours.step(images, labels), "theirs": lambda: theirs.step(images, labels)}
    times = take_turns(functions, rounds, block)
    ratios = [b / a for a, b in zip(times["ours"], times["theirs"], strict=True)]
    return {
        "op": "attempt",
        **work._asdict(),
        "implementation": attempt.name,
        "reference": PRODUCT,
        "predicted": attempt.gain,
        "microseconds": spread(times["ours"]),
        "reference_microseconds": spread(times["theirs"]),
        "ratio": spread(ratios),
        "images_per_second": round(work.batch / statistics.median(times["ours"]) * 1e6, 2),
        "reference_images_per_second": round(work.batch / statistics.median(times["theirs"]) * 1e6, 2),
        "start_seconds": round(seconds, 1),
        "reference_start_seconds": round(product_seconds, 1),
    }


def keep(row: dict[str, Any]) -> str:
    """Whether a row speaks for the attempt: "yes", "no", or "noise" between."""
    ratio = row["ratio"]
    if ratio["median"] >= WORTH and ratio["quartiles"][0] > SURE:
        return "yes"
    return "no" if ratio["median"] < WORTH and ratio["quartiles"][1] < WORTH else "noise"


def tasks(only: list[str], first_size: bool = False) -> list[tuple[Attempt, int, str]]:
    """(attempt, batch, bn), every attempt's first size before any second one.

    Args:
        only: names; all without.
        first_size: no others.
    """
    chosen = [attempt for attempt in ATTEMPTS if not only or attempt.name in only]
    most = max(len(attempt.sizes) for attempt in chosen)
    return [
        (attempt, *attempt.sizes[place])
        for place in range(1 if first_size else most)
        for attempt in chosen
        if place < len(attempt.sizes)
    ]


def done(rows: list[dict[str, Any]], about: dict[str, Any]) -> set[tuple[str, int, str]]:
    """What has a row of the same code with the same torch.

    Args:
        rows: of the device.
        about: as `machine()` gives it.
    """
    same = [
        row for row in rows if all(row.get(key) == about.get(key) for key in ("source", "commit", "torch"))
    ]
    return {(row["implementation"], row["batch"], row["bn"]) for row in same if row["op"] == "attempt"}


def apart(command: list[str], seconds: float) -> str:
    """A command in its own process group, killed after its time, compiler workers included: "ok" or what went wrong."""
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True) as process:
        try:
            code = process.wait(timeout=seconds)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return "timed out"
    return "ok" if code == 0 else f"failed: exit {code}"


def table(rows: list[dict[str, Any]]) -> str:
    """Attempt, predicted, measured, keep?"""
    lines = [
        f"{'attempt':20}{'batch':>6} {'bn':8}{'predicted':>10}{'measured':>10}  {'quartiles':18}{'start s':>8}  keep?"
    ]
    latest = {(row["implementation"], row["batch"], row["bn"]): row for row in rows if row["op"] == "attempt"}
    for attempt in ATTEMPTS:
        for place, (batch, bn) in enumerate(attempt.sizes):
            predicted = f"{attempt.gain:.2f}" if place == 0 else "-"
            row = latest.get((attempt.name, batch, bn))
            text = f"{attempt.name:20}{batch:6} {bn:8}{predicted:>10}"
            if row is None:
                lines.append(f"{text}{'-':>10}  {'to be measured':18}")
                continue
            ratio, start = row["ratio"], row["start_seconds"]
            quartiles = " to ".join(f"{q:.3f}" for q in ratio["quartiles"])
            lines.append(f"{text}{ratio['median']:10.3f}  {quartiles:18}{start:8.0f}  {keep(row)}")
    return "\n".join(lines)


def main() -> int:
    """Parse, measure, print.

    Returns:
        0; 1 where an attempt failed; 2 without a CUDA device.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="all ends by then")
    parser.add_argument(
        "--limit", type=float, default=150.0, help="seconds for one attempt at one size, compilation included"
    )
    parser.add_argument("--only", default="", help=f"of {', '.join(a.name for a in ATTEMPTS)}")
    parser.add_argument("--first", action="store_true", help="each attempt's first size only")
    parser.add_argument("--again", action="store_true", help="measure what has a row of this code, too")
    parser.add_argument("--list", action="store_true", help="print the table and measure nothing")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--rounds", type=int, default=7, help="turns of either side")
    parser.add_argument("--block", type=float, default=0.3, help="seconds a turn")
    parser.add_argument("--here", metavar="BATCH,BN", help="this size of --only, in this process")
    arguments = parser.parse_args()
    only = [name for name in arguments.only.split(",") if name]
    unknown = set(only) - {attempt.name for attempt in ATTEMPTS}
    if unknown:
        parser.error(f"--only {','.join(sorted(unknown))}: of {', '.join(a.name for a in ATTEMPTS)}")
    about = machine()
    path = path_for(arguments.out.resolve(), about["device"])
    if arguments.list:
        print(table(read(path)))
        return 0
    if not ON_GPU:
        print(
            "benchmarks/engine/attempts.py needs a CUDA device; --list prints the predictions",
            file=sys.stderr,
        )
        return 2
    if arguments.here:
        batch, bn = arguments.here.split(",")
        (attempt,) = (attempt for attempt in ATTEMPTS if attempt.name in only)
        work = Work("srat-ldam", int(batch), bn, PRECISIONS[0])
        append(path, measured(attempt, work, arguments.rounds, arguments.block) | about)
        return 0
    deadline = time.monotonic() + 60 * arguments.minutes
    finished = set() if arguments.again else done(read(path), about)
    failed = False
    for attempt, batch, bn in tasks(only, arguments.first):
        left = deadline - time.monotonic()
        if (attempt.name, batch, bn) in finished:
            continue
        if left < LEAST:
            print(f"-- {attempt.name} {batch} {bn}: no time left", flush=True)
            continue
        own = ["--only", attempt.name, "--here", f"{batch},{bn}", "--out", str(path.parent)]
        turns = ["--rounds", str(arguments.rounds), "--block", str(arguments.block)]
        started = time.monotonic()
        status = apart([sys.executable, __file__, *own, *turns], min(left, arguments.limit))
        failed |= status != "ok"
        print(f"-- {attempt.name} {batch} {bn}: {status} ({time.monotonic() - started:.0f} s)", flush=True)
    print(table(read(path)))
    print(path)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
