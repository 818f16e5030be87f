"""The specs of the large runs still plan: fields and methods that they name exist."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SPECS = Path(__file__).resolve().parents[2] / "benchmarks" / "paper"


@pytest.mark.parametrize(("name", "runs"), [("methods", 6), ("choices", 7)])
def test_a_spec_plans(tmp_path, name, runs) -> None:
    text = (SPECS / f"{name}.toml").read_text()
    # the counts of CIFAR-10 are known without its images; those of a folder are not
    text = text.replace('dataset = "folder"', 'dataset = "cifar10"')
    (tmp_path / "spec.toml").write_text(text)
    command = [sys.executable, "-m", "srat_fast", "sweep", "run", str(tmp_path / "spec.toml"), "--dry-run"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert f"{runs} runs in {runs} cells" in result.stdout
