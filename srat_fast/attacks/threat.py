"""Threat models: which images count as the same one, and how an attack moves among them.

Another one is another class here (or in a plug-in). Recipes and reports read titles and bounds, so that this file
imports no torch before an attack runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from srat_fast.errors import UserError
from srat_fast.registry import threat

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from torch import Tensor


class Threat(Protocol):
    """What `srat_fast.registry.threat` registers: a class built from a radius, images [B, C, H, W] in [0, 1].

    Attributes:
        title: in tables and titles.
        autoattack: pyautoattack's name of it; None where it has none.
        largest: radius up to which a recipe may go.
        usual: radius of a recipe that names this ball and no radius; None, or no such
            attribute, where it must name one.
        tolerance: what rounding may add to the radius; an example farther out is refused.
        epsilon: the radius, or [B] radii, one an image.
    """

    title: ClassVar[str]
    autoattack: ClassVar[str | None]
    largest: ClassVar[float]
    usual: ClassVar[float | None]
    tolerance: ClassVar[float]

    def __init__(self, epsilon: float | Tensor) -> None: ...

    @property
    def epsilon(self) -> float | Tensor:
        """The radius."""

    @staticmethod
    def diameter(shape: Sequence[int]) -> float:
        """The largest distance of two images [C, H, W]: at this radius every image counts as the same."""

    def random_start(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """A random point of the ball in [0, 1]; equal for equal generators, shaped and laid out like `clean`."""

    def noise(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """As far from `clean` as the ball allows, in a random direction, clipped to [0, 1]."""

    def step(
        self,
        adversarial: Tensor,
        gradient: Tensor,
        clean: Tensor,
        step_size: float | Tensor,
        nonfinite: Tensor | None = None,
        zero: Tensor | None = None,
    ) -> Tensor:
        """Ascend by the distance `step_size` (or [B] of them) and project onto the ball and [0, 1], in place.

        Args:
            adversarial: [B, C, H, W], overwritten.
            gradient: same shape; an entry that is NaN must not move its pixel.
            clean: same shape, the centre.
            step_size: alpha, measured as the radius is: a step of the radius reaches the sphere.
            nonfinite: one-element int64 counter, increased by the number of non-finite entries of `gradient`.
            zero: likewise, by the number of those that are exactly zero.

        Returns:
            `adversarial`.
        """

    def overshoot(self, adversarial: Tensor, clean: Tensor) -> Tensor:
        """[B]: how far images leave the ball or [0, 1], 0 where they do not; NaN counts as far beyond any tolerance."""


@threat("linf")
@dataclass(frozen=True)
class LInfBall:
    """L-infinity: all images within `epsilon` of a clean one in every pixel, inside [0, 1].

    Attributes:
        epsilon: radius in (0, 1], pixel range [0, 1]; or [B] radii, one an image.
    """

    epsilon: float | Tensor

    title: ClassVar[str] = "L-inf"
    autoattack: ClassVar[str | None] = "Linf"
    largest: ClassVar[float] = 1.0
    usual: ClassVar[float | None] = 8 / 255
    tolerance: ClassVar[float] = 1e-6  # rounding of x + epsilon - x in float32

    @staticmethod
    def diameter(shape: Sequence[int]) -> float:
        """1: the whole range of pixels."""
        return 1.0

    def random_start(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """A uniform point of the ball, clipped to [0, 1].

        Args:
            clean: [B, C, H, W].
            generator: on the images' device.

        Returns:
            Images shaped and laid out like `clean`; equal for equal generators, whatever the memory format.
        """
        radius = _each(self.epsilon, clean)
        return _uniform(clean, generator).mul_(2 * radius).sub_(radius).add_(clean).clamp_(0.0, 1.0)

    def noise(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """A random corner of the ball: every pixel moved by epsilon, up or down, and clipped to [0, 1]."""
        signs = _uniform(clean, generator).sub_(0.5).sign_()
        return (clean + _each(self.epsilon, clean) * signs).clamp_(0.0, 1.0)

    def overshoot(self, adversarial: Tensor, clean: Tensor) -> Tensor:
        """How far images leave the ball or [0, 1]: what every examined attack is held against.

        Args:
            adversarial: [B, C, H, W].
            clean: same shape, the centre.

        Returns:
            [B]: the largest excess over all pixels, 0 where there is none; NaN counts as infinitely far.
        """
        moved = (adversarial - clean).abs() - _each(self.epsilon, clean)
        excess = moved.maximum(-adversarial).maximum(adversarial - 1.0).nan_to_num(nan=float("inf"))
        return excess.flatten(1).amax(dim=1).clamp_(min=0.0)

    def step(
        self,
        adversarial: Tensor,
        gradient: Tensor,
        clean: Tensor,
        step_size: float | Tensor,
        nonfinite: Tensor | None = None,
        zero: Tensor | None = None,
    ) -> Tensor:
        """Ascend by the gradient's sign and project, in place: `srat_kernels.linf_step`, or for [B] its formula.

        Args:
            adversarial: [B, C, H, W], overwritten.
            gradient: same shape; sign(0) = 0, and a NaN entry does not move its pixel.
            clean: same shape, the centre.
            step_size: alpha, or [B] of them.
            nonfinite: counter of non-finite gradient entries.
            zero: counter of gradient entries that are exactly zero.

        Returns:
            `adversarial`.
        """
        from srat_kernels import linf_step
        from srat_kernels.linf.reference import linf_step_reference

        if isinstance(self.epsilon, float | int) and isinstance(step_size, float | int):
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
        return linf_step_reference(
            adversarial,
            gradient,
            clean,
            step_size=_each(step_size, clean),
            epsilon=_each(self.epsilon, clean),
            nonfinite=nonfinite,
            zero=zero,
            inplace=True,
        )


@threat("l2")
@dataclass(frozen=True)
class L2Ball:
    """L2: all images within the Euclidean distance `epsilon` of a clean one over all its pixels, inside [0, 1].

    Points outside are scaled back onto the ball and then clipped. Clipping moves no pixel farther from the clean image,
    so that both hold; it is not the nearest point of the two sets, nor is it in Madry's `robustness` or AutoAttack.

    Attributes:
        epsilon: radius > 0, pixel range [0, 1]; or [B] radii, one an image.
    """

    epsilon: float | Tensor

    title: ClassVar[str] = "L2"
    autoattack: ClassVar[str | None] = "L2"
    largest: ClassVar[float] = 400.0  # the diagonal of 224 x 224 colour images is 388
    usual: ClassVar[float | None] = 0.5
    tolerance: ClassVar[float] = 1e-5  # the norm of 150528 float32 numbers, relative

    @staticmethod
    def diameter(shape: Sequence[int]) -> float:
        """From black to white: the square root of the number of pixels and channels."""
        return math.sqrt(math.prod(shape))

    def random_start(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """A uniform point of the ball, clipped to [0, 1]: radius epsilon u^(1/d), direction that of a normal vector.

        Args:
            clean: [B, C, H, W].
            generator: on the images' device.

        Returns:
            Images shaped and laid out like `clean`; equal for equal generators, whatever the memory format.
        """
        import torch

        direction = _direction(clean, generator)
        share = torch.rand(len(clean), generator=generator, device=clean.device, dtype=clean.dtype)
        radius = _each(share.pow_(1 / clean[0].numel()), clean) * _each(self.epsilon, clean)
        return direction.mul_(radius).add_(clean).clamp_(0.0, 1.0)

    def noise(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """A random point of the sphere, clipped to [0, 1]."""
        return _direction(clean, generator).mul_(_each(self.epsilon, clean)).add_(clean).clamp_(0.0, 1.0)

    def overshoot(self, adversarial: Tensor, clean: Tensor) -> Tensor:
        """How far images leave the ball or [0, 1], the distance as a share of a radius above 1, as rounding grows.

        Args:
            adversarial: [B, C, H, W].
            clean: same shape, the centre.

        Returns:
            [B]: the larger excess of the two, 0 where there is none; NaN counts as infinitely far.
        """
        import torch

        radius = torch.as_tensor(self.epsilon, dtype=torch.float64, device=clean.device)
        excess = (adversarial.double() - clean.double()).flatten(1).norm(dim=1) - radius
        beyond = (-adversarial).maximum(adversarial - 1.0).flatten(1).amax(dim=1)
        found = (excess / radius.clamp(min=1.0)).maximum(beyond.double())
        return found.nan_to_num(nan=float("inf")).clamp_(min=0.0)

    def step(
        self,
        adversarial: Tensor,
        gradient: Tensor,
        clean: Tensor,
        step_size: float | Tensor,
        nonfinite: Tensor | None = None,
        zero: Tensor | None = None,
    ) -> Tensor:
        """Ascend by `step_size` along each image's gradient and project, in place.

        x' <- clamp( x + d min(1, eps / |d|), 0, 1 ) with d = x' - x + alpha g / |g|; an image whose gradient is zero
        stays where it is.

        Args:
            adversarial: [B, C, H, W], overwritten.
            gradient: same shape; a NaN entry counts as 0, an infinite one as the largest number of its type.
            clean: same shape, the centre.
            step_size: alpha, or [B] of them.
            nonfinite: counter of non-finite gradient entries.
            zero: counter of gradient entries that are exactly zero.

        Returns:
            `adversarial`.
        """
        import torch

        if nonfinite is not None:
            nonfinite += (~gradient.isfinite()).sum()
        if zero is not None:
            zero += (gradient == 0).sum()
        moved = _unit(gradient.to(adversarial.dtype)).mul_(_each(step_size, clean))
        moved.add_(adversarial).sub_(clean)
        length = _norm(moved).clamp_(
            min=torch.finfo(moved.dtype).tiny
        )  # a radius of 0 by a |d| of 0 would be NaN
        inside = (_each(self.epsilon, clean) / length).clamp_(max=1.0)
        return adversarial.copy_(moved.mul_(inside).add_(clean).clamp_(0.0, 1.0))


def _norm(images: Tensor) -> Tensor:
    """Euclidean length of each image, [B, 1, 1, 1]."""
    return images.square().sum(dim=tuple(range(1, images.dim())), keepdim=True).sqrt_()


def _unit(gradient: Tensor) -> Tensor:
    """Each image's gradient at length 1, zero where it is zero; of a tensor of its own."""
    import torch

    found = gradient.nan_to_num(nan=0.0)
    tiny = torch.finfo(found.dtype).tiny
    # the largest entry first: the squares of a saturated softmax's gradient, 1e-25 and less, would be zero
    found /= found.abs().amax(dim=tuple(range(1, found.dim())), keepdim=True).clamp_(min=tiny)
    return found.div_(_norm(found).clamp_(min=tiny))


def _direction(like: Tensor, generator: torch.Generator) -> Tensor:
    """Random unit vectors: equal for equal generators whatever the memory format, laid out like `like`."""
    import torch

    return _unit(_drawn(torch.randn, like, generator))


def _each(number: float | Tensor, images: Tensor) -> float | Tensor:
    """A number for all images as it is; [B] of them as [B, 1, 1, 1]."""
    if isinstance(number, float | int):
        return number
    return number.to(images.dtype).view(-1, *[1] * (images.dim() - 1))


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform in [0, 1): equal for equal generators whatever the memory format, laid out like `like`."""
    import torch

    return _drawn(torch.rand, like, generator)


def _drawn(draw: Callable[..., Tensor], like: Tensor, generator: torch.Generator) -> Tensor:
    """Random numbers that do not depend on the memory format, laid out like `like`."""
    import torch

    drawn = draw(like.shape, generator=generator, device=like.device, dtype=like.dtype)
    # strides too: with one channel both memory formats fit, and compiled code tells them apart
    return torch.empty_like(like).copy_(drawn)


def training_start(kind: str, ball: Threat, clean: Tensor, generator: torch.Generator) -> Tensor:
    """First x' of a training attack, by `attack.start`; those that are not clipped are projected by the first step."""
    import torch

    if kind == "gaussian":
        return _drawn(torch.randn, clean, generator).mul_(0.001).add_(clean)
    if kind == "half-uniform":
        return _uniform(clean, generator).mul_(ball.epsilon).add_(clean)
    return ball.random_start(clean, generator)


def count_factors(counts: Sequence[int], strength: float) -> list[float]:
    """Factor on the radius of each class, larger for rare ones (RobustLT); their mean over the images is 1.

    (1 - a) + a s_c / sum_k pi_k s_k with s_c = sqrt(ln(n_max / n_c)); classes of one size have 1.
    """
    rarity = [math.sqrt(math.log(max(counts) / n)) for n in counts]
    mean = sum(n * s for n, s in zip(counts, rarity, strict=True)) / sum(counts)
    return [1.0 - strength + strength * (s / mean if mean > 0 else 1.0) for s in rarity]


def require_radii(name: str, field: str, value: object) -> None:
    """Refuse a threat model whose steps cannot have a radius for each image, which a recipe's `field` asks for."""
    import torch

    kind = threat[name]
    clean, gradient = torch.full((2, 1, 3, 3), 0.5), torch.linspace(-1.0, 1.0, 18).view(2, 1, 3, 3)
    radii = torch.tensor([0.5, 1.0]) * min(kind.largest, 0.2)
    try:
        together = kind(radii).step(clean.clone(), gradient, clean, radii / 2)
        alone = [
            kind(r).step(clean[[i]].clone(), gradient[[i]], clean[[i]], r / 2)
            for i, r in enumerate(radii.tolist())
        ]
        able = torch.allclose(together, torch.cat(alone), atol=1e-6)
    except (TypeError, ValueError, RuntimeError):  # what a tensor in the place of a number raises
        able = False
    if not able:
        raise UserError(field, f"attack.threat = {name} takes one radius for all images", value)
