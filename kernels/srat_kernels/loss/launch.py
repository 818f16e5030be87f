"""Launches of the loss kernels: tiles and buffers; never waits for the GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from srat_kernels.backends import count_launch
from srat_kernels.jit import INTERPRETED, triton
from srat_kernels.loss.backward_kernel import backward_kernel
from srat_kernels.loss.forward_kernels import finish_kernel, forward_kernel
from srat_kernels.tuning import Config, choose, power_of_two

LOG2_E = 1.4426950408889634
FINISH_BLOCK = 1024


def _config(warps: int, stages: int, **tiles: int) -> Config:
    return Config(tiles, warps, stages)


# Few anchors a program where the batch is small, because latency and idle multiprocessors dominate there; wide tiles
# where it is large, because each element loaded is then used more often. SPLITS brings B = 4096 to 128-256 programs
# (an H200 has 132 multiprocessors). K stays short: tf32x3 keeps each operand as two parts. At B = 128 a launch is a
# chain of loads that wait for each other, one a tile of keys and of columns: some configurations have few.
FORWARD = (
    _config(4, 2, BLOCK_M=16, BLOCK_N=64, BLOCK_K=64, SPLITS=2),
    _config(4, 2, BLOCK_M=16, BLOCK_N=32, BLOCK_K=64, SPLITS=4),
    _config(4, 2, BLOCK_M=16, BLOCK_N=32, BLOCK_K=128, SPLITS=4),
    _config(4, 2, BLOCK_M=32, BLOCK_N=64, BLOCK_K=32, SPLITS=2),
    _config(4, 2, BLOCK_M=64, BLOCK_N=64, BLOCK_K=32, SPLITS=4),
    _config(8, 2, BLOCK_M=128, BLOCK_N=64, BLOCK_K=32, SPLITS=4),
    _config(8, 2, BLOCK_M=64, BLOCK_N=128, BLOCK_K=32, SPLITS=4),
)
# The accumulator is [BLOCK_M, BLOCK_D]; every block of D recomputes the similarities, so a large batch wants it wide.
BACKWARD = (
    _config(4, 2, BLOCK_M=16, BLOCK_N=32, BLOCK_K=64, BLOCK_D=128),
    _config(8, 2, BLOCK_M=16, BLOCK_N=128, BLOCK_K=64, BLOCK_D=64),
    _config(4, 2, BLOCK_M=32, BLOCK_N=32, BLOCK_K=32, BLOCK_D=128),
    _config(8, 2, BLOCK_M=64, BLOCK_N=32, BLOCK_K=32, BLOCK_D=128),
    _config(8, 2, BLOCK_M=64, BLOCK_N=32, BLOCK_K=32, BLOCK_D=256),
    _config(8, 2, BLOCK_M=64, BLOCK_N=64, BLOCK_K=32, BLOCK_D=256),
    _config(8, 2, BLOCK_M=128, BLOCK_N=32, BLOCK_K=32, BLOCK_D=128),
)
# The interpreter pays per tile, not per element.
INTERPRETER_FORWARD = (_config(4, 1, BLOCK_M=128, BLOCK_N=128, BLOCK_K=128, SPLITS=2),)
INTERPRETER_BACKWARD = (_config(4, 1, BLOCK_M=128, BLOCK_N=128, BLOCK_K=128, BLOCK_D=128),)


def candidates(configs: tuple[Config, ...], batch: int, dims: int) -> tuple[Config, ...]:
    """Those of `configs` that make sense for a batch and width, tiles no wider than the data (but at least 16).

    Args:
        configs: `FORWARD` or `BACKWARD`.
        batch: B, as a shape class.
        dims: D, as a shape class.

    Returns:
        At least one: anchors per program between B / 128 (fewer re-read the keys too often) and B / 4.
    """
    low, high = min(batch // 128, 64), max(16, batch // 4)
    kept = [config for config in configs if low <= config.tiles["BLOCK_M"] <= high] or [configs[0]]
    fitted = [fit(config, dims) for config in kept]
    return tuple(config for place, config in enumerate(fitted) if config not in fitted[:place])


def fit(config: Config, dims: int) -> Config:
    """`config` with no tile wider than the features.

    Args:
        config: of `FORWARD` or `BACKWARD`.
        dims: D as a shape class, a power of two >= 16 (a dot needs 16).

    Returns:
        The configuration to launch with.
    """
    tiles = {
        name: min(size, dims) if name in ("BLOCK_K", "BLOCK_D") else size
        for name, size in config.tiles.items()
    }
    return config._replace(tiles=tiles)


def block_of_classes(classes: int, config: Config) -> int:
    """BLOCK_C: the classes that a program holds at a time, so that its tile of logits stays in few registers.

    Args:
        classes: C.
        config: of `FORWARD` or `BACKWARD`.

    Returns:
        A power of two >= 16.
    """
    return power_of_two(classes, 16, 2048 // config.tiles["BLOCK_M"])


def run_forward(
    features: Tensor | None,
    logits: Tensor | None,
    labels: Tensor,
    class_weights: Tensor | None,
    margins: Tensor | None,
    bias: Tensor | None,
    inverse_temperature: Tensor | None,
    outputs: tuple[Tensor, ...],
    *,
    separation_weight: float,
    temperature: float,
    drop_empty: bool,
    scale: float,
    focal_gamma: float,
    focal_weighting: str,
    weighted_mean: bool,
    precision: str,
    config: Config | None = None,
) -> None:
    """Fill `outputs` = (total, classification, separation, L [B], 1/|P| [B], logits' gradient [B, C], factors [2]).

    Two launches: one does all the work, the second, a single program, merges and adds up its [B] results. One launch
    could do both only by counting finished programs in a counter that starts at zero, which takes a launch of its
    own or a hidden state that two streams would share.

    Args:
        features: [B, D] or None.
        logits: [B, C] or None.
        labels: [B].
        class_weights: [C] or None.
        margins: [C] or None.
        bias: [C] or None.
        inverse_temperature: [C] or None.
        outputs: written to, all contiguous.
        separation_weight: lambda.
        temperature: tau.
        drop_empty: ``empty_anchors == "drop"``.
        scale: s of LDAM.
        focal_gamma: gamma; 0 switches the factor off.
        focal_weighting: "outside" or "inside".
        weighted_mean: ``reduction == "weighted_mean"``.
        precision: of the dot products.
        config: instead of the tuned one.
    """
    total, classification, separation, log_normaliser, inverse_count, logit_gradient, normalisers = outputs
    batch, dims = labels.shape[0], 1 if features is None else features.shape[1]
    classes = 1 if logits is None else logits.shape[1]
    focal = focal_weighting if focal_gamma > 0 else "none"
    vectors = [
        None if vector is None else vector.contiguous()
        for vector in (class_weights, margins, bias, inverse_temperature)
    ]
    rows = torch.empty((2, batch), dtype=torch.float32, device=labels.device)

    def launch(config: Config) -> tuple[Tensor, Tensor]:
        splits = 1 if features is None else config.tiles["SPLITS"]
        partial = torch.empty((3, splits, batch), dtype=torch.float32, device=labels.device)
        count = torch.empty((splits, batch), dtype=torch.int32, device=labels.device)
        grid = (triton.cdiv(batch, config.tiles["BLOCK_M"]), splits)
        forward_kernel[grid](
            features, logits, labels, *vectors,
            partial[0], partial[1], partial[2], count, rows[0], rows[1], logit_gradient,
            batch, dims, classes, *_strides(features, 2), *_strides(logits, 2),
            *_strides(labels, 1), LOG2_E / temperature, scale, focal_gamma,
            FOCAL=focal, PRECISION=precision, BLOCK_C=block_of_classes(classes, config),
            **{**config.arguments(), "SPLITS": splits},
        )  # fmt: skip
        return partial, count

    with torch.cuda.device_of(labels):  # the tensors' GPU need not be the current one
        if config is None:
            shape = (power_of_two(batch, 16, 8192), power_of_two(dims, 16, 8192))
            config = choose(
                "forward_kernel",
                (*shape, _dtype(features), _dtype(logits), precision),
                INTERPRETER_FORWARD if INTERPRETED else candidates(FORWARD, *shape),
                labels.device,
                launch,
            )
        partial, count = launch(config)
        count_launch("forward_kernel")
        finish_kernel[(1,)](
            partial[0], partial[1], partial[2], count, rows[0], rows[1],
            log_normaliser, inverse_count, total, classification, separation, normalisers,
            batch, separation_weight,
            HAS_FEATURES=features is not None, HAS_LOGITS=logits is not None, DROP_EMPTY=drop_empty,
            WEIGHTED_MEAN=weighted_mean and logits is not None, SPLITS=count.shape[0],
            BLOCK=power_of_two(batch, 16, FINISH_BLOCK), num_warps=4,
        )  # fmt: skip
        count_launch("finish_kernel")


def run_backward(
    features: Tensor | None,
    labels: Tensor,
    saved: tuple[Tensor, Tensor, Tensor, Tensor],
    upstream: tuple[Tensor | None, Tensor | None, Tensor | None],
    feature_gradient: Tensor | None,
    logit_gradient: Tensor | None,
    *,
    separation_weight: float,
    temperature: float,
    precision: str,
    config: Config | None = None,
) -> None:
    """Fill the gradients that are not None, in one launch.

    Args:
        features: [B, D] or None where no feature gradient is wanted.
        labels: [B].
        saved: L [B], 1/|P| [B], the logits' gradient before its factor [B, C], the factors [2].
        upstream: gradients of total, classification, separation; None means zero.
        feature_gradient: [B, D], written to, contiguous.
        logit_gradient: [B, C], written to, contiguous.
        separation_weight: lambda.
        temperature: tau.
        precision: of the dot products.
        config: instead of the tuned one.
    """
    batch, dims = labels.shape[0], 1 if features is None else features.shape[1]
    classes = 1 if logit_gradient is None else logit_gradient.shape[1]

    def launch(config: Config) -> None:
        grid = (triton.cdiv(batch, config.tiles["BLOCK_M"]), triton.cdiv(dims, config.tiles["BLOCK_D"]))
        backward_kernel[grid](
            features, labels, *saved, *upstream, feature_gradient, logit_gradient,
            batch, dims, classes, *_strides(features, 2), *_strides(labels, 1),
            LOG2_E / temperature, 1.0 / temperature, separation_weight,
            PRECISION=precision, BLOCK_C=block_of_classes(classes, config), **config.arguments(),
        )  # fmt: skip

    with torch.cuda.device_of(labels):
        if config is None:
            shape = (power_of_two(batch, 16, 8192), power_of_two(dims, 16, 8192))
            config = choose(
                "backward_kernel",
                (*shape, _dtype(features), _dtype(logit_gradient), precision),
                INTERPRETER_BACKWARD if INTERPRETED else candidates(BACKWARD, *shape),
                labels.device,
                launch,
            )
        launch(config)
        count_launch("backward_kernel")


def _strides(tensor: Tensor | None, axes: int) -> tuple[int, ...]:
    return (0,) * axes if tensor is None else tensor.stride()


def _dtype(tensor: Tensor | None) -> str:
    return "" if tensor is None else str(tensor.dtype)
