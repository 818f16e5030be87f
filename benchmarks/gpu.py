"""The whole measurement of a GPU in one command: `python benchmarks/gpu.py [--minutes 9] [--stages A,B] [--resume]`.

Enters nothing; the tests that guard the fast path come first, then stages, the most important first, while time is
left. Leaves rows in benchmarks/results/<device>.jsonl, each as it is measured, and prints the goals beside what was
measured. A stage that fails or hangs ends no other. `--quick --cpu` is the same with a CPU's small sizes.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# neither root nor kernels are on a script's path, and a borrowed machine has the package nowhere else
PLACES = [str(ROOT), str(ROOT / "kernels")]
sys.path[:0] = PLACES

from benchmarks.lease import Task, left_over, perform  # noqa: E402
from benchmarks.plan import Choices, chosen_mode, tasks  # noqa: E402
from benchmarks.rows import RESULTS, path_for, read  # noqa: E402
from benchmarks.runs.process import end_in_order  # noqa: E402
from benchmarks.summary import goals_for_the_eye, summary  # noqa: E402

#: Compiled code that the stages share, kept between commands: `build/` is no part of the source.
CACHES = ROOT / "build" / "caches"
SAME = Path("--out")


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked.

    Args:
        arguments: those of the process where None.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--minutes", type=float, default=9.0, help="all ends by then; the rest is skipped")
    parser.add_argument("--stages", help="names, separated by commas; all without")
    parser.add_argument(
        "--list", action="store_true", help="print the names and seconds of the stages, in order"
    )
    parser.add_argument(
        "--resume", type=Path, nargs="?", const=SAME, metavar="DIR",
        help="pass over what ended well in the results of DIR (--out without) by this source, device and torch",
    )  # fmt: skip
    parser.add_argument(
        "--any-source", action="store_true", help="--resume: what other code measured counts, too"
    )
    parser.add_argument("--summary", type=Path, help="file for the goals, ratios and profile as Markdown")
    parser.add_argument("--log", type=Path, help="file for what the stages print; the terminal without")
    parser.add_argument("--data-root", type=Path, help="folder of CIFAR-10 images; random ones without")
    parser.add_argument("--commit", help="what the rows call the commit; git is asked without")
    parser.add_argument(
        "--compile-mode", choices=("measured", "default", "max-autotune"), default="measured",
        help="of every stage; measured: default until the stage `modes` has shown that the other is worth it",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="few sizes and turns, a part of the tests")
    parser.add_argument("--cpu", action="store_true", help="on the CPU, with --quick only")
    parser.add_argument(
        "--profile", action="store_true", help="only a trace of five steps, longest operations"
    )
    found = parser.parse_args(arguments)
    if found.cpu and not found.quick:
        parser.error("--cpu goes with --quick: a CPU has small sizes only")
    if found.any_source and found.resume is None:
        parser.error("--any-source goes with --resume")
    if found.minutes <= 0:
        parser.error(f"--minutes = {found.minutes:g}: more than 0")
    if found.data_root is not None and not (found.data_root / "train").is_dir():
        parser.error(f"--data-root = {found.data_root}: a folder that holds train/ and test/")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for.

    Args:
        arguments: those of the process where None.

    Returns:
        0; 1 where a stage failed; 2 without a CUDA device.
    """
    found = options(arguments)
    deadline = time.monotonic() + 60 * found.minutes
    if found.cpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # for this process and those it starts
    import torch

    if not found.cpu and not torch.cuda.is_available():
        print(
            "benchmarks/gpu.py needs a CUDA device; --quick --cpu runs small sizes on a CPU", file=sys.stderr
        )
        return 2
    if found.profile:
        return profile(found.out)
    # stages run in the repository's root, whatever folder this was started in
    root = None if found.data_root is None else found.data_root.resolve()
    there = tasks(Choices(found.out.resolve(), found.quick, found.cpu, root))
    if found.list:
        print("\n".join(f"{task.name:45} {task.seconds:5.0f} s" for task in there))
        return 0
    if found.stages is not None:
        names = found.stages.split(",")
        known = {task.name: task for task in there}
        if unknown := [name for name in names if name not in known]:
            allowed = ", ".join(known)
            print(f"--stages = {', '.join(unknown)}: no such stage; there are {allowed}", file=sys.stderr)
            return 2
        there = [known[name] for name in names]
    end_in_order()
    return measure(found, there, deadline)


def measure(found: argparse.Namespace, there: list[Task], deadline: float) -> int:
    """Stages, goals, summary.

    Args:
        found: of the command line.
        there: the stages.
        deadline: of `time.monotonic`.

    Returns:
        The exit status.
    """
    from benchmarks.measure import COMMIT, COMPILE_MODE, machine

    if found.commit:
        os.environ[COMMIT] = found.commit
    for name, folder in (("TORCHINDUCTOR_CACHE_DIR", "inductor"), ("TRITON_CACHE_DIR", "triton")):
        os.environ.setdefault(name, str(CACHES / folder))
    # what a stage printed is in the log in its order, and though it was killed
    os.environ["PYTHONUNBUFFERED"] = "1"
    paths = [*PLACES, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in dict.fromkeys(paths) if path)
    about = machine()
    path = path_for(found.out.resolve(), about["device"])
    if found.resume is not None:
        earlier = read(path_for(found.out if found.resume is SAME else found.resume, about["device"]))
        wanted, there = there, left_over(there, earlier, about, found.any_source)
        print("".join(f"-- {task.name}: measured before\n" for task in wanted if task not in there), end="")
    else:
        earlier = []

    def own() -> list[dict[str, Any]]:
        """Rows of this device that count, earlier ones first."""
        same = [row for row in earlier if found.any_source or row.get("source") == about["source"]]
        return [*same, *read(path)[before:]]

    before = len(read(path))

    def settle(task: Task) -> None:
        """The mode of the stages that follow."""
        mode = chosen_mode(own()) if found.compile_mode == "measured" else found.compile_mode
        os.environ[COMPILE_MODE] = mode or "default"

    settle(Task("", [], 0))
    statuses = perform(there, path, about, deadline, found.log, settle)
    rows = own()
    goals_for_the_eye(rows)
    if found.summary is not None:
        found.summary.parent.mkdir(parents=True, exist_ok=True)
        found.summary.write_text(summary(rows), encoding="utf-8")
    print(path)
    return int(any(status.startswith(("failed", "timed out")) for status in statuses.values()))


def profile(out: Path) -> int:
    """Trace five steps of the first stage's size.

    Args:
        out: folder of the trace.

    Returns:
        0.
    """
    from benchmarks.engine.profiling import profile_row
    from benchmarks.engine.stages import stages

    row = profile_row(stages()[0].work, trace=out / "trace.json")
    for entry in row["operations"]:
        print(
            f"{entry['microseconds']:12,.0f} us a step  {entry['calls']:7.1f} calls  {entry['kind']:16} "
            f"{entry['name'][:90]}"
        )
    print(f"host-bound share: {row['host_share']:.1%}\n{out / 'trace.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
