"""The whole measurement of a GPU in one command: `python benchmarks/gpu.py [--out DIR] [--minutes 8] [--quick]`.

Enters nothing; first the tests that guard the fast path (red ends it), then stages, the most important first, while
time is left; leaves rows in benchmarks/results/<device>.jsonl and prints the goals beside what was measured.
`--profile` writes a chrome trace of five steps instead. `--quick --cpu` is the same with a CPU's small sizes.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]  # a script's own folder is on the path, the repository's root is not

from benchmarks.goals import judged  # noqa: E402
from benchmarks.rows import RESULTS, append, path_for, read  # noqa: E402

TESTS = ("tests/kernels", "tests/attacks", "tests/equivalence")
#: Without compilation and kernels: half a minute on a CPU.
QUICK_TESTS = ("tests/attacks", "tests/equivalence/test_step.py")
#: Cases of the goals; --only takes part of a name.
KERNELS = (
    "srat_loss forward+backward B=128 D=128 C=10",
    "srat_loss forward+backward B=4096 D=512 C=10",
    "linf_step",
)
#: After the engine's stages that the goals name, before the others.
KERNELS_AFTER = 4


def main() -> int:
    """Run what was asked for.

    Returns:
        0; 1 where a test or a stage failed; 2 without a CUDA device.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="all ends by then; the rest is marked as skipped"
    )
    parser.add_argument("--quick", action="store_true", help="few sizes and turns, a part of the tests")
    parser.add_argument("--cpu", action="store_true", help="on the CPU, with --quick only")
    parser.add_argument(
        "--profile", action="store_true", help="a trace of five steps, the longest operations"
    )
    arguments = parser.parse_args()
    if arguments.cpu:
        if not arguments.quick:
            parser.error("--cpu goes with --quick: a CPU has small sizes only")
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # for this process and those it starts
    deadline = time.monotonic() + 60 * arguments.minutes
    import torch

    if not arguments.cpu and not torch.cuda.is_available():
        print(
            "benchmarks/gpu.py needs a CUDA device; --quick --cpu runs small sizes on a CPU", file=sys.stderr
        )
        return 2
    if arguments.profile:
        return profile(arguments.out)
    # stages run in the repository's root, whatever folder this was started in
    return measure(arguments.out.resolve(), deadline, arguments.quick)


def measure(out: Path, deadline: float, quick: bool) -> int:
    """Tests, stages, table.

    Args:
        out: folder of the results.
        deadline: of `time.monotonic`.
        quick: few sizes and turns.

    Returns:
        The exit status.
    """
    from benchmarks.measure import machine

    about = machine()
    path = path_for(out, about["device"])
    before = len(read(path))
    statuses = []
    for number, (name, command) in enumerate(commands(out, quick)):
        left = deadline - time.monotonic()
        started = time.monotonic()
        status = timed_out_or(command, left) if left > 10 else "skipped: no time left"
        row = {"op": "stage", "name": name, "status": status, "command": " ".join(command[1:])}
        append(path, row | {"seconds": round(time.monotonic() - started, 1)} | about)
        print(f"-- {name}: {status} ({time.monotonic() - started:.0f} s)", flush=True)
        statuses.append(status)
        if number == 0 and status != "ok":
            print("The tests did not pass: nothing is measured.", file=sys.stderr)
            return 1
    table(read(path)[before:])
    print(path)
    return int(any(status.startswith("failed") for status in statuses))


def commands(out: Path, quick: bool) -> list[tuple[str, list[str]]]:
    """(name, command) of each stage, tests first.

    Args:
        out: folder of the results.
        quick: few sizes and turns.
    """
    from benchmarks.engine.stages import quick_stages, stages

    python, workers = sys.executable, str(min(8, os.cpu_count() or 1))
    tests = [python, "-m", "pytest", "-q", "-n", workers, *(QUICK_TESTS if quick else TESTS)]
    rounds = ["--rounds", "3"] if quick else []
    script = [python, "benchmarks/engine/run.py", "--out", str(out), *rounds]
    engine = [
        (stage.name, [*script, "--parts", ",".join(stage.parts), stage.name])
        for stage in (quick_stages() if quick else stages())
    ]
    kernels = [
        (f"kernel {case}", [python, "benchmarks/kernels/run.py", "--only", case, "--out", str(out), *rounds])
        for case in KERNELS[: 1 if quick else None]
    ]
    few = ["--images", "500", "--large-images", "100"] if quick else []
    loaders = ("loaders", [python, "benchmarks/loaders/run.py", "--out", str(out), *rounds, *few])
    return [("tests", tests), *engine[:KERNELS_AFTER], *kernels, loaders, *engine[KERNELS_AFTER:]]


def timed_out_or(command: list[str], seconds: float) -> str:
    """Run a command in its own process group: one that hangs or crashes takes no other stage with it.

    Args:
        command: the first word is a program.
        seconds: it may run; then its group is killed, compiler workers included.

    Returns:
        "ok", "failed: exit N" or "timed out".
    """
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True) as process:
        try:
            code = process.wait(timeout=seconds)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return "timed out"
    return "ok" if code == 0 else f"failed: exit {code}"


def table(rows: list[dict[str, Any]]) -> None:
    """Print the goals.

    Args:
        rows: of this run.
    """
    from rich.console import Console
    from rich.table import Table

    found = Table("goal", "measured", "met?")
    for line in judged(rows):
        found.add_row(*line)
    Console().print(found)


def profile(out: Path) -> int:
    """Trace five steps of the first stage's size.

    Args:
        out: folder of the trace.

    Returns:
        0.
    """
    from benchmarks.engine.profiling import STEPS, profiled
    from benchmarks.engine.stages import stages

    trace = out / "trace.json"
    found = profiled(stages()[0].work, trace=trace)
    for name, microseconds, calls in found.operations[:15]:
        print(f"{microseconds / STEPS:12,.0f} us a step  {calls / STEPS:7.1f} calls  {name[:90]}")
    print(f"host-bound share: {found.host_share:.1%}\n{trace}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
