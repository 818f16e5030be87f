"""Accuracy of somebody else's network under our PGD: any module that maps images in [0, 1] to logits."""

import torch

from srat_fast import build_recipe
from srat_fast.data.memory import MemoryLoader
from srat_fast.data.split import load_split
from srat_fast.evaluation.accuracy import PgdSettings, accuracies, predict


def main(epochs: int = 30) -> dict[str, float]:
    """Train a plain network without any defence, then judge it; return its accuracies."""
    torch.manual_seed(0)
    split = load_split(build_recipe("digits").resolve())  # replace by the images that you want to judge on
    foreign = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)
    )
    optimizer = torch.optim.Adam(foreign.parameters(), lr=1e-2)
    training = MemoryLoader(split.train, batch_size=64, device=torch.device("cpu"), shuffle=True)
    for epoch in range(epochs):
        for images, labels in training.epoch(epoch):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(foreign(images), labels).backward()
            optimizer.step()
    test = MemoryLoader(split.test, batch_size=500, device=torch.device("cpu"))
    results = {}
    for name, attack in {"clean": None, "pgd-20": PgdSettings(20, step_size=0.025, epsilon=0.1)}.items():
        found = accuracies(*predict(foreign, test, attack), split.well, split.under)
        results[name] = found["overall"]
        print(f"{name:7} {found['overall']:.1%}, well {found['well']:.1%}, under {found['under']:.1%}")
    return results


if __name__ == "__main__":
    main()
