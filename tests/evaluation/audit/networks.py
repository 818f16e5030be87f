"""Two small networks on real digits, kept beside this file; running it trains them anew.

honest.safetensors is adversarially trained, natural.safetensors is not; both are stored in half precision (31 KB each).
"""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from srat_fast.attacks.pgd import pgd
from srat_fast.attacks.threat import LInfBall
from srat_fast.data.arrays import ImageSet
from srat_fast.data.sources import load_arrays

HERE = Path(__file__).parent
EPSILON = 0.1


def small_network() -> nn.Sequential:
    """15,000 parameters, no BatchNorm: [B, 1, 8, 8] -> [B, 10]."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def load(name: str) -> nn.Sequential:
    """A stored network in float32 and eval mode."""
    model = small_network()
    state = safetensors.torch.load_file(HERE / f"{name}.safetensors")
    model.load_state_dict({key: tensor.float() for key, tensor in state.items()})
    return model.eval()


def tensors(part: ImageSet) -> tuple[Tensor, Tensor]:
    """[N, 1, 8, 8] float32 in [0, 1] and [N]."""
    images = torch.from_numpy(part.images).permute(0, 3, 1, 2).float() / 255
    return images.contiguous(), torch.from_numpy(part.labels)


def trained(images: Tensor, labels: Tensor, epochs: int, steps: int) -> nn.Module:
    """A network after some epochs of (for steps = 0: natural) training."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = small_network()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    ball = LInfBall(EPSILON)
    for _ in range(epochs):
        for index in torch.randperm(len(labels), generator=generator).split(64):
            batch, targets = images[index], labels[index]
            if steps:
                start = ball.random_start(batch, generator)
                batch = pgd(model, batch, targets, ball=ball, steps=steps, step_size=0.05, start=start)
            optimizer.zero_grad()
            functional.cross_entropy(model(batch), targets).backward()
            optimizer.step()
    return model.eval()


def main() -> None:
    """Train both and write them."""
    images, labels = tensors(load_arrays("digits", Path(), 8).train)
    for name, epochs, steps in (("honest", 20, 5), ("natural", 8, 0)):
        state = {
            key: tensor.half() for key, tensor in trained(images, labels, epochs, steps).state_dict().items()
        }
        safetensors.torch.save_file(state, HERE / f"{name}.safetensors")


if __name__ == "__main__":
    main()
