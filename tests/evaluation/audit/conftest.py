"""Real digits, and the two stored networks."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor, nn

from srat_fast.data.sources import load_arrays
from tests.evaluation.audit.networks import load, tensors


@pytest.fixture(scope="session")
def test_images() -> tuple[Tensor, Tensor]:
    """100 test images, all classes, with labels."""
    images, labels = tensors(load_arrays("digits", Path(), 8).test)
    return images[::5].contiguous(), labels[::5]


@pytest.fixture
def honest() -> nn.Module:
    """Adversarially trained, fresh for each test."""
    return load("honest")


@pytest.fixture
def natural() -> nn.Module:
    """Naturally trained, fresh for each test."""
    return load("natural")
