"""A small network trained on the same images, whose adversarial examples are tried on the audited one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from srat_fast.attacks.pgd import pgd
from srat_fast.attacks.threat import Threat
from srat_fast.data.arrays import ImageSet
from srat_fast.data.memory import MemoryLoader
from srat_fast.models.classifier import Classifier
from srat_fast.seeds import seed_for

_BATCH = 64


def train_surrogate(
    images: ImageSet,
    *,
    network: str,
    classes: int,
    ball: Threat,
    device: torch.device,
    width: int = 8,
    steps: int = 200,
    seed: int = 0,
    progress: Callable[[int], None] = lambda steps: None,
) -> nn.Module:
    """A narrow network, trained for a few steps on FGSM examples from random starts.

    Slightly robust surrogates transfer better to robust models than clean ones do. It shares nothing with the
    run but the training images: neither weights, nor method, nor engine.

    Args:
        images: the run's training images.
        network: its registered name.
        classes: C.
        ball: the threat model.
        device: where it is trained.
        width: of the network.
        steps: of Adam, 64 images each.
        seed: of weights, order and starts.
        progress: told of steps done.

    Returns:
        The network, in eval mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "surrogate"))
        model = Classifier(network, classes, channels=images.images.shape[3], width=width).to(device)
    loader = MemoryLoader(
        images, batch_size=_BATCH, device=device, seed=seed_for(seed, "surrogate", "order"), shuffle=True
    )
    noise = torch.Generator(device).manual_seed(seed_for(seed, "surrogate", "starts"))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    done, epoch = 0, 0
    while done < steps:
        for batch, labels in loader.epoch(epoch):
            if len(labels) < 2 or done == steps:  # BatchNorm has nothing to average over one image
                break
            start = ball.random_start(batch, noise)
            model.eval()
            examples = pgd(
                model, batch, labels, ball=ball, steps=1, step_size=1.25 * ball.epsilon, start=start
            )
            model.train()
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(model(examples), labels).backward()
            optimizer.step()
            done += 1
            progress(done)
        epoch += 1
        if epoch > steps:  # a set of one image
            break
    return model.eval()
