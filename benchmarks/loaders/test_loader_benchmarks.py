"""The loaders against one another in the same run: `pytest benchmarks/ --benchmark-only`.

Each benchmark's gate comes first; `extra_info["ratios"]` is then measured in turns, A B A B, by medians.
"""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.engine.cases import rows
from benchmarks.engine.work import ON_GPU
from benchmarks.loaders.cases import folder_case
from benchmarks.loaders.images import synthetic
from benchmarks.measure import machine

ROUNDS = 3
SMALL, LARGE = (20000, 2000) if ON_GPU else (512, 96)


@pytest.mark.parametrize("implementation", ["memory", "ffcv"])
@pytest.mark.parametrize(
    ("stored", "size", "images", "augment", "storage"),
    [(32, 32, SMALL, "crop", "raw"), (128, 64, LARGE, "resized-crop", "jpeg")],
    ids=["small-raw", "large-jpeg"],
)
def test_folder_loaders(
    benchmark: Any, tmp_path: Any, monkeypatch: Any, stored: int, size: int, images: int, augment: str,
    storage: str, implementation: str,
) -> None:  # fmt: skip
    pytest.importorskip("ffcv", reason="bash .ci/ffcv installs it")
    monkeypatch.setenv("SRAT_FAST_CACHE", str(tmp_path / "cache"))
    case = folder_case(synthetic(tmp_path / "images", stored, images), size, stored, 64, augment, storage)
    found = [row for row in rows(case, ROUNDS, 0.0) if row["implementation"] == implementation]
    benchmark.group = f"{case.op} {case.about['mode']}"
    benchmark.extra_info.update(machine(), rows=found)
    benchmark.extra_info["ratios"] = {row["reference"]: row["ratio"]["median"] for row in found}
    benchmark.pedantic(case.functions[implementation], rounds=ROUNDS, iterations=1)
