"""A trial's process: `python -m srat_fast.sweep.child PARENT ARGS...` is `srat-fast ARGS...` that ends with its driver.

When the driver dies (SIGKILL too) the kernel sends SIGTERM, on which `train` saves and exits; so no trial goes on
unwatched and the next driver resumes it. Where the kernel does not offer that (not Linux), a thread looks after the
parent.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> None:
    """Have this process terminated when its parent dies.

    Args:
        parent: the driver's process id; if it is not the parent any more, this process ends at once.
    """
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


def main() -> None:
    """Run the command named on the command line under its driver's eye."""
    end_with(int(sys.argv[1]))
    if sys.argv[2] == "prepare":
        from srat_fast.sweep.prepare import prepare

        prepare(sys.argv[3:])
    else:
        sys.argv[:] = ["srat-fast", *sys.argv[2:]]
        runpy.run_module("srat_fast", run_name="__main__")


if __name__ == "__main__":
    main()
