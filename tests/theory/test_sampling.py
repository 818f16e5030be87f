"""Simulations: right within their noise, the same for a seed, in bounded memory; the printed formula is told apart."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from srat_fast.errors import UserError
from srat_fast.theory.claims import SIGMAS, deviations
from srat_fast.theory.mixture import Mixture
from srat_fast.theory.numerics import CHUNK, parse_samples, simulate

MIXTURE = Mixture(1.0, 2.0, 4)
THRESHOLDS = np.array([MIXTURE.threshold(10, weight) for weight in (1, 3, 10)])


@pytest.mark.parametrize("vectors", [False, True], ids=["sum", "vectors"])
def test_samples_agree_with_the_closed_form_and_not_with_the_printed_one(vectors) -> None:
    run = simulate(MIXTURE, THRESHOLDS, 400_000, seed=1, vectors=vectors)
    assert run.samples == 200_000
    assert np.abs(deviations(run, MIXTURE.errors(THRESHOLDS))).max() < SIGMAS
    assert np.abs(deviations(run, MIXTURE.printed_errors(THRESHOLDS))).max() > 20 * SIGMAS
    # the noise is there: a simulation that returned the formula would be exact
    assert np.abs(deviations(run, MIXTURE.errors(THRESHOLDS))).max() > 0.05


def test_the_histogram_counts_what_the_thresholds_count() -> None:
    edges = simulate(MIXTURE, THRESHOLDS, 1000, seed=0, vectors=True).edges
    chosen = edges[[300, 1000, 1600]]
    run = simulate(MIXTURE, chosen, 300_001, seed=0, vectors=True)
    for column, edge in enumerate((300, 1000, 1600)):
        # float rounding may move a sample that lies on an edge
        assert abs(int(run.below[0, edge]) - int(run.wrong[0, column])) <= 2
        assert abs(run.samples - int(run.below[1, edge]) - int(run.wrong[1, column])) <= 2
    best, value = run.best_threshold(10, 1.0)
    assert abs(best - MIXTURE.threshold(10)) < 1.0
    assert value > 0


def test_a_seed_gives_the_same_samples_and_another_seed_others() -> None:
    one, same, other = (simulate(MIXTURE, THRESHOLDS, 20_000, seed=s, vectors=True).wrong for s in (3, 3, 4))
    assert (one == same).all()
    assert (one != other).any()


def test_memory_does_not_grow_with_the_samples() -> None:
    """20 million samples of 4 numbers would be 320 MB as float32; the simulation holds a chunk at a time."""
    code = (
        "import resource, numpy as np\n"
        "from srat_fast.theory.mixture import Mixture\n"
        "from srat_fast.theory.numerics import simulate\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "b = np.zeros(1)\n"
        "simulate(Mixture(1.0, 2.0, 4), b, 2_000_000, seed=0, vectors=True)\n"
        "before = peak()\n"
        "simulate(Mixture(1.0, 2.0, 4), b, 20_000_000, seed=0, vectors=True)\n"
        "print(peak() - before)\n"
    )
    grown = int(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    )
    assert grown < 40 * 1024  # KiB
    assert CHUNK * 4 < 2_000_000 * 4 * 4


def test_sample_numbers() -> None:
    assert parse_samples("1e8") == 10**8
    assert parse_samples("2000") == 2000
    for text in ("many", "1e2", "1e13", "1234.5", "nan", "-1e6"):
        with pytest.raises(UserError, match="--samples"):
            parse_samples(text)
