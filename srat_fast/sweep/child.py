"""Entry point of a trial's process: `python -m srat_fast.sweep.child PARENT ARGS...` is `srat-fast ARGS...`, and
`PARENT torchrun N ARGS...` the same in N processes under torchrun.

When the driver dies (SIGKILL too) the kernel sends SIGTERM, on which `train` saves and exits; so no trial goes on
unwatched and the next driver resumes it. Where the kernel does not offer that (not Linux), a thread looks after the
parent.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from srat_fast.errors import UserError, failure_of
from srat_fast.sweep.outcome import FAILURE_CODES
from srat_fast.training.stops import CODES

_PR_SET_PDEATHSIG = 1
TORCHRUN = "torchrun"


def end_with(parent: int) -> None:
    """Have this process terminated when its parent dies; at once where it has died already."""
    if sys.platform == "linux" and ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) == 0:
        watch = False
    else:
        watch = True
    if os.getppid() != parent:
        os._exit(143)
    if watch:
        threading.Thread(target=_watch, args=(parent,), daemon=True, name="parent").start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def load_data(recipe: Path) -> None:
    """Load the data set of a recipe file once, so that trials find it downloaded, checked and cached."""
    from srat_fast.data.split import load_split
    from srat_fast.recipe import build_recipe

    try:
        load_split(build_recipe(str(recipe)).resolve())
    except UserError as error:
        print(f"error: {error.line()}", file=sys.stderr)
        sys.exit(2)


def torchrun(processes: int, arguments: list[str]) -> None:
    """`srat-fast ARGUMENTS` in several processes; ends as the one that failed first, or by the signal that came."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    logging.disable()  # its own lines are no part of a trial's log, whose last one is the trial's reason
    options = ["--standalone", "--nproc-per-node", str(processes), "-m", "srat_fast.sweep.child"]
    try:
        run(parse_args([*options, str(os.getpid()), *arguments]))
    except SignalException as stop:  # passed on to all of them, which have saved
        sys.exit(CODES[signal.Signals(stop.sigval)])
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        if code < 0:  # as it ended, so that the driver sees a kill
            signal.signal(signal.Signals(-code), signal.SIG_DFL)
            os.kill(os.getpid(), -code)
        sys.exit(code)


@contextmanager
def failure_codes() -> Iterator[None]:
    """An error that nobody caught ends the process with the exit code of its kind."""
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        sys.exit(FAILURE_CODES.get(failure_of(error), 1))


def main() -> None:
    """Run the command named on the command line, or load a data set."""
    end_with(int(sys.argv[1]))
    if sys.argv[2] == "load-data":
        load_data(Path(sys.argv[3]))
    elif sys.argv[2] == TORCHRUN:
        torchrun(int(sys.argv[3]), sys.argv[4:])
    else:
        sys.argv[:] = ["srat-fast", *sys.argv[2:]]
        with failure_codes():
            program = importlib.import_module("srat_fast.cli")  # it lies above: run, not built upon
            program.main(codes=FAILURE_CODES)


if __name__ == "__main__":
    main()
