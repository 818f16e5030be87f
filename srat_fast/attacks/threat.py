"""The threat model: an L-infinity ball in pixel space. Images enter, a start, a step or a distance leaves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from srat_kernels import linf_step


@dataclass(frozen=True)
class LInfBall:
    """All images within `epsilon` of a clean one, inside [0, 1].

    Attributes:
        epsilon: radius in (0, 1], pixel range [0, 1].
    """

    epsilon: float

    def random_start(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """A uniform point of the ball, clipped to [0, 1].

        Args:
            clean: [B, C, H, W].
            generator: on the images' device.

        Returns:
            Images shaped and laid out like `clean`; equal for equal generators, whatever the memory format.
        """
        noise = torch.rand(clean.shape, generator=generator, device=clean.device, dtype=clean.dtype)
        # strides too are those of `clean`: with one channel both memory formats fit, and compiled code tells them apart
        start = torch.empty_like(clean).copy_(noise).mul_(2 * self.epsilon).sub_(self.epsilon)
        return start.add_(clean).clamp_(0.0, 1.0)

    def overshoot(self, adversarial: Tensor, clean: Tensor) -> Tensor:
        """How far images leave the ball or [0, 1]: what every examined attack is held against.

        Args:
            adversarial: [B, C, H, W].
            clean: same shape, the centre.

        Returns:
            [B]: the largest excess over all pixels, 0 where there is none; NaN counts as infinitely far.
        """
        beyond = torch.stack(
            [(adversarial - clean).abs() - self.epsilon, -adversarial, adversarial - 1.0]
        )  # [3, B, C, H, W]
        excess = beyond.nan_to_num(nan=float("inf")).amax(dim=0).flatten(1).amax(dim=1)
        return excess.clamp_(min=0.0)

    def step(
        self,
        adversarial: Tensor,
        gradient: Tensor,
        clean: Tensor,
        step_size: float,
        nonfinite: Tensor | None = None,
        zero: Tensor | None = None,
    ) -> Tensor:
        """Ascend by the gradient's sign and project (`srat_kernels.linf_step`), writing into `adversarial`.

        Args:
            adversarial: [B, C, H, W], overwritten.
            gradient: same shape.
            clean: same shape, the centre.
            step_size: alpha.
            nonfinite: counter of non-finite gradient entries.
            zero: counter of gradient entries that are exactly zero.

        Returns:
            `adversarial`.
        """
        return linf_step(
            adversarial,
            gradient,
            clean,
            step_size=step_size,
            epsilon=self.epsilon,
            nonfinite=nonfinite,
            zero=zero,
            inplace=True,
        )
