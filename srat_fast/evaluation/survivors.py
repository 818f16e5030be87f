"""Which images survive an attack, round by round: an image counts where every round leaves it right.

What it gives depends on weights, images, attack, seed and batch size only, so that it can stop after any round and be
taken up again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from srat_fast.attacks.named import NamedAttack
from srat_fast.errors import EvaluationFailure
from srat_fast.hardware import evaluating
from srat_fast.seeds import seed_for

#: All batches.
EVERY = slice(None)


@dataclass
class Outcome:
    """How far an attack has come.

    Attributes:
        predictions: [N] int64 on the CPU: what was predicted when the image was first wrong, else in the last round;
            -1 where the batch has not been reached.
        batch: the batch to go on with.
        round: the round of it to go on with.
        seconds: spent so far.
        overshoot: how far the farthest example left its ball or [0, 1]: rounding, or the outcome would not be.
    """

    predictions: Tensor
    batch: int = 0
    round: int = 0
    seconds: float = 0.0
    overshoot: float = 0.0


class Batches(Protocol):
    """Where images come from, always in the same batches: a `MemoryLoader` that does not shuffle is one."""

    @property
    def device(self) -> torch.device:
        """Where the batches are."""

    @property
    def images_per_epoch(self) -> int:
        """N."""

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(images [B, C, H, W] in [0, 1], labels [B]) pairs."""


def attack_images(
    model: nn.Module,
    loader: Batches,
    attack: NamedAttack,
    *,
    seed: int,
    outcome: Outcome | None = None,
    progress: Callable[[int], None] = lambda images: None,
    keep: Callable[[Outcome], None] = lambda outcome: None,
    mine: slice = EVERY,
) -> tuple[Outcome, Tensor]:
    """Run an attack over all images, or those of the batches `mine`, from where `outcome` stopped.

    The model is judged in eval mode without autocast; its mode is put back afterwards. The first round attacks every
    image, each later one those that are still right.
    """
    total = loader.images_per_epoch
    chosen = range(total)[mine]  # no set has more batches than images
    state = outcome or Outcome(torch.full((total,), -1))
    streams = [_stream(seed, attack_round.stream, loader.device) for attack_round in attack.rounds]
    before = time.perf_counter() - state.seconds
    labels, first = [], 0
    with evaluating(model), torch.autocast(loader.device.type, enabled=False):
        for batch, (images, targets) in enumerate(loader.epoch(0)):
            labels.append(targets.cpu())
            rows = slice(first, first + len(targets))
            first += len(targets)
            # drawn for batches that are done, too, so that the ones after them start as in one go
            starts = [r.start(images, g) for r, g in zip(attack.rounds, streams, strict=True)]
            if batch < state.batch or batch not in chosen:
                progress(len(targets))
                continue
            told = 0
            for number in range(max(1, len(attack.rounds))):
                if number >= state.round:
                    now, beyond = _round(
                        model,
                        images,
                        targets,
                        attack,
                        number,
                        starts,
                        (seed, batch),
                        state.predictions[rows],
                    )
                    state.predictions[rows] = now
                    state.overshoot = max(state.overshoot, beyond)
                    last = number + 1 >= len(attack.rounds)
                    state.batch, state.round = (batch + 1, 0) if last else (batch, number + 1)
                    state.seconds = time.perf_counter() - before
                    keep(state)
                done = len(targets) * (number + 1) // max(1, len(attack.rounds))
                progress(done - told)
                told = done
    return state, torch.cat(labels)


def _stream(seed: int, name: str, device: torch.device) -> torch.Generator:
    """A round's random numbers; PGD's first round starts as in training's evaluation."""
    purpose = ("evaluation",) if name == "pgd/0" else ("evaluation", name)
    return torch.Generator(device).manual_seed(seed_for(seed, *purpose))


def _round(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: NamedAttack,
    number: int,
    starts: list[Tensor | None],
    origin: tuple[int, int],
    known: Tensor,
) -> tuple[Tensor, float]:
    """Predictions [B] on the CPU after one more round on a batch (`known` are those before it), and the overshoot."""
    if not attack.rounds:
        return _predicted(model, images, attack.name).cpu(), 0.0
    # the first round attacks wrong images as well: PGD-20 is then what it is in training, example by example
    chosen = torch.arange(len(labels), device=labels.device)
    if number:
        chosen = chosen[known.to(labels.device) == labels]
        if not len(chosen):
            return known, 0.0
    start, ball = starts[number], attack.ball
    assert ball is not None, "an attack with rounds has a ball"
    seed = seed_for(origin[0], "evaluation", attack.rounds[number].stream, origin[1]) % 2**32
    # a whole batch is passed on as it is: indexing would change its memory layout, and with it the rounding
    everything = len(chosen) == len(labels)
    clean = images if everything else images[chosen]
    begin = start if everything or start is None else start[chosen]
    examples = attack.rounds[number].examples(
        model, clean, labels if everything else labels[chosen], begin, seed
    )
    overshoot = ball.overshoot(examples, clean)
    outside = int((overshoot > ball.tolerance).sum())
    if outside:
        raise EvaluationFailure(
            f"{attack.name}: {outside} of {len(clean)} images left the ball of eps {attack.epsilon:.4g} or [0, 1]; "
            "no accuracy is reported"
        )
    predictions = known.clone()
    predictions[chosen.cpu()] = _predicted(model, examples, attack.name).cpu()
    return predictions, float(overshoot.max())


def _predicted(model: nn.Module, images: Tensor, name: str) -> Tensor:
    """Predicted labels [B]; NaN has no largest logit."""
    with torch.no_grad():
        logits = model(images)
    broken = int((~logits.isfinite()).any(dim=1).sum())
    if broken:
        raise EvaluationFailure(
            f"{name}: the logits of {broken} of {len(images)} images are not finite; no accuracy is reported"
        )
    return logits.argmax(dim=1)
