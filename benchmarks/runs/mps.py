"""NVIDIA's multi-process service for the processes of one measurement: a wish enters, their environment leaves.

It is a program of the user's own with pipes of its own in a temporary folder: no setting of the GPU is changed, other
programs do not see it, and it ends with the measurement.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

PROGRAM = "nvidia-cuda-mps-control"


class NoService(RuntimeError):
    """The service was asked for and cannot be had."""


@contextmanager
def service(wanted: bool) -> Iterator[dict[str, str]]:
    """Run it for the length of a block.

    Args:
        wanted: else nothing is started.

    Yields:
        Variables for the processes that are to use it; none where it is not wanted.

    Raises:
        NoService: its program is missing, or did not start.
    """
    if not wanted:
        yield {}
        return
    if shutil.which(PROGRAM) is None:
        raise NoService(f"--mps: {PROGRAM} is not installed")
    with tempfile.TemporaryDirectory(prefix="mps") as folder:
        variables = {"CUDA_MPS_PIPE_DIRECTORY": f"{folder}/pipe", "CUDA_MPS_LOG_DIRECTORY": f"{folder}/log"}
        for path in variables.values():
            os.mkdir(path)
        environment = os.environ | variables
        done = subprocess.run([PROGRAM, "-d"], env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NoService(f"--mps: {PROGRAM} did not start: {(done.stderr or done.stdout).strip()[:200]}")
        try:
            yield variables
        finally:
            subprocess.run(
                [PROGRAM], input="quit\n", env=environment, text=True, capture_output=True, check=False, timeout=30
            )  # fmt: skip
