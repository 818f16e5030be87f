"""Launch of the L-infinity kernel on tensors of any strides.

Chooses the block size; never waits for the GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from srat_kernels.backends import count_launch
from srat_kernels.jit import INTERPRETED, triton
from srat_kernels.linf.kernel import linf_kernel
from srat_kernels.tuning import Config, choose, power_of_two

# Three reads and a write per element and no reuse: only the bytes in flight matter, hence 4, 8 or 16 elements a thread.
CONFIGS = (
    Config({"BLOCK": 1024}, 4, 1),
    Config({"BLOCK": 1024}, 8, 1),
    Config({"BLOCK": 2048}, 4, 1),
)
INTERPRETER_CONFIGS = (Config({"BLOCK": 16384}, 4, 1),)
AXES = 4


def run_linf_step(
    adversarial: Tensor,
    gradient: Tensor,
    clean: Tensor,
    out: Tensor,
    *,
    step_size: float,
    epsilon: float,
    nonfinite: Tensor | None,
    zero: Tensor | None = None,
    config: Config | None = None,
) -> None:
    """Write the next images into `out`, which may be `adversarial` itself, in one launch.

    Args:
        adversarial: float32, any shape.
        gradient: same shape, any float dtype.
        clean: same shape, float32.
        out: same shape, float32.
        step_size: alpha.
        epsilon: radius.
        nonfinite: one int64 element or None.
        zero: one int64 element or None.
        config: instead of the tuned one.
    """
    tensors = (adversarial, gradient, clean, out)
    shape, strides = collapse(tuple(adversarial.shape), [tensor.stride() for tensor in tensors])
    if len(shape) > AXES:  # more axes than the kernel walks: one copy each, rather than a kernel per rank
        dense = torch.empty(out.shape, dtype=out.dtype, device=out.device)
        run_linf_step(
            adversarial.contiguous(), gradient.contiguous(), clean.contiguous(), dense,
            step_size=step_size, epsilon=epsilon, nonfinite=nonfinite, zero=zero, config=config,
        )  # fmt: skip
        out.copy_(dense)
        return
    flat = len(shape) == 1 and all(stride == (1,) for stride in strides)
    numel = adversarial.numel()
    reach = max(
        sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) for stride in strides
    )
    wide = max(reach, numel + 4096) >= 2**31  # the last program's masked offsets included
    padding = AXES - len(shape)

    def launch(config: Config, target: Tensor, *counters: Tensor | None) -> None:
        linf_kernel[(triton.cdiv(numel, config.tiles["BLOCK"]),)](
            adversarial, gradient, clean, target, *counters, numel, step_size, epsilon, *((1,) * padding + shape)[1:],
            *(step for stride in strides for step in (0,) * padding + stride),
            FLAT=flat, WIDE=wide, **config.arguments(),
        )  # fmt: skip

    def rehearse(config: Config) -> None:  # a timed launch must neither move the images nor count
        launch(config, torch.empty_strided(out.shape, out.stride(), device=out.device), None, None)

    with torch.cuda.device_of(adversarial):
        if config is None:
            config = choose(
                "linf_kernel",
                (power_of_two(numel, 1 << 10, 1 << 30), str(gradient.dtype), flat, wide),
                INTERPRETER_CONFIGS if INTERPRETED else CONFIGS,
                adversarial.device,
                rehearse,
            )
        launch(config, out, nonfinite, zero)
        count_launch("linf_kernel")


def collapse(
    shape: tuple[int, ...], strides: list[tuple[int, ...]]
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Fewest axes that describe all tensors: outermost first in the last tensor's memory, neighbours merged.

    Args:
        shape: common to all tensors.
        strides: of each tensor.

    Returns:
        Shape and strides that visit the same elements together; two dense tensors of one memory format give one axis.
    """
    axes = [axis for axis, size in enumerate(shape) if size != 1]
    axes.sort(key=lambda axis: -strides[-1][axis])
    sizes: list[int] = []
    steps: list[list[int]] = []  # per axis, the stride in each tensor
    for axis in axes:
        here = [stride[axis] for stride in strides]
        if steps and all(outer == inner * shape[axis] for outer, inner in zip(steps[-1], here, strict=True)):
            sizes[-1] *= shape[axis]
            steps[-1] = here
        else:
            sizes.append(shape[axis])
            steps.append(here)
    if not sizes:  # a single element
        return (1,), [(1,) for _ in strides]
    return tuple(sizes), [tuple(step[tensor] for step in steps) for tensor in range(len(strides))]
