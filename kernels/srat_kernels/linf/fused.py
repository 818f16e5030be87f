"""The L-infinity kernel as torch operators, out of place and in place.

Registered with fake implementations, so that `torch.compile(fullgraph=True)` and CUDA graph capture go through.
Triton itself is imported when an operator first runs, not here.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
    """The next images in a new tensor of `adversarial`'s memory format.

    Args:
        adversarial: float32, any shape.
        gradient: same shape, any float dtype.
        clean: same shape, float32.
        step_size: alpha.
        epsilon: radius.
        nonfinite: int64 counter of one element, increased, or None.
        zero: likewise.

    Returns:
        Same shape, float32.
    """
    from srat_kernels.linf.launch import run_linf_step

    out = torch.empty_like(adversarial)
    run_linf_step(
        adversarial, gradient, clean, out,
        step_size=step_size, epsilon=epsilon, nonfinite=nonfinite, zero=zero,
    )  # fmt: skip
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
    """The same, written into `adversarial`.

    Args:
        adversarial: float32, any shape; overwritten.
        gradient: same shape, any float dtype.
        clean: same shape, float32.
        step_size: alpha.
        epsilon: radius.
        nonfinite: int64 counter of one element, increased, or None.
        zero: likewise.
    """
    from srat_kernels.linf.launch import run_linf_step

    run_linf_step(
        adversarial, gradient, clean, adversarial,
        step_size=step_size, epsilon=epsilon, nonfinite=nonfinite, zero=zero,
    )  # fmt: skip


@linf_step_inplace.register_fake
def _(*_: object) -> None:
    return None
