"""One run on several processes: the method of one process, the same images, and an end together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from srat_fast import Recipe, UserError, train
from srat_fast.data.arrays import ImageSet
from srat_fast.data.memory import MemoryLoader
from srat_fast.errors import Interrupted
from srat_fast.ranks import Ranks
from tests.training.short_runs import StopAfter, assert_equal_runs, record, short
from tests.training.together import together
from tests.training.trajectories import CASES, MORE, tiny_network, trajectories


class Part(Ranks):
    """One of several processes, as loaders see it."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


def both() -> dict[str, dict[str, Any]]:
    """Twenty-one steps of three methods, three of what else sees more than its own images."""
    return trajectories(CASES | MORE, dict.fromkeys(MORE, 1))


def longer() -> dict[str, dict[str, Any]]:
    """The three methods alone."""
    return trajectories(CASES)


@pytest.mark.parametrize("size", [2, 3])
def test_trajectories_are_those_of_one_process_in_float64(
    size: int, expected: dict[str, dict[str, Any]]
) -> None:
    """Batches that do not divide, and a last one of a single image."""
    found = together(size, both if size == 2 else longer)
    for name in CASES | (MORE if size == 2 else {}):
        alone = expected[name]
        for own in (result[name] for result in found):
            assert own["correct"] == alone["correct"], name
            np.testing.assert_allclose(own["losses"], alone["losses"], rtol=0, atol=1e-10, err_msg=name)
            np.testing.assert_allclose(own["weights"], alone["weights"], rtol=0, atol=1e-10, err_msg=name)
            assert (own["weights"] == found[0][name]["weights"]).all(), name
        assert sum(result[name]["zero"] for result in found) == alone["zero"]


@pytest.fixture(scope="module")
def expected() -> dict[str, dict[str, Any]]:
    return both()


@pytest.mark.parametrize("size", [2, 3, 7])
@pytest.mark.parametrize("policy", ["off", "randaugment"])
def test_shares_are_the_batches_of_one_process(size: int, policy: str) -> None:
    """No image twice and none lost: put together in order they are what one process has, bit for bit."""
    pixels = np.random.default_rng(0).integers(0, 256, (37, 8, 8, 3), dtype=np.uint8)
    data = ImageSet(pixels, np.arange(37) % 4)

    def loader(ranks: Ranks) -> MemoryLoader:
        return MemoryLoader(
            data, batch_size=16, device=torch.device("cpu"), seed=3, crop_padding=1, flip=True, shuffle=True,
            policy=policy, ranks=ranks,
        )  # fmt: skip

    whole = list(loader(Ranks()).epoch(2, 1))
    parts = [list(loader(Part(rank, size)).epoch(2, 1)) for rank in range(size)]
    for at, (images, labels) in enumerate(whole):
        assert torch.equal(torch.cat([part[at][0] for part in parts]), images)
        assert all(torch.equal(part[at][1], labels) for part in parts)
        assert max(len(part[at][0]) for part in parts) <= -(-len(images) // size)


def in_turn(out: Any) -> list[str]:
    """A whole run; the same one interrupted in its middle and taken up again; and statistics of shares."""
    with tiny_network():
        return _in_turn(out)


def tiny_run(**changes: Any) -> Recipe:
    """A short run of the tiny network."""
    return short(model__name="tiny", run__tensorboard=False, **changes)


def _in_turn(out: Any) -> list[str]:
    recipe = tiny_run()
    train(recipe, out / "whole")
    try:
        train(recipe, out / "cut", stops=StopAfter(5))
    except Interrupted as stop:
        told = [str(stop)]
    train(recipe, out / "cut", resume="must")
    try:
        train(recipe.replace({"optim.batch_size": 1}), out / "bad")
    except UserError as error:
        told.append(error.line())
    local = tiny_run(run__batch_norm="local", attack__bn="frozen", feedback__rule="wat", method="trades")
    train(local, out / "local")
    return told


def test_a_run_on_two_processes(tmp_path: Any) -> None:
    """fp32, validated, resumed to the bit; another number of processes goes on and says so."""
    told, other = together(2, in_turn, tmp_path)
    assert told == other
    assert told[0].startswith("stopped by SIGTERM in epoch ")
    assert told[1].startswith("optim.batch_size = 1: at least an image a process is needed, 2")
    assert not (tmp_path / "bad").exists()
    assert_equal_runs(tmp_path / "whole", tmp_path / "cut")
    with tiny_network():
        train(tiny_run(), tmp_path / "alone")
    one, two = record(tmp_path / "alone"), record(tmp_path / "whole")
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["fingerprint"] == two["fingerprint"]
    for kind in ("standard", "robust"):
        assert abs(one[kind]["overall"] - two[kind]["overall"]) <= 0.1
    assert record(tmp_path / "local")["final_epoch"]["loss"] > 0
