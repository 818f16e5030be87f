"""FGSM, PGD and CW against the same attacks in plain numpy, gradient by hand: equal starts give equal examples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from srat_fast.attacks.inner import ce, kl, margin
from srat_fast.attacks.pgd import fgsm, pgd
from srat_fast.attacks.threat import L2Ball, LInfBall
from srat_fast.models.batch import Batch

B, PIXELS, HIDDEN, C = 24, 3 * 4 * 4, 20, 5


class Net:
    """logits = W2 relu(W1 x + b1) + b2, with the derivative of both losses written out; numpy only."""

    def __init__(self, dtype: type) -> None:
        rng = np.random.default_rng(0)
        self.w1 = rng.normal(size=(HIDDEN, PIXELS)).astype(dtype)
        self.b1 = rng.normal(size=HIDDEN).astype(dtype)
        self.w2 = rng.normal(size=(C, HIDDEN)).astype(dtype)
        self.b2 = rng.normal(size=C).astype(dtype)

    def logits(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        before = x @ self.w1.T + self.b1
        return np.maximum(before, 0) @ self.w2.T + self.b2, before

    def gradient(self, x: np.ndarray, y: np.ndarray, loss: str) -> np.ndarray:
        logits, before = self.logits(x)
        rows = np.arange(len(y))
        if loss == "ce":  # softmax - onehot
            shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
            towards = shifted / shifted.sum(axis=1, keepdims=True)
        else:  # onehot of the strongest other class - onehot of the true one
            others = logits.copy()
            others[rows, y] = -np.inf
            towards = np.zeros_like(logits)
            towards[rows, others.argmax(axis=1)] = 1
        towards[rows, y] -= 1
        return ((towards @ self.w2) * (before > 0)) @ self.w1

    def module(self) -> nn.Module:
        first, second = nn.Linear(PIXELS, HIDDEN), nn.Linear(HIDDEN, C)
        for layer, weight, bias in ((first, self.w1, self.b1), (second, self.w2, self.b2)):
            layer.weight.data, layer.bias.data = torch.from_numpy(weight), torch.from_numpy(bias)
        return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second)


def numpy_pgd(net: Net, x: np.ndarray, y: np.ndarray, start: np.ndarray, loss: str, steps: int, alpha, eps):
    """x' <- clip(clip(x' + alpha sign(g), x - eps, x + eps), 0, 1), from `start`."""
    here = start.copy()
    for _ in range(steps):
        here = here + alpha * np.sign(net.gradient(here, y, loss))
        here = np.clip(np.clip(here, x - eps, x + eps), 0, 1)
    return here


def problem(dtype: type) -> tuple[Net, torch.Tensor, torch.Tensor, torch.Tensor, LInfBall]:
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(B, 3, 4, 4, generator=generator).to(
        torch.float64 if dtype is np.float64 else torch.float32
    )
    labels = torch.randint(0, C, (B,), generator=generator)
    ball = LInfBall(0.1)
    return Net(dtype), images, labels, ball.random_start(images, generator), ball


def numpy_l2(net: Net, x: np.ndarray, y: np.ndarray, start: np.ndarray, loss: str, steps: int, alpha, eps):
    """x' <- clip(x + P(x' + alpha g / |g| - x)), P the nearest point of the ball of radius eps, from `start`."""
    here = start.copy()
    for _ in range(steps):
        g = net.gradient(here, y, loss)
        away = here + alpha * g / np.linalg.norm(g, axis=1, keepdims=True) - x
        away /= np.maximum(1, np.linalg.norm(away, axis=1, keepdims=True) / eps)
        here = np.clip(x + away, 0, 1)
    return here


@pytest.mark.parametrize(("name", "loss"), [("ce", ce), ("cw", margin)])
def test_equal_starts_give_equal_examples_in_l2(name, loss) -> None:
    net, images, labels, _, _ = problem(np.float64)
    ball = L2Ball(0.8)
    start = ball.random_start(images, torch.Generator().manual_seed(3))
    ours = pgd(net.module(), images, labels, ball=ball, steps=20, step_size=0.2, start=start, loss=loss)
    flat = [t.flatten(1).numpy() for t in (images, start)]
    theirs = numpy_l2(net, flat[0], labels.numpy(), flat[1], name, 20, 0.2, 0.8)
    assert np.abs(ours.flatten(1).numpy() - theirs).max() < 1e-12
    assert (np.linalg.norm(theirs - flat[0], axis=1) > 0.7).mean() > 0.5, "the projection had something to do"
    x, y = flat[0], labels.numpy()
    g = net.gradient(x, y, "ce")
    theirs = np.clip(x + 0.8 * g / np.linalg.norm(g, axis=1, keepdims=True), 0, 1)
    assert np.abs(fgsm(net.module(), images, labels, ball=ball).flatten(1).numpy() - theirs).max() < 1e-12


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("name", "loss"), [("ce", ce), ("cw", margin)])
def test_equal_starts_give_equal_examples(dtype, name, loss) -> None:
    net, images, labels, start, ball = problem(dtype)
    ours = pgd(net.module(), images, labels, ball=ball, steps=20, step_size=0.02, start=start, loss=loss)
    flat = [t.flatten(1).numpy() for t in (images, start)]
    theirs = numpy_pgd(net, flat[0], labels.numpy(), flat[1], name, 20, dtype(0.02), dtype(0.1))
    apart = np.abs(ours.flatten(1).numpy() - theirs)
    assert np.abs(ours.numpy() - images.numpy()).max() > 0.09, "the attack moved"
    if dtype is np.float64:
        assert apart.max() < 1e-12
    else:  # a gradient entry near zero may round to the other sign; such a pixel is a whole step apart
        assert (apart > 1e-6).mean() < 0.002


def test_fgsm_is_one_step_from_the_clean_image() -> None:
    net, images, labels, _, ball = problem(np.float64)
    x = images.flatten(1).numpy()
    theirs = np.clip(x + 0.1 * np.sign(net.gradient(x, labels.numpy(), "ce")), 0, 1)
    assert np.abs(fgsm(net.module(), images, labels, ball=ball).flatten(1).numpy() - theirs).max() < 1e-12


def given(logits: torch.Tensor, labels: list[int] | torch.Tensor, clean: torch.Tensor | None = None) -> Batch:
    """A batch whose logits are these."""
    return Batch(None, logits, torch.as_tensor(labels), clean, forward=lambda x: x)


def test_the_margin_is_positive_exactly_where_the_prediction_is_wrong() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 4.0, 1.0]])
    assert margin(given(logits[:1], [0])).item() == -1.0
    assert margin(given(logits[1:], [2])).item() == 3.0
    assert margin(given(logits, [0, 2])).item() == 1.0
    assert margin(given(logits[:, :2], [1, 1])).item() == -1.0  # two classes are enough


def test_kl_is_the_divergence_from_the_clean_prediction() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, logits = (torch.randn(7, 5, generator=generator, dtype=torch.float64) * 4 for _ in range(2))
    labels = torch.zeros(7, dtype=torch.int64)
    p, q = (t.numpy() for t in (clean, logits))
    p, q = (np.exp(t) / np.exp(t).sum(axis=1, keepdims=True) for t in (p, q))
    logits.requires_grad_(True)
    value = kl(given(logits, labels, clean))
    assert value.item() == pytest.approx((p * np.log(p / q)).sum(axis=1).mean(), rel=1e-12)
    (gradient,) = torch.autograd.grad(value, logits)
    assert np.abs(gradient.numpy() - (q - p) / 7).max() < 1e-15
    same = clean.clone().requires_grad_(True)
    assert kl(given(same, labels, clean)).item() == pytest.approx(0.0, abs=1e-15)


def test_kl_asks_for_the_clean_images_once_an_attack() -> None:
    net, images, labels, start, ball = problem(np.float64)
    model, passes = net.module(), []

    def forward(x: torch.Tensor) -> torch.Tensor:
        passes.append(x)
        return model(x)

    settings = {"ball": ball, "steps": 4, "step_size": 0.02, "loss": kl}
    found = pgd(forward, images, labels, start=start, **settings)
    assert len(passes) == 5
    assert sum(x is images for x in passes) == 1
    torch.testing.assert_close(
        found, pgd(forward, images, labels.flip(0), start=start, **settings), rtol=0, atol=0, msg="no labels"
    )
    before, after = (kl(Batch(None, x, labels, images, forward=model)).item() for x in (start, found))
    assert after > 3 * before
    point = images.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(kl(Batch(None, point, labels, images, forward=model)), point)
    assert gradient.abs().max() < 1e-15, "none at the images themselves"


def test_an_attack_has_logits_only() -> None:
    net, images, labels, _, ball = problem(np.float64)
    with pytest.raises(RuntimeError, match="an attack keeps logits only"):
        pgd(net.module(), images, labels, ball=ball, steps=1, step_size=0.1, loss=lambda b: b.features.sum())
