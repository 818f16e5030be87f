"""A few test images with their adversarial examples, for a report to show."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from srat_fast.attacks.pgd import pgd
from srat_fast.data.arrays import ImageSet
from srat_fast.evaluation.accuracy import PgdSettings
from srat_fast.hardware import evaluating
from srat_fast.record import write_atomically
from srat_fast.seeds import seed_for

#: Pictures a run keeps.
_COUNT = 10


def sample_examples(
    model: nn.Module,
    images: ImageSet,
    attack: PgdSettings,
    *,
    device: torch.device,
    seed: int,
    count: int = _COUNT,
) -> dict[str, np.ndarray]:
    """The first test images of the classes in turn, and PGD examples of them; fp32, eager, eval mode."""
    rank = np.zeros(len(images), np.int64)  # position of each image within its class
    for label in np.unique(images.labels):
        of_class = np.flatnonzero(images.labels == label)
        rank[of_class] = np.arange(len(of_class))
    chosen = images.select(np.lexsort((images.labels, rank))[:count])
    clean = torch.from_numpy(chosen.images).permute(0, 3, 1, 2).to(device).float() / 255
    labels = torch.from_numpy(chosen.labels).to(device)
    ball = attack.ball
    noise = torch.Generator(device).manual_seed(seed_for(seed, "samples"))
    with evaluating(model), torch.autocast(device.type, enabled=False):
        adversarial = pgd(
            model,
            clean,
            labels,
            ball=ball,
            steps=attack.steps,
            step_size=attack.step_size,
            start=ball.random_start(clean, noise),
        )
        with torch.no_grad():
            predictions = [model(x).argmax(dim=1).cpu().numpy() for x in (clean, adversarial)]
    return {
        "clean": chosen.images,
        "adversarial": _pixels(adversarial),
        "labels": chosen.labels,
        "clean_predictions": predictions[0],
        "adversarial_predictions": predictions[1],
        "epsilon": np.array(attack.epsilon),
        "steps": np.array(attack.steps),
    }


def save_samples(path: Path, samples: dict[str, np.ndarray]) -> None:
    """Write samples, whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **samples)
    write_atomically(path, buffer.getvalue())


def _pixels(images: Tensor) -> np.ndarray:
    """[N, C, H, W] in [0, 1] -> [N, H, W, C] uint8."""
    return (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
