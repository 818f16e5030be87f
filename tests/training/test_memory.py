"""Full memory is one line that says what to lower, wherever it is met; the errors are the allocators' own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from srat_fast import TrainingFailure, train
from srat_fast.training.cost import memory_errors
from tests.training.short_runs import record, short


def test_torchs_cpu_allocator() -> None:
    with (
        pytest.raises(TrainingFailure, match=r"^out of memory in epoch 1; lower --batch-size$"),
        memory_errors("in epoch 1", "--batch-size"),
    ):
        torch.empty(1 << 55, dtype=torch.uint8)


def test_numpys_allocator() -> None:
    with pytest.raises(TrainingFailure, match="out of memory here"), memory_errors("here", "it"):
        np.empty(1 << 55, np.uint8)


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), memory_errors("here", "it"):
        torch.ones(2, 3) @ torch.ones(2, 3)


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("srat_fast.training.fit.judge", "out of memory in evaluation; lower --set run.eval_batch_size"),
        (
            "srat_fast.training.trainer.prepare",
            "out of memory while preparing; lower data.limit or model.width",
        ),
    ],
)
def test_evaluation_and_start_up(where, says, tmp_path, monkeypatch) -> None:
    """The allocation is real; only the place is chosen."""
    monkeypatch.setattr(where, lambda *arguments, **more: torch.empty(1 << 55, dtype=torch.uint8))
    out = tmp_path / "run"
    with pytest.raises(TrainingFailure, match=says):
        train(short(data__val_fraction=0, optim__epochs=1), out)
    if "evaluation" in says:
        assert record(out)["status"] == "failed"
        assert list((out / "checkpoint").glob("000001-*")), (
            "training's state is kept: --resume evaluates again"
        )
    else:
        assert not out.exists()
