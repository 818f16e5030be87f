"""The losses, kernel against eager and compiled reference, forward and forward + backward."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.kernels.cases import IMPLEMENTATIONS, LOSSES, MODES, Size, build, loss_sizes
from benchmarks.kernels.timing import timed


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("op", "size"),
    [pytest.param(op, size, id="-".join(map(str, (op, *size)))) for op in LOSSES for size in loss_sizes(op)],
)
def test_loss(op: str, size: Size, mode: str, implementation: str, benchmark: Any) -> None:
    timed(benchmark, build(op, mode, size), implementation)
