"""Attempts at more speed: `python benchmarks/attempts/run.py [--minutes 8] [--only NAME,...]`.

Enters nothing; each attempt is built in a process of its own, passes the gate of `ladder.check`, is timed against the
product in turns (A B A B) and leaves one row; then a table: predicted, measured, keep? What has a row of this code is
passed over.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [
    str(ROOT),
    str(ROOT / "kernels"),
]  # a script's own folder is on the path, the repository's is not

from benchmarks.attempts.ideas import ATTEMPTS  # noqa: E402
from benchmarks.attempts.measuring import measured  # noqa: E402
from benchmarks.attempts.table import done, table, tasks  # noqa: E402
from benchmarks.engine.work import ON_GPU, PRECISIONS, Work  # noqa: E402
from benchmarks.lease import timed_out_or  # noqa: E402
from benchmarks.measure import machine  # noqa: E402
from benchmarks.rows import RESULTS, append, path_for, read  # noqa: E402

#: The seconds below which no attempt is begun.
LEAST = 30


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
            "benchmarks/attempts/run.py needs a CUDA device; --list prints the predictions",
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
        status = timed_out_or([sys.executable, __file__, *own, *turns], min(left, arguments.limit))
        failed |= status != "ok"
        print(f"-- {attempt.name} {batch} {bn}: {status} ({time.monotonic() - started:.0f} s)", flush=True)
    print(table(read(path)))
    print(path)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
