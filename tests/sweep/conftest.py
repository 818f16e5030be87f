"""Sweeps for tests: a spec on digits, and a driver in a process of its own whose trials are stand-ins or real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from srat_fast.cli import main
from srat_fast.sweep import process
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.sweep.status import read_status
from tests.tiny import TINY

ROOT = Path(__file__).resolve().parents[2]
BASE = {
    "recipe": "digits",
    "seeds": [0, 1],
    "base": TINY,
    "axes": {"method": ["ce", "srat-ldam"]},
}


def toml(tree: dict) -> str:
    """A document with top-level values and one level of tables."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in tree.items() if not isinstance(value, dict)]
    for key, table in tree.items():
        if isinstance(table, dict):
            lines += ["", f"[{key}]", *(f"{json.dumps(k)} = {json.dumps(v)}" for k, v in table.items())]
    return "\n".join(lines) + "\n"


class Stage:
    """A directory with a spec, and drivers started on it."""

    def __init__(self, path: Path) -> None:
        self.path, self.out = path, path / "sweep"
        self.journal_file = path / "journal.jsonl"
        self.behave({})
        self.spec()

    def spec(self, **changes: object) -> None:
        (self.path / "spec.toml").write_text(toml(BASE | changes))

    def behave(self, behaviour: dict) -> None:
        content = {"behaviour": behaviour, "journal": str(self.journal_file)}
        (self.path / "standin.json").write_text(json.dumps(content))

    def journal(self) -> list[list]:
        if not self.journal_file.exists():
            return []
        return [json.loads(line) for line in self.journal_file.read_text().splitlines()]

    def start(self, *arguments: str, real: bool = False, **popen: object) -> subprocess.Popen:
        program = ["-m", "srat_fast"] if real else [str(ROOT / "tests" / "sweep" / "drive.py")]
        environment = dict(os.environ) | {
            "SRAT_FAST_CACHE": str(self.path / "cache"),
            "STANDIN": str(self.path / "standin.json"),
            "PYTHONPATH": os.pathsep.join(
                [str(ROOT), str(ROOT / "kernels"), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
            "OMP_NUM_THREADS": "1",
        }
        environment.pop("TRITON_INTERPRET", None)
        return subprocess.Popen(
            [sys.executable, *program, *arguments],
            cwd=self.path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **popen,
        )  # fmt: skip

    def call(self, *arguments: str, real: bool = False, timeout: float = 120) -> tuple[int, str]:
        process = self.start(*arguments, real=real)
        try:
            text, _ = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
        return process.returncode, text

    def sweep(self, *options: str, real: bool = False) -> tuple[int, str]:
        out = () if "--out" in options else ("--out", str(self.out))
        return self.call(
            "sweep", "spec.toml", *out, "--cpu-slots", "2", "--min-free", "0", *options, real=real
        )

    def here(self, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
        """The exit code of a command run in this process, with stand-ins as trials."""
        monkeypatch.setattr(process, "CHILD", [sys.executable, str(ROOT / "tests" / "sweep" / "standin.py")])
        monkeypatch.setenv("STANDIN", str(self.path / "standin.json"))
        monkeypatch.setenv("SRAT_FAST_CACHE", str(self.path / "cache"))
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        return int(end.value.code or 0)

    def counts(self) -> dict[str, int]:
        return dict(read_status(SweepDirectory.open(self.out)).counts)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)
