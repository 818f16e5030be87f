"""Every kernel in every configuration compiles for sm_90, and fits: a kernel that does not cannot land."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from srat_fast.registry import model as networks

SCRIPT = Path(__file__).with_name("hopper.py")
SHARED_LIMIT = 232448  # bytes that one block may have on sm_90; the compiler does not enforce it


@pytest.mark.slow
def test_every_kernel_compiles_for_hopper(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)  # compiled now, not remembered
    groups = ("forward", "backward", "")
    running = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), group], env=environment, stdout=subprocess.PIPE, text=True
        )
        for group in groups
    ]
    results = {}
    for process in running:
        text, _ = process.communicate(timeout=600)
        assert process.returncode == 0
        results.update({row["name"]: row for row in map(json.loads, text.splitlines())})
    kinds = {name.split()[0] for name in results}
    assert kinds == {"forward", "backward", "finish", "linf", "separation", "margin"}
    for kind in ("forward", "backward"):  # with the features of every network
        asked = {n for name, row in results.items() if name.startswith(kind) for n in row["networks"]}
        assert asked == {name for name in networks if ":" not in name} | {"projection"}
    for name, row in results.items():
        assert row["target"] == "sm_90a", name
        assert row["cubin"] > 0, name
        assert row["shared"] <= SHARED_LIMIT, f"{name}: {row['shared']} bytes of shared memory"
        if name.startswith(("forward", "backward")):
            assert row["tensor_cores"] == (" ieee " not in name), name
