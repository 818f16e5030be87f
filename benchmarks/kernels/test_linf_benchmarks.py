"""The image step, kernel against eager and compiled reference."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.kernels.cases import IMPLEMENTATIONS, Size, build, linf_sizes
from benchmarks.kernels.timing import timed


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("size", linf_sizes(), ids=lambda size: str(size.batch))
def test_linf_step(size: Size, implementation: str, benchmark: Any) -> None:
    timed(benchmark, build("linf_step", "forward", size), implementation)
