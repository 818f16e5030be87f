"""The public L-infinity step and its torch operators, out of place and in place.

The operators have fake implementations, so that `torch.compile(fullgraph=True)` and CUDA graph capture go through;
triton is imported when one first runs, not here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from srat_kernels.backends import choose_backend
from srat_kernels.checks import check_float, check_positive, check_same_shape
from srat_kernels.linf.reference import linf_step_reference


def linf_step(
    adversarial: Tensor,
    gradient: Tensor,
    clean: Tensor,
    *,
    step_size: float,
    epsilon: float,
    nonfinite: Tensor | None = None,
    zero: Tensor | None = None,
    inplace: bool = False,
    backend: str = "auto",
) -> Tensor:
    """One PGD step: ascend by the gradient's sign, project onto the epsilon ball, clamp to [0, 1].

    Args:
        adversarial: current images in [0, 1], any shape, float32 (or float64).
        gradient: same shape, any float dtype; sign(0) = 0; a NaN entry does not move its pixel.
        clean: same shape and dtype as `adversarial`: the centre of the ball.
        step_size: alpha > 0, in pixel units of [0, 1].
        epsilon: radius > 0, in pixel units of [0, 1].
        nonfinite: optional one-element int64 tensor that is increased by the number of non-finite entries
            of `gradient`, so that they are reported rather than swallowed.
        zero: optional one-element int64 tensor that is increased by the number of entries of `gradient` that are
            exactly zero, and so do not move their pixel.
        inplace: write the result into `adversarial`.
        backend: see `resolve_backend`. The kernel takes float32 images; "auto" leaves other types to "torch".

    Returns:
        The next images; the tensor `adversarial` itself where `inplace`. No gradient flows through it.

    Raises:
        TypeError: wrong dtype.
        ValueError: shapes or devices differ, empty tensor, number out of range.
    """
    check_float("adversarial", adversarial)
    check_float("gradient", gradient)
    check_float("clean", clean)
    check_same_shape("adversarial", adversarial, gradient=gradient, clean=clean)
    if clean.dtype != adversarial.dtype:
        raise TypeError(f"clean: dtype {clean.dtype} differs from adversarial's {adversarial.dtype}")
    if inplace and any(
        stride == 0 and size > 1 for size, stride in zip(adversarial.shape, adversarial.stride(), strict=True)
    ):
        raise ValueError("adversarial: an expanded tensor shares its elements and cannot be written in place")
    for name, counter in (("nonfinite", nonfinite), ("zero", zero)):
        if counter is not None and counter.device != adversarial.device:
            raise ValueError(f"{name}: is on {counter.device}, adversarial on {adversarial.device}")
        if counter is not None and (counter.dtype != torch.int64 or counter.numel() != 1):
            raise TypeError(f"{name}: one int64 element is needed, got {counter.dtype} {list(counter.shape)}")
    check_positive("step_size", step_size)
    check_positive("epsilon", epsilon)
    dtypes = {"adversarial": adversarial.dtype}
    chosen = choose_backend("linf_step", backend, adversarial.device, dtypes, (torch.float32,))
    with torch.no_grad():
        if chosen == "torch":
            return linf_step_reference(
                adversarial,
                gradient,
                clean,
                step_size=step_size,
                epsilon=epsilon,
                nonfinite=nonfinite,
                zero=zero,
                inplace=inplace,
            )
        if inplace:
            linf_step_inplace(adversarial, gradient, clean, step_size, epsilon, nonfinite, zero)
            return adversarial
        return linf_step_new(adversarial, gradient, clean, step_size, epsilon, nonfinite, zero)


@torch.library.custom_op("srat_kernels::linf_step", mutates_args=("nonfinite", "zero"))
def linf_step_new(
    adversarial: Tensor,
    gradient: Tensor,
    clean: Tensor,
    step_size: float,
    epsilon: float,
    nonfinite: Tensor | None,
    zero: Tensor | None,
) -> Tensor:
    """The next images in a new tensor of `adversarial`'s memory format."""
    out = torch.empty_like(adversarial)
    _run(adversarial, gradient, clean, out, step_size, epsilon, nonfinite, zero)
    return out


@linf_step_new.register_fake
def _(adversarial: Tensor, *_: object) -> Tensor:
    return torch.empty_like(adversarial)


@torch.library.custom_op("srat_kernels::linf_step_", mutates_args=("adversarial", "nonfinite", "zero"))
def linf_step_inplace(
    adversarial: Tensor,
    gradient: Tensor,
    clean: Tensor,
    step_size: float,
    epsilon: float,
    nonfinite: Tensor | None,
    zero: Tensor | None,
) -> None:
    """The next images, written into `adversarial`."""
    _run(adversarial, gradient, clean, adversarial, step_size, epsilon, nonfinite, zero)


@linf_step_inplace.register_fake
def _(*_: object) -> None:
    return None


def _run(
    adversarial: Tensor,
    gradient: Tensor,
    clean: Tensor,
    out: Tensor,
    step_size: float,
    epsilon: float,
    nonfinite: Tensor | None,
    zero: Tensor | None,
) -> None:
    from srat_kernels.linf.kernel import run_linf_step

    run_linf_step(
        adversarial, gradient, clean, out,
        step_size=step_size, epsilon=epsilon, nonfinite=nonfinite, zero=zero,
    )  # fmt: skip
