"""What the checks share: logits, and which images survive which attack, each computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from srat_fast.attacks.named import NamedAttack, Round, named_attack
from srat_fast.attacks.threat import Threat
from srat_fast.evaluation.survivors import attack_images
from srat_fast.registry import threat

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TensorBatches:
    """Images in memory, always in the same batches.

    Attributes:
        images: [N, C, H, W] in [0, 1].
        labels: [N].
        batch_size: images a batch.
    """

    images: Tensor
    labels: Tensor
    batch_size: int

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.images.device

    @property
    def images_per_epoch(self) -> int:
        """N."""
        return len(self.labels)

    def epoch(self, number: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """All batches, in order.

        Args:
            number: of no effect.

        Yields:
            images [B, C, H, W], labels [B].
        """
        yield from zip(self.images.split(self.batch_size), self.labels.split(self.batch_size), strict=True)


@dataclass
class Evidence:
    """The model on trial, with what has been measured so far.

    Attributes:
        model: images in [0, 1] -> logits, on the images' device.
        batches: the images.
        threat: threat model of the quoted number, by name.
        epsilon: its radius.
        step_size: of its PGD.
        steps: of its PGD.
        classes: C.
        seed: of every attack.
        progress: told (attack, images done, images in all).
        overshoot: the farthest that any example left its ball or [0, 1].
        examined: how many adversarial images have been looked at.
    """

    model: nn.Module
    batches: TensorBatches
    threat: str
    epsilon: float
    step_size: float
    steps: int
    classes: int
    seed: int
    progress: Progress
    overshoot: float = 0.0
    examined: int = 0
    _right: dict[tuple[str, float], Tensor] = field(default_factory=dict)

    @property
    def ball(self) -> Threat:
        """The threat model of the quoted number."""
        return threat[self.threat](self.epsilon)

    @property
    def labels(self) -> Tensor:
        """[N], on the CPU."""
        return self.batches.labels.cpu()

    def __len__(self) -> int:
        """N."""
        return self.batches.images_per_epoch

    @property
    def quoted(self) -> str:
        """The attack of the quoted number."""
        return f"pgd-{self.steps}"

    def right(self, name: str, epsilon: float | None = None) -> Tensor:
        """Which images an attack leaves right; measured once.

        Args:
            name: as in `srat_fast.attacks.named.NAMES`.
            epsilon: radius, with the step size scaled along; None for that of the quoted number.

        Returns:
            [N] bool on the CPU.

        Raises:
            EvaluationFailure: non-finite logits, or examples outside the ball.
        """
        radius = self.epsilon if epsilon is None else epsilon
        key = (name, radius)
        if key not in self._right:
            step = self.step_size * radius / self.epsilon
            attack = named_attack(
                name, threat_model=self.threat, epsilon=radius, step_size=step, classes=self.classes
            )
            label = name if epsilon is None else f"{name} eps {radius:.4g}"
            self._right[key] = self._survivors(attack, self.batches, label)
        return self._right[key]

    def survivors(self, name: str, rounds: tuple[Round, ...], only: Tensor) -> Tensor:
        """Which of some images an attack of one's own making leaves right.

        Args:
            name: for the progress.
            rounds: the attack.
            only: [N] bool on the CPU: the images to attack.

        Returns:
            [N] bool on the CPU; an image that is not attacked counts as right.

        Raises:
            EvaluationFailure: non-finite logits, or examples outside the ball.
        """
        right = torch.ones(len(self), dtype=torch.bool)
        if bool(only.any()):
            index = only.nonzero().squeeze(1).to(self.batches.device)
            some = TensorBatches(
                self.batches.images[index], self.batches.labels[index], self.batches.batch_size
            )
            right[only] = self._survivors(NamedAttack(name, self.ball, rounds, {}), some, name)
        return right

    def _survivors(self, attack: NamedAttack, batches: TensorBatches, label: str) -> Tensor:
        done, total = 0, batches.images_per_epoch

        def report(images: int) -> None:
            nonlocal done
            done += images
            self.progress(label, done, total)

        report(0)
        outcome, labels = attack_images(self.model, batches, attack, seed=self.seed, progress=report)
        self.overshoot = max(self.overshoot, outcome.overshoot)
        self.examined += total if attack.rounds else 0
        return outcome.predictions == labels

    def sample(self, count: int) -> Tensor:
        """Some of the images, spread over the whole set (which may be sorted by class).

        Args:
            count: at most so many.

        Returns:
            [N] bool on the CPU.
        """
        chosen = torch.zeros(len(self), dtype=torch.bool)
        chosen[torch.linspace(0, len(self) - 1, min(count, len(self))).round().long()] = True
        return chosen

    def logits(self, images: Tensor) -> Tensor:
        """The model's logits of one batch, in the mode that it is in, without gradients and without autocast.

        Args:
            images: [B, C, H, W].

        Returns:
            [B, C].
        """
        return self.logits_of(self.model, images)

    @staticmethod
    def logits_of(model: nn.Module, images: Tensor) -> Tensor:
        """Logits of one batch, without gradients and without autocast.

        Args:
            model: any.
            images: [B, C, H, W].

        Returns:
            [B, C].
        """
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            return model(images)

    def first(self, count: int) -> tuple[Tensor, Tensor]:
        """The images of `sample`.

        Args:
            count: at most so many.

        Returns:
            images [n, C, H, W], labels [n].
        """
        index = self.sample(count).nonzero().squeeze(1).to(self.batches.device)
        return self.batches.images[index], self.batches.labels[index]
