"""One attempt at one size: both enter; it is built, passes the gate and is timed beside the product; a row leaves."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.attempts.ideas import Attempt, product
from benchmarks.engine.ladder import PRODUCT, check, make_engine, warm
from benchmarks.engine.work import Work, batch_of
from benchmarks.measure import spread, take_turns
from srat_fast.training.step import FastEngine


@contextmanager
def conditions(attempt: Attempt) -> Iterator[None]:
    """What holds while an attempt's engine compiles and is captured; put back afterwards."""
    import torch._inductor.config as inductor

    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.benchmark_limit
    if attempt.cudnn:
        cudnn.benchmark, cudnn.benchmark_limit = True, 0  # 0: all plans, not the first ten
    try:
        with inductor.patch(dict(attempt.settings)):
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
