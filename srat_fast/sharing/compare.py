"""The check of every export: the run's model and a file's reader enter, the largest difference of logits leaves."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from srat_fast.errors import ExportFailure

#: Largest difference of a logit, absolute, or relative to the largest logit where that is above 1.
TOLERANCE = 1e-5


def largest_difference(
    name: str, model: nn.Module, read: Callable[[Tensor], Tensor], batches: dict[str, Tensor]
) -> float:
    """How far a file's logits are from the run's, on every batch and on its first image alone.

    Args:
        name: of the format, for the message.
        model: the run's, in eval mode on the CPU.
        read: images -> logits, from the file that was written.
        batches: what they are -> images [B, C, H, W].

    Returns:
        The largest absolute difference.

    Raises:
        ExportFailure: beyond the tolerance, not finite, or of another shape.
    """
    worst = 0.0
    with torch.no_grad():
        for what, images in batches.items():
            for part in (images, images[:1]):
                expected, found = model(part), read(part)
                if found.shape != expected.shape:
                    raise ExportFailure(
                        f"{name}: logits of shape {list(found.shape)} where the run gives {list(expected.shape)} "
                        f"on a {what} batch"
                    )
                difference = (found - expected).abs().max().item()
                allowed = TOLERANCE * max(1.0, expected.abs().max().item())
                if not difference <= allowed:  # NaN is not
                    raise ExportFailure(
                        f"{name}: logits differ from the run's by {difference:.3g} on a {what} batch, "
                        f"at most {allowed:.3g} is allowed; nothing was exported"
                    )
                worst = max(worst, difference)
    return worst
