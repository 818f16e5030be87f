"""One round of an attack: images, labels and a start enter, adversarial images leave; the same call for every kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from srat_fast.attacks.pgd import carlini_wagner, cross_entropy, fgsm, pgd
from srat_fast.attacks.threat import LInfBall

#: What a round may maximise.
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ce": cross_entropy, "cw": carlini_wagner}


class Round(Protocol):
    """One pass of an attack over a batch; an attack is a few of them, each on what the ones before left standing."""

    @property
    def stream(self) -> str:
        """The name of its random numbers: rounds of one stream, run by themselves, start alike."""

    def start(self, images: Tensor, generator: torch.Generator) -> Tensor | None:
        """Where it starts, drawn for a whole batch; None where it draws for itself or not at all."""

    def examples(
        self, model: nn.Module, images: Tensor, labels: Tensor, start: Tensor | None, seed: int
    ) -> Tensor:
        """Adversarial images for [B, C, H, W] images and [B] labels."""


@dataclass(frozen=True)
class GradientRound:
    """PGD-k from a random point of the ball.

    Attributes:
        ball: the threat model.
        steps: k.
        step_size: alpha.
        loss: a key of `LOSSES`.
        stream: of the start.
        scale: what the logits are multiplied with before the loss; the prediction is that of the logits as they are.
    """

    ball: LInfBall
    steps: int
    step_size: float
    loss: str
    stream: str
    scale: float = 1.0

    def start(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """A uniform point of the ball.

        Args:
            images: [B, C, H, W].
            generator: on their device.

        Returns:
            [B, C, H, W].
        """
        return self.ball.random_start(images, generator)

    def examples(
        self, model: nn.Module, images: Tensor, labels: Tensor, start: Tensor | None, seed: int
    ) -> Tensor:
        """PGD from `start`.

        Args:
            model: images -> logits.
            images: [B, C, H, W].
            labels: [B].
            start: [B, C, H, W].
            seed: not needed; the start is the only chance.

        Returns:
            [B, C, H, W].
        """
        criterion = LOSSES[self.loss]
        return pgd(
            model,
            images,
            labels,
            ball=self.ball,
            steps=self.steps,
            step_size=self.step_size,
            start=start,
            loss=lambda logits, labels: criterion(self.scale * logits, labels),
        )


@dataclass(frozen=True)
class FgsmRound:
    """FGSM.

    Attributes:
        ball: the threat model.
        stream: its name.
    """

    ball: LInfBall
    stream: str = "fgsm"

    def start(self, images: Tensor, generator: torch.Generator) -> None:
        """FGSM starts at the image.

        Args:
            images: [B, C, H, W].
            generator: not drawn from.
        """

    def examples(
        self, model: nn.Module, images: Tensor, labels: Tensor, start: Tensor | None, seed: int
    ) -> Tensor:
        """One step of length epsilon.

        Args:
            model: images -> logits.
            images: [B, C, H, W].
            labels: [B].
            start: None.
            seed: not needed.

        Returns:
            [B, C, H, W].
        """
        return fgsm(model, images, labels, ball=self.ball)


@dataclass(frozen=True)
class NoiseRound:
    """A random corner of the ball (every pixel moved by epsilon, up or down): what chance alone can do.

    Attributes:
        ball: the threat model.
        stream: of the signs.
    """

    ball: LInfBall
    stream: str

    def start(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The corner itself.

        Args:
            images: [B, C, H, W].
            generator: on their device.

        Returns:
            [B, C, H, W], clipped to [0, 1].
        """
        signs = torch.rand(images.shape, generator=generator, device=images.device, dtype=images.dtype) - 0.5
        return (images + self.ball.epsilon * signs.sign()).clamp_(0.0, 1.0)

    def examples(
        self, model: nn.Module, images: Tensor, labels: Tensor, start: Tensor | None, seed: int
    ) -> Tensor:
        """The start: nothing is searched.

        Args:
            model: not asked.
            images: [B, C, H, W].
            labels: [B].
            start: [B, C, H, W].
            seed: not needed.

        Returns:
            [B, C, H, W].
        """
        assert start is not None, "noise is its start"
        return start
