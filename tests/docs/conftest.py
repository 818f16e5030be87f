"""A place to run a page in: programs on PATH, a finished run to look at."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from srat_fast import train
from tests.docs import served
from tests.tiny import tiny_recipe

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def shell_environment(tmp_path_factory):
    """Variables for bash: `srat-fast` and `python` are this checkout's."""
    programs = tmp_path_factory.mktemp("programs")
    with tempfile.TemporaryDirectory() as short:  # a socket's path has at most 107 characters
        socket = Path(short) / "socket"
        for name, text in {
            "python": f'#!/bin/sh\nexec {sys.executable} "$@"\n',
            "srat-fast": f"#!{sys.executable} -ES\n" + served.CLIENT.format(path=str(socket)),
        }.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        environment = os.environ | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}",
            "SRAT_FAST_CACHE": str(programs / "cache"),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "120",
        }
        environment.pop("TRITON_INTERPRET", None)
        command = [sys.executable, str(ROOT / "tests/docs/served.py"), str(socket)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        ) as server:
            assert server.stdout is not None
            assert server.stdin is not None
            assert server.stdout.readline() == b"ready\n"
            yield environment
            server.stdin.close()
            server.wait(timeout=60)


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory) -> Path:
    """A finished run of two epochs on digits."""
    out = tmp_path_factory.mktemp("demo") / "run"
    whole = {"data.limit": None, "data.test_limit": None}
    train(tiny_recipe(whole, data__val_fraction=0.1, run__tensorboard=True), out)
    return out
