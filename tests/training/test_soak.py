"""Soak: one run is killed at random moments, saves included, and ends with the weights of the run left in peace.

Six kills in the short form; `SRAT_FAST_SOAK_KILLS=50` asks for more.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.short_runs import assert_equal_runs, record

KILLS = int(os.environ.get("SRAT_FAST_SOAK_KILLS", "6"))
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(tmp_path) -> None:
    soak = [sys.executable, "-m", "tests.training.soak", str(KILLS), str(tmp_path)]
    ended = subprocess.run(soak, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    print(ended.stdout)
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert_equal_runs(whole, run)
    assert record(run)["status"] == "finished"
    assert len(record(run)["resumed"]) >= KILLS // 2
    assert not list(run.rglob(".tmp-*"))
