"""What the audit must catch, by name, and what it must let pass: real networks, each spoiled in one known way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from srat_fast.evaluation.audit import audit, summary
from tests.evaluation.audit.networks import EPSILON


class Spoiled(nn.Module):
    """A network behind something that changes how it is computed."""

    def __init__(self, inner: nn.Module, forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.how = inner, forward
        self.side = nn.Linear(64, 10)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self, x)


def saturated(m, x):  # softmax rounds to one-hot: no gradient of cross-entropy in float32
    return 1000 * m.inner(x)


def quantised(m, x):  # the derivative of rounding is zero
    return m.inner((x * 8).round() / 8)


def detached(m, x):  # the network's gradient is cut off, a useless one takes its place
    return m.inner(x.detach()) + 0.01 * m.side(x.flatten(1))


def randomised(m, x):
    return m.inner(x + 0.1 * torch.randn_like(x))


def batch_statistics(m, x):
    logits = m.inner(x)
    return logits - 0.5 * logits.mean(dim=0)


def temperature(m, x):  # LDAM's question, writ large: trained at some scale, attacked at a far smaller one
    return 0.001 * m.inner(x)


CAUGHT = [
    (saturated, {"zero gradients", "margin loss", "logit scale", "larger radius"}),
    (temperature, {"margin loss", "logit scale"}),
    (quantised, {"zero gradients", "larger radius", "transfer", "black box"}),
    (detached, {"gradient against differences", "transfer", "black box"}),
    (randomised, {"repeatability"}),
    (batch_statistics, {"batch independence"}),
]


@pytest.mark.parametrize(("spoil", "by"), CAUGHT, ids=[spoil.__name__ for spoil, _ in CAUGHT])
def test_a_spoiled_model_is_caught_by_name(spoil, by, natural, honest, test_images) -> None:
    images, labels = test_images
    model = Spoiled(natural, spoil)
    report = audit(
        model, images, labels, epsilon=EPSILON, steps=10, surrogate=honest, autoattack=0, queries=300
    )
    failed = {check["name"] for check in report["checks"] if check["verdict"] == "failed"}
    assert report["verdict"] == "suspicious"
    assert by <= failed, summary(report)
    assert all(any(problem.startswith(name) for problem in report["problems"]) for name in by)
