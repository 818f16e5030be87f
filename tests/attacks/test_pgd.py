"""The threat model and PGD: ball, range, sign conventions, strength, and no leak into the parameters' gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from srat_fast.attacks.pgd import pgd
from srat_fast.attacks.threat import LInfBall
from srat_fast.models.classifier import Classifier
from srat_kernels import linf_step


def linear(weight: torch.Tensor):
    """Two-class linear model: its worst case in the ball is known in closed form."""
    return lambda x: torch.stack([x.flatten(1) @ weight, -(x.flatten(1) @ weight)], dim=1)


def test_pgd_finds_the_worst_case_of_a_linear_model() -> None:
    torch.manual_seed(0)
    weight, images = torch.randn(12), torch.rand(5, 3, 2, 2)
    labels = torch.zeros(5, dtype=torch.int64)
    ball = LInfBall(0.1)
    start = ball.random_start(images, torch.Generator().manual_seed(0))
    found = pgd(linear(weight), images, labels, ball=ball, steps=20, step_size=0.02, start=start)
    worst = (images - 0.1 * weight.sign().view(3, 2, 2)).clamp(0, 1)
    assert torch.allclose(found, worst, atol=1e-6)


@pytest.mark.parametrize(
    ("stop", "steps", "expected"),
    [
        # right below 0.5; the iterates of 0.25 are 0.35, 0.45, 0.55 (wrong), 0.65
        ("off", 5, [0.75, 1.0, 0.5, 0.75]),
        ("first-wrong", 5, [0.65, 1.0, 0.5, 0.35]),
        ("last-right", 5, [0.45, 0.9, 0.5, 0.25]),
        ("last-right", 3, [0.55, 0.9, 0.3, 0.25]),  # the last iterate is not looked at
        ("first-wrong", 1, [0.35, 1.0, 0.1, 0.35]),
    ],
)
def test_each_image_stops_for_itself(stop, steps, expected) -> None:
    images = torch.tensor([0.25, 0.9, 0.0, 0.25]).view(4, 1, 1, 1)
    labels = torch.tensor(
        [0, 0, 0, 1]
    )  # the last one is wrong from the start, until it is pushed to the other side

    def model(x: torch.Tensor) -> torch.Tensor:
        here = x.flatten(1)
        return torch.cat([0.5 - here, here - 0.5], dim=1)

    def upward(batch) -> torch.Tensor:
        return batch.logits[:, 1].mean()

    found = pgd(model, images, labels, ball=LInfBall(0.6), steps=steps, step_size=0.1, loss=upward, stop=stop)
    assert found.flatten().tolist() == pytest.approx(expected, abs=1e-6)
    start = images - 0.7  # outside of the ball
    found = pgd(
        model,
        images,
        labels,
        ball=LInfBall(0.6),
        steps=1,
        step_size=1e-9,
        loss=upward,
        start=start,
        stop=stop,
    )
    assert found.flatten().tolist() == pytest.approx([0.0, 0.3, 0.0, 0.0], abs=1e-6)


@given(
    epsilon=st.floats(0.001, 1), step=st.floats(0.0005, 1), steps=st.integers(1, 4), seed=st.integers(0, 999),
    last=st.booleans(),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_every_example_is_in_the_ball_and_in_range(
    epsilon: float, step: float, steps: int, seed: int, last: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(3, 1, 4, 4, generator=generator).round(decimals=1)  # pixels at 0 and at 1 too
    if last:
        images = images.contiguous(memory_format=torch.channels_last)
    ball = LInfBall(epsilon)
    start = ball.random_start(images, generator)
    assert float((start - images).abs().max()) <= epsilon + 1e-6
    assert start.stride() == images.stride()
    weight = torch.randn(16, generator=generator)
    found = pgd(
        linear(weight),
        images,
        torch.zeros(3, dtype=torch.int64),
        ball=ball,
        steps=steps,
        step_size=step,
        start=start,
    )
    assert float((found - images).abs().max()) <= epsilon + 1e-6
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1


def test_the_start_does_not_depend_on_the_memory_format() -> None:
    images = torch.rand(4, 3, 8, 8)
    ball = LInfBall(8 / 255)
    plain = ball.random_start(images, torch.Generator().manual_seed(1))
    last = ball.random_start(
        images.contiguous(memory_format=torch.channels_last), torch.Generator().manual_seed(1)
    )
    torch.testing.assert_close(plain, last, rtol=0, atol=0)


def test_the_start_is_uniform() -> None:
    start = (
        LInfBall(0.1).random_start(torch.full((100, 1, 10, 10), 0.5), torch.Generator().manual_seed(0)) - 0.5
    )
    assert torch.histc(start, 10, -0.1, 0.1).min() > 850  # 1000 expected a bin


def test_parameters_are_left_alone_and_more_steps_are_stronger() -> None:
    torch.manual_seed(0)
    model = Classifier("resnet18", 4, width=4).eval()
    images, labels = torch.rand(16, 3, 8, 8), torch.randint(0, 4, (16,))
    clean = images.clone()
    losses = []
    for steps in (1, 3, 10):
        found = pgd(model, images, labels, ball=LInfBall(0.05), steps=steps, step_size=0.02)
        losses.append(nn.functional.cross_entropy(model(found), labels).item())
        assert not found.requires_grad
    assert (
        nn.functional.cross_entropy(model(images), labels).item() < losses[0] < losses[1] < losses[2] + 1e-4
    )
    assert all(p.grad is None for p in model.parameters())
    torch.testing.assert_close(images, clean, rtol=0, atol=0)


def test_the_step_of_zero_and_non_finite_gradients() -> None:
    clean = torch.full((1, 1, 1, 6), 0.5)
    gradient = torch.tensor([0.0, -0.0, float("nan"), float("inf"), float("-inf"), 1e-30]).view(1, 1, 1, 6)
    counter = torch.zeros(1, dtype=torch.int64)
    moved = linf_step(clean.clone(), gradient, clean, step_size=0.25, epsilon=1.0, nonfinite=counter)
    assert moved.flatten().tolist() == [0.5, 0.5, 0.5, 0.75, 0.25, 0.75]
    assert counter.item() == 3


def test_the_step_projects_onto_the_sphere_and_the_range() -> None:
    clean = torch.tensor([0.0, 1.0, 0.5, 0.5]).view(1, 1, 1, 4)
    on_the_sphere = torch.tensor([0.1, 0.9, 0.6, 0.4]).view(1, 1, 1, 4)
    outward = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 1, 1, 4)
    moved = linf_step(on_the_sphere, outward, clean, step_size=0.05, epsilon=0.1)
    assert torch.allclose(moved, on_the_sphere, atol=1e-7)
    inward_out_of_range = linf_step(clean.clone(), -outward, clean, step_size=0.05, epsilon=0.1)
    assert inward_out_of_range.flatten()[:2].tolist() == [0.0, 1.0]


def test_radii_and_steps_of_each_image_are_those_of_runs_of_one_image() -> None:
    torch.manual_seed(0)
    model = Classifier("resnet18", 4, width=4).eval()
    images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    radii, steps = torch.tensor([0.01, 0.05, 0.2, 1.0]), torch.tensor([0.004, 0.02, 0.05, 0.3])
    alone = [LInfBall(radius) for radius in radii.tolist()]
    together = LInfBall(radii)

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(5)

    for name in ("random_start", "noise"):
        found = getattr(together, name)(images, generator())
        for i, ball in enumerate(alone):
            torch.testing.assert_close(
                found[i],
                getattr(ball, name)(images, generator())[i],
                rtol=0,
                atol=0,
                msg=f"{name}, image {i}",
            )
    start = together.random_start(images, generator())
    for k, step_size in ((0, steps), (1, 0.02)):
        gradient = torch.randn(4, 3, 8, 8)
        zero = torch.zeros(1, dtype=torch.int64)
        moved = together.step(start.clone(), gradient, images, step_size, None, zero)
        for i, ball in enumerate(alone):
            one = step_size if isinstance(step_size, float) else step_size[i].item()
            theirs = ball.step(start[[i]].clone(), gradient[[i]], images[[i]], one)
            torch.testing.assert_close(moved[[i]], theirs, rtol=0, atol=0, msg=f"{k}, image {i}")
        assert int(zero) == 0
    far = together.overshoot(images + 0.1, images)
    for i, ball in enumerate(alone):
        torch.testing.assert_close(far[[i]], ball.overshoot(images[[i]] + 0.1, images[[i]]), rtol=0, atol=0)
    found = pgd(model, images, labels, ball=together, steps=3, step_size=steps, start=start)
    for i, ball in enumerate(alone):
        theirs = pgd(
            model, images[[i]], labels[[i]], ball=ball, steps=3, step_size=steps[i].item(), start=start[[i]]
        )
        # another batch size may round a gradient otherwise: a pixel whose sign flips is some steps apart
        assert float(((found[[i]] - theirs).abs() > 1e-6).double().mean()) < 0.03
        assert float((found[i] - images[i]).abs().max()) <= radii[i] + 1e-6


def test_the_step_in_place_keeps_storage_and_layout() -> None:
    images = torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    state = images.clone(memory_format=torch.preserve_format)
    out = linf_step(state, torch.randn(2, 3, 4, 4), images, step_size=0.1, epsilon=0.1, inplace=True)
    assert out is state
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"step_size": 0.0}, ValueError, "step_size"),
        ({"epsilon": float("nan")}, ValueError, "epsilon"),
        ({"gradient": torch.zeros(2, 3)}, ValueError, "gradient: shape"),
        ({"clean": torch.zeros(2, 2, dtype=torch.float64)}, TypeError, "clean: dtype"),
        ({"gradient": torch.zeros(2, 2, dtype=torch.int32)}, TypeError, "gradient"),
        ({"nonfinite": torch.zeros(1)}, TypeError, "nonfinite"),
        ({"backend": "best"}, ValueError, "backend"),
    ],
)
def test_wrong_arguments_of_the_step(change, error, says) -> None:
    arguments = {
        "adversarial": torch.zeros(2, 2),
        "gradient": torch.zeros(2, 2),
        "clean": torch.zeros(2, 2),
        "step_size": 0.1,
        "epsilon": 0.1,
    }
    with pytest.raises(error, match=says):
        linf_step(**(arguments | change))
