"""Every question about a GPU, the most important first, while time allows: `python benchmarks/gpu.py [--minutes 15]`.

Each question is a script of its own; its rows are in benchmarks/results/<device>.jsonl as they are measured. One that
fails or hangs ends no other. The same command goes on with what is not answered yet by this source, device and torch.
`--small` goes through all of it with the smallest sizes, on a CPU too.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
# neither root nor kernels are on a script's path, and a borrowed machine has the package nowhere else
PLACES = [str(ROOT), str(ROOT / "kernels")]
sys.path[:0] = PLACES

from benchmarks.rows import OUT, RESULTS, SMALL_RESULTS, Row, append, path_for, read  # noqa: E402
from benchmarks.tables import summary  # noqa: E402

#: Compiled code that the questions share, kept between commands: `build/` is no part of the source.
CACHES = ROOT / "build" / "caches"
#: Seconds that a question gets to leave what it has when its time is over.
GRACE = 10.0


class Question(NamedTuple):
    """A script with its options, as a process."""

    name: str
    script: str
    options: str
    seconds: float  # it may take on an H200, compilation included; it is ended then
    share: float = (
        0.4  # of these seconds, without which it is not begun: it would be ended before its first row
    )


def questions(data_root: Path | None = None) -> list[Question]:
    """In the order of a machine that may go at any time: figures of the goals, what explains them, tests, the rest."""
    images = "" if data_root is None else f" --data-root {shlex.quote(str(data_root))}"
    ladder = "reference,eager,autocast-only,compile-only,input-gradients,autocast,shadow,captured,compiled"
    yardsticks, rest = (
        "--rungs eager,autocast-only,captured",
        "--rungs eager,captured --parts attack,update,epoch",
    )
    first = [
        Question("step-128", "step", yardsticks, 120),
        # a process of its own: cuDNN keeps the first kernel that it chose for a shape
        Question("searched-128", "step", f"--search {yardsticks}", 120),
        # no accuracy of SRAT is to be believed before it
        Question("leak", "leak", images.strip(), 240),
        # a part of a run is little worth
        Question("run", "run", f"--seconds 480{images}", 500, 0.8),
        Question("evaluation", "evaluation", "--batch 512", 60),
        Question("evaluation-searched", "evaluation", "--search --batch 512", 60),
        Question("running-128", "step", f"--bn running {yardsticks}", 150),
        Question("running-512", "step", f"--bn running --batch 512 {yardsticks}", 150),
        Question("tests", "suite", "", 240),
        Question("ladder", "step", f"--rungs {ladder}", 280),
        Question("profile", "operations", "", 120),
        Question("loss-128", "kernels", "--only 'srat_loss forward+backward B=128 D=128 C=10'", 75),
        Question("loss-4096", "kernels", "--only 'srat_loss forward+backward B=4096 D=512 C=10'", 75),
        Question("linf-step", "kernels", "--only linf_step", 75),
        Question("packing", "packing", "", 330),
        Question("network", "network", "", 240),
        Question("loaders", "loaders", images.strip(), 200),
        Question("parts-128", "step", rest, 150),
        Question("batch-512", "step", "--batch 512 --rungs eager,autocast-only,compile-only,captured", 200),
        Question("network-512", "network", "--batch 512", 240),
        Question("parts-running-512", "step", f"--bn running --batch 512 {rest}", 150),
        Question("profile-running-512", "operations", "--bn running --batch 512", 120),
        # the search tries 10 to 17 kernels for each shape of a convolution, which takes minutes
        Question("modes", "step", "--rungs eager,captured,captured-max", 400),
        Question("run-running", "run", f"--bn running --seconds 420{images}", 440, 0.6),
        Question("startup", "startup", "--seeds 4", 600),
        Question("checkpoints", "checkpoints", "", 60),
    ]
    measured = {("bf16", bn, batch) for bn in ("batch", "running") for batch in (128, 512)}
    sizes = [
        Question(
            f"{precision}-{bn}-{batch}", "step",
            f"--precision {precision} --bn {bn} --batch {batch} --rungs eager,captured", 120,
        )
        for precision in ("bf16", "fp32")
        for batch in (128, 256, 512, 1024)
        for bn in ("running", "batch")
        if (precision, bn, batch) not in measured
    ]  # fmt: skip
    return [*first, *sizes]


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("question", nargs="*", help="names; all without")
    parser.add_argument("--minutes", type=float, default=15.0, help="all ends by then; the rest is for later")
    parser.add_argument("--out", type=Path, help=f"folder of the results; {OUT} without")
    parser.add_argument("--data-root", type=Path, help="folder of CIFAR-10 images; random ones without")
    parser.add_argument("--again", action="store_true", help="ask what is answered already, too")
    parser.add_argument("--list", action="store_true", help="print names and seconds, in order")
    parser.add_argument(
        "--small", action="store_true", help="the smallest sizes, to see that it works; on a CPU too"
    )
    found = parser.parse_args(arguments)
    if found.minutes <= 0:
        parser.error(f"--minutes = {found.minutes:g}: more than 0")
    if found.data_root is not None and not (found.data_root / "train").is_dir():
        parser.error(f"--data-root = {found.data_root}: a folder that holds train/ and test/")
    found.out = (found.out or (SMALL_RESULTS if found.small else RESULTS)).resolve()
    # questions run in the repository's root, whatever folder this was started in
    there = questions(found.data_root and found.data_root.resolve())
    known = {each.name: each for each in there}
    if unknown := [name for name in found.question if name not in known]:
        parser.error(f"question = {', '.join(unknown)}: of {', '.join(known)}")
    found.asked = [known[name] for name in found.question] or there
    return found


def unanswered(asked: list[Question], rows: Iterable[Row], about: Row) -> list[Question]:
    """What no earlier rows of the same device, versions and source answer; what did not end well is tried last."""
    same = ("device", "torch", "triton", "source")
    ended = {
        row["name"]: row["status"]
        for row in rows
        if row["op"] == "stage" and all(row.get(name) == about.get(name) for name in same)
    }
    left = [each for each in asked if ended.get(each.name) != "ok"]
    return sorted(left, key=lambda each: ended.get(each.name, "skipped").startswith(("failed", "timed out")))


def ended(command: list[str], seconds: float) -> str:
    """ "ok", "failed: exit N" or "timed out" of a command in a process group of its own.

    One that hangs or crashes takes no other with it: its group is asked to end, and killed `GRACE` later, compiler
    workers included.
    """
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True) as process:
        try:
            code = process.wait(timeout=seconds)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=GRACE)
            finally:  # what it started may outlive it
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return "timed out"
    return "ok" if code == 0 else f"failed: exit {code}"


def ask(
    asked: Iterable[Question], found: argparse.Namespace, path: Path, about: Row, deadline: float
) -> list[str]:
    """Run question after question until the deadline (of `time.monotonic`), with a row on how each ended."""
    statuses = []
    for question in asked:
        left = deadline - time.monotonic() - GRACE
        started = time.monotonic()
        limit = question.seconds * (4 if found.small else 1)  # a CPU compiles for longer
        command = [f"benchmarks/{question.script}.py", *shlex.split(question.options)]
        command += ["--out", str(path.parent), *(["--small"] if found.small else [])]
        if left < question.share * limit:
            status = f"skipped: {max(left, 0):.0f} s left of {limit:.0f}"
        else:
            print(f"== {question.name}: {shlex.join(command)}", flush=True)
            status = ended([sys.executable, "-u", *command], min(left, limit))
        row = {"op": "stage", "name": question.name, "status": status, "command": shlex.join(command)}
        append(path, row | {"seconds": round(time.monotonic() - started, 1)} | about)
        print(f"-- {question.name}: {status} ({time.monotonic() - started:.0f} s)", flush=True)
        statuses.append(status)
    return statuses


def main(arguments: list[str] | None = None) -> int:
    """0; 1 where a question failed; 2 without a CUDA device."""
    found = options(arguments)
    deadline = time.monotonic() + 60 * found.minutes
    if found.list:
        print("\n".join(f"{each.name:25} {each.seconds:5.0f} s" for each in found.asked))
        return 0
    import torch

    if not found.small and not torch.cuda.is_available():
        print("benchmarks/gpu.py needs a CUDA device; --small goes through it on a CPU", file=sys.stderr)
        return 2
    from benchmarks.measure import machine

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the question under way is ended in order, too
    for name, folder in (("TORCHINDUCTOR_CACHE_DIR", "inductor"), ("TRITON_CACHE_DIR", "triton")):
        os.environ.setdefault(name, str(CACHES / folder))
    paths = [*PLACES, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in dict.fromkeys(paths) if path)
    about = machine()
    path = path_for(found.out, about["device"])
    asked = found.asked if found.again else unanswered(found.asked, read(path), about)
    statuses = ask(asked, found, path, about, deadline)
    print(summary([row for row in read(path) if row.get("source") == about["source"]]))
    print(path)
    return int(any(status.startswith(("failed", "timed out")) for status in statuses))


if __name__ == "__main__":
    sys.exit(main())
