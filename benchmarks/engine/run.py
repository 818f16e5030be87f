"""Measure stages of the engine, one JSON line a result: `python benchmarks/engine/run.py [STAGE ...]`.

Enters names of stages, or a size with --batch, --width and others; leaves lines in benchmarks/results/<device>.jsonl
(--out DIR elsewhere), appended, and one printed line a result.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]  # a script's own folder is on the path, the repository's root is not

from benchmarks.engine.ladder import RUNGS  # noqa: E402
from benchmarks.engine.stages import run, stages  # noqa: E402
from benchmarks.engine.work import ON_GPU  # noqa: E402
from benchmarks.measure import machine  # noqa: E402
from benchmarks.rows import RESULTS, append, path_for  # noqa: E402


def line(row: dict[str, object]) -> str:
    """A row for the eye."""
    size = " ".join(f"{name}={row[name]}" for name in ("batch", "width", "bn", "precision") if name in row)
    if row["op"] == "profile":
        return f"profile {size}: {row['host_share']:.1%} of the wall time is the host's"
    if row["op"] == "network":
        parts = ", ".join(f"{p['stage']} {p['pass']} {p['tflops']}" for p in row["parts"])
        return f"network {size}: TFLOP/s {parts}"
    ratio = row["ratio"]
    assert isinstance(ratio, dict)
    method = f" ({row['reference_method']})" if row.get("reference_method") != row.get("method") else ""
    return (
        f"{row['op']} {size}: {row['implementation']} {row['images_per_second']:,} images/s, "
        f"{ratio['median']:.2f} {ratio['quartiles']} x {row['reference']}{method}"
    )


def main() -> None:
    """Parse, measure, append."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", nargs="*", help="names; all without")
    parser.add_argument("--list", action="store_true", help="print the names, most important first")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each implementation")
    parser.add_argument(
        "--block", type=float, default=0.3 if ON_GPU else 0.0, help="seconds a turn, one call at least"
    )
    parser.add_argument("--rungs", type=lambda text: tuple(text.split(",")), help=f"of {', '.join(RUNGS)}")
    parser.add_argument(
        "--parts", type=lambda text: tuple(text.split(",")), help="attack, update, step, epoch"
    )
    for name in ("batch", "width", "steps"):
        parser.add_argument(f"--{name}", type=int, help="in place of the stage's")
    arguments = parser.parse_args()
    known = {stage.name: stage for stage in stages()}
    if arguments.list:
        print("\n".join(known))
        return
    unknown = set(arguments.stage) - set(known)
    if unknown:
        parser.error(f"no stage {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    about = machine()
    path = path_for(arguments.out, about["device"])
    for name in arguments.stage or known:
        stage = known[name]
        sizes = {n: getattr(arguments, n) for n in ("batch", "width", "steps") if getattr(arguments, n)}
        changes = {n: getattr(arguments, n) for n in ("rungs", "parts") if getattr(arguments, n)}
        stage = stage._replace(work=stage.work._replace(**sizes), **changes)
        for row in run(stage, arguments.rounds, arguments.block):
            append(path, row | about)
            print(line(row), flush=True)
    print(path)


if __name__ == "__main__":
    main()
