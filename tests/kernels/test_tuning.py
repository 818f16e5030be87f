"""The choice of a configuration: timed once, then always the same, in this process and in later ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from srat_kernels import jit, tuning
from srat_kernels.tuning import Config, choose, power_of_two

CANDIDATES = tuple(Config({"BLOCK": block}, 4, 1) for block in (16, 32, 64))
DEVICE = torch.device("cuda", 0)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """A GPU whose second candidate is the fastest; the blocks that were timed."""
    seen: list[int] = []
    milliseconds = {16: 3.0, 32: 1.0, 64: 2.0}

    def do_bench(function: Callable[[], None], **_: int) -> float:
        function()
        return milliseconds[seen[-1]]

    monkeypatch.setattr(jit, "INTERPRETED", False)
    monkeypatch.setattr(jit, "do_bench", do_bench)
    monkeypatch.setattr(tuning, "_chosen", {})
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a device")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    return seen


def pick(
    timed: list[int], shape: tuple[object, ...] = (128,), candidates: tuple[Config, ...] = CANDIDATES
) -> int:
    config = choose("kernel", shape, candidates, DEVICE, lambda config: timed.append(config.tiles["BLOCK"]))
    return config.tiles["BLOCK"]


def test_the_fastest_is_timed_once_and_kept(timed: list[int]) -> None:
    assert [pick(timed), pick(timed)] == [32, 32]
    assert timed == [16, 32, 64]


def test_another_shape_class_is_timed_anew(timed: list[int]) -> None:
    pick(timed)
    pick(timed, (256,))
    assert timed == [16, 32, 64, 16, 32, 64]


def test_a_later_process_reads_the_choice(timed: list[int]) -> None:
    pick(timed)
    tuning._chosen.clear()
    assert pick(timed) == 32
    assert timed == [16, 32, 64]


def test_an_edited_list_does_not_find_the_old_choice(timed: list[int]) -> None:
    pick(timed)
    tuning._chosen.clear()
    assert pick(timed, candidates=CANDIDATES[:1] + CANDIDATES[2:]) == 64


def test_nothing_is_timed_while_a_graph_is_captured(
    timed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert pick(timed) == 16
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert pick(timed) == 32, "and the makeshift is not remembered"


def test_deterministic_algorithms_fix_the_choice(timed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert pick(timed) == 16
    assert timed == []


def test_shape_classes() -> None:
    sizes = (1, 16, 17, 100, 128, 129, 99999)
    assert [power_of_two(size, 16, 4096) for size in sizes] == [16, 16, 32, 128, 128, 256, 4096]
