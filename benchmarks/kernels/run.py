"""Measure every kernel against its references, one JSON line a result: `python benchmarks/kernels/run.py`.

Lines are appended to benchmarks/results/<device>.jsonl (--out DIR elsewhere). Meant for a GPU; on a CPU it compares the
compiled reference with the eager one at a small size, and says so. All cases take a while, mostly compiling references:
`--only srat_loss`, `--only "B=4096 D=512"` are parts.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]  # a script's own folder is on the path, the repository's root is not

from benchmarks.kernels.cases import IMPLEMENTATIONS, ON_GPU, Case, all_sizes, build  # noqa: E402
from benchmarks.measure import captured, machine, peak_bytes, spread, take_turns  # noqa: E402
from benchmarks.rows import RESULTS, append, path_for  # noqa: E402


def results(case: Case, rounds: int, block: float) -> list[dict[str, Any]]:
    """The first implementation against each other one, launched one by one and, on a GPU, replayed as a graph.

    A row per reference and way of launching; ratio > 1 means faster than the reference.
    """
    measured, *references = IMPLEMENTATIONS
    memory = {name: peak_bytes(function) for name, function in case.functions.items()}
    rows = []
    for launch in ("calls", "graph") if ON_GPU else ("calls",):
        functions = {
            name: captured(function) if launch == "graph" else function
            for name, function in case.functions.items()
        }
        times = take_turns(functions, rounds, block)
        for reference in references:
            ratios = [theirs / ours for ours, theirs in zip(times[measured], times[reference], strict=True)]
            rows.append(
                {
                    "op": case.op,
                    "mode": case.mode,
                    "launch": launch,
                    **case.size._asdict(),
                    "implementation": measured,
                    "reference": reference,
                    "microseconds": spread(times[measured]),
                    "reference_microseconds": spread(times[reference]),
                    "ratio": spread(ratios),
                    "peak_bytes": memory[measured],
                    "reference_peak_bytes": memory[reference],
                }
            )
    return rows


def main() -> None:
    """Parse, measure, append."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each implementation")
    parser.add_argument("--block", type=float, default=0.03, help="seconds a turn")
    arguments = parser.parse_args()
    if not ON_GPU:
        print("no GPU: the kernels are not measured, only the compiled reference against the eager one")
    about = machine()
    path = path_for(arguments.out, about["device"])
    for op, mode, size in all_sizes():
        if arguments.only not in f"{op} {mode} B={size.batch} D={size.dims} C={size.classes}":
            continue
        case = build(op, mode, size)
        for row in results(case, arguments.rounds, arguments.block):
            append(path, row | about)
            print(
                f"{case} {row['launch']}: {row['implementation']} {row['microseconds']['median']} us, "
                f"{row['ratio']['median']} x {row['reference']}"
            )
    print(path)


if __name__ == "__main__":
    main()
