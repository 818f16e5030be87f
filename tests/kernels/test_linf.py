"""The L-infinity kernel against a pixel-by-pixel oracle and, bit by bit, the torch reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from srat_kernels import kernel_launches, last_backend, linf_step
from srat_kernels.linf.kernel import CONFIGS, in_one_layout, run_linf_step
from srat_kernels.linf.reference import linf_step_reference
from srat_kernels.tuning import Config
from tests.kernels import oracle

STEP, EPSILON = 2 / 255, 8 / 255


def images(shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """x', g, x: some pixels at 0 and 1, some x' on the eps sphere, some g = 0."""
    clean = (torch.rand(shape) * 1.2 - 0.1).clamp(0, 1)
    adversarial = (clean + EPSILON * (torch.rand(shape) * 3 - 1.5).clamp(-1, 1)).clamp(0, 1)
    gradient = torch.randn(shape) * (torch.rand(shape) > 0.2)
    return adversarial.to(device), gradient.to(device), clean.to(device)


def step(
    adversarial: Tensor, gradient: Tensor, clean: Tensor, *, backend: str = "triton", **options: object
) -> Tensor:
    return linf_step(
        adversarial, gradient, clean, step_size=STEP, epsilon=EPSILON, backend=backend, **options
    )


@pytest.mark.parametrize(
    "shape", [(1,), (2,), (63,), (128, 3), (7, 3, 32, 32), (2, 3, 5, 4, 3), (3, 1, 1, 2)]
)
def test_equals_oracle_and_reference(shape: tuple[int, ...], device: torch.device) -> None:
    x, g, clean = images(shape, device)
    got = step(x, g, clean)
    assert last_backend("linf_step") == "triton"
    torch.testing.assert_close(
        got,
        step(x, g, clean, backend="torch"),
        rtol=0,
        atol=0,
        msg="the same float32 operations, hence the same bits",
    )
    expected = oracle.linf(x, g, clean, STEP, EPSILON)
    torch.testing.assert_close(got.cpu().double(), expected, rtol=0, atol=1e-7)


def test_one_launch(device: torch.device) -> None:
    before = kernel_launches().get("linf_kernel", 0)
    step(*images((4, 3, 8, 8), device))
    assert kernel_launches()["linf_kernel"] == before + 1


def test_sign_of_zero_is_zero_and_nan_moves_nothing_but_is_counted(device: torch.device) -> None:
    clean = torch.full((6,), 0.5, device=device)
    gradient = torch.tensor([0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-45], device=device)
    nonfinite = torch.full((1,), 10, device=device)
    zero = torch.full((1,), 20, device=device)
    got = step(clean, gradient, clean, nonfinite=nonfinite, zero=zero)
    moves = torch.tensor([0.0, 0.0, 0.0, STEP, -STEP, STEP], device=device)
    torch.testing.assert_close(got - clean, moves, rtol=0, atol=1e-7)
    assert nonfinite.item() == 13, "one NaN and two infinities on top of ten"
    assert zero.item() == 22, "both zeros, and nothing of the masked rest of the block"


def test_pixels_at_the_ends_and_points_on_the_sphere_stay(device: torch.device) -> None:
    clean = torch.tensor([0.0, 1.0, 0.5, 0.5], device=device)
    x = torch.tensor([0.0, 1.0, 0.5 + EPSILON, 0.5 - EPSILON], device=device)
    gradient = torch.tensor([-1.0, 1.0, 1.0, -1.0], device=device)
    torch.testing.assert_close(step(x, gradient, clean), x, rtol=0, atol=0)


def test_a_nan_pixel_stays_visible(device: torch.device) -> None:
    x, g, clean = images((10,), device)
    x[2], clean[5] = float("nan"), float("nan")
    assert step(x, g, clean).isnan().nonzero().flatten().tolist() == [2, 5]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_gradient_types(dtype: torch.dtype, device: torch.device) -> None:
    x, g, clean = images((3, 3, 9, 9), device)
    g = g.to(dtype)
    g[0, 0, 0, :2] = torch.tensor([torch.finfo(dtype).tiny, float("nan")], dtype=dtype)
    g[1, 1] = 0
    counts, zeros = ([torch.zeros((), dtype=torch.int64, device=device) for _ in range(2)] for _ in range(2))
    got = step(x, g, clean, nonfinite=counts[0], zero=zeros[0])
    torch.testing.assert_close(
        got, step(x, g, clean, nonfinite=counts[1], zero=zeros[1], backend="torch"), rtol=0, atol=0
    )
    assert got.dtype == torch.float32
    assert counts[0] == counts[1] == 1
    assert zeros[0] == zeros[1] == (g == 0).sum() >= 81


@pytest.mark.parametrize("which", [(), (0,), (1,), (2,), (0, 1), (0, 1, 2)])
@pytest.mark.parametrize("inplace", [False, True])
def test_channels_last_in_any_combination(
    which: tuple[int, ...], inplace: bool, device: torch.device
) -> None:
    tensors = list(images((4, 3, 6, 5), device))
    expected = step(*tensors, backend="torch")
    for position in which:
        tensors[position] = tensors[position].contiguous(memory_format=torch.channels_last)
    strides = tensors[0].stride()
    got = step(*tensors, inplace=inplace)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    assert got.stride() == strides, "the memory format of the images is kept"
    assert (got is tensors[0]) == inplace


@pytest.mark.parametrize("inplace", [False, True])
def test_views_write_their_own_elements_only(inplace: bool, device: torch.device) -> None:
    whole = torch.full((6, 3, 10, 10), 7.0, device=device)
    part = whole[::2, :, 1:9, ::3]
    x, g, clean = images(tuple(part.shape), device)
    part.copy_(x)
    got = step(part, g.transpose(0, 1).contiguous().transpose(0, 1), clean[:1].expand_as(x), inplace=inplace)
    torch.testing.assert_close(got, step(x, g, clean[:1].expand_as(x), backend="torch"), rtol=0, atol=0)
    untouched = torch.ones_like(whole, dtype=torch.bool)
    untouched[::2, :, 1:9, ::3] = False
    assert (whole[untouched] == 7.0).all()


@pytest.mark.parametrize("inplace", [False, True])
def test_images_dense_in_no_format_of_torch(inplace: bool, device: torch.device) -> None:
    x, g, clean = images((2, 3, 2, 3, 2, 3), device)
    x = x.permute(5, 3, 1, 0, 2, 4).contiguous().permute(3, 2, 4, 1, 5, 0)
    clean = clean.permute(1, 0, 2, 3, 4, 5).contiguous().permute(1, 0, 2, 3, 4, 5)
    nonfinite = torch.zeros(1, dtype=torch.int64, device=device)
    g[0, 0, 0] = float("inf")
    strides = x.stride()
    expected = step(x, g, clean, backend="torch")
    got = step(x, g, clean, nonfinite=nonfinite, inplace=inplace)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    assert got.stride() == strides
    assert (got is x) == inplace
    assert nonfinite.item() == 18


@pytest.mark.parametrize("config", [None, *CONFIGS], ids=str)
def test_every_configuration_fills_an_output_that_held_nan(
    config: Config | None, device: torch.device
) -> None:
    x, g, clean = images((3, 3, 20, 21), device)
    g[1] = float("nan")
    for memory_format in (torch.contiguous_format, torch.channels_last):
        out = torch.full_like(x, float("nan"), memory_format=memory_format)
        count = torch.zeros(1, dtype=torch.int64, device=device)
        run_linf_step(x, g, clean, out, step_size=STEP, epsilon=EPSILON, nonfinite=count, config=config)
        torch.testing.assert_close(
            out, linf_step_reference(x, g, clean, step_size=STEP, epsilon=EPSILON), rtol=0, atol=0
        )
        assert count.item() == g[1].numel()


@pytest.mark.parametrize("shape", [(7,), (4, 3, 6, 5), (4, 1, 6, 5), (4, 3, 1, 1), (2, 3, 4, 3, 2)])
def test_only_a_layout_unlike_the_images_is_copied(shape: tuple[int, ...]) -> None:
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(len(shape), torch.contiguous_format)
    plain, other = torch.rand(shape), torch.rand(shape).contiguous(memory_format=last)
    alike = plain.is_contiguous(memory_format=last)  # one channel, one pixel: one order has two names
    for mine, theirs in ((plain, other), (other, plain)):
        (first, second), target = in_one_layout((mine, theirs), mine)
        assert first is mine
        assert target is mine
        assert (second is theirs) == alike
        torch.testing.assert_close(second, theirs, rtol=0, atol=0)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    size=st.integers(1, 300),
    step_size=st.floats(1e-4, 1.0),
    epsilon=st.floats(1e-4, 1.0),
    seed=st.integers(0, 1000),
)
def test_stays_in_the_ball_and_in_range(size: int, step_size: float, epsilon: float, seed: int) -> None:
    where = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(seed)
    clean = torch.rand(size, generator=generator).to(where)
    gradient = torch.randn(size, generator=generator).to(where)
    x = clean.clone()
    for _ in range(3):
        x = linf_step(
            x, gradient, clean, step_size=step_size, epsilon=epsilon, inplace=True, backend="triton"
        )
    assert ((x - clean).abs() <= epsilon + 1e-6).all()
    assert ((x >= 0) & (x <= 1)).all()
    reference = clean
    for _ in range(3):
        reference = linf_step_reference(reference, gradient, clean, step_size=step_size, epsilon=epsilon)
    torch.testing.assert_close(x, reference, rtol=0, atol=0)
