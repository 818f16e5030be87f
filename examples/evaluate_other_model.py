"""Accuracy of somebody else's network under our PGD, and an audit of that number."""

import torch

from srat_fast import audit, build_recipe
from srat_fast.data.memory import MemoryLoader
from srat_fast.data.split import load_split
from srat_fast.evaluation.accuracy import PgdSettings, accuracies, predict

CPU = torch.device("cpu")


def main(epochs: int = 30, audited: int = 100) -> dict:
    """Train a plain network without any defence, then judge it; return accuracies and the audit."""
    torch.manual_seed(0)
    split = load_split(build_recipe("digits").resolve())  # put the images here that you want to judge on
    layers = torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)
    foreign = torch.nn.Sequential(torch.nn.Flatten(), *layers)  # any module: images in [0, 1] -> logits
    optimizer = torch.optim.Adam(foreign.parameters(), lr=1e-2)
    for epoch in range(epochs):
        for images, labels in MemoryLoader(split.train, batch_size=64, device=CPU, shuffle=True).epoch(epoch):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(foreign(images), labels).backward()
            optimizer.step()
    test, results = MemoryLoader(split.test, batch_size=500, device=CPU), {}
    for name, attack in {"clean": None, "pgd-20": PgdSettings(20, step_size=0.025, epsilon=0.1)}.items():
        found = accuracies(*predict(foreign, test, attack), split.well, split.under)
        results[name] = found["overall"]
        print(f"{name:7} {found['overall']:.1%}, well {found['well']:.1%}, under {found['under']:.1%}")
    images, labels = next(test.epoch(0))
    pick = torch.arange(0, len(labels), max(1, len(labels) // audited))  # the test images lie class by class
    report = audit(foreign.eval(), images[pick], labels[pick], epsilon=0.1, autoattack=0, queries=100)
    print(f"audit of {len(pick)} images: {report['verdict']}", *report["problems"], sep="\n  ")
    return results | {"audit": report}


if __name__ == "__main__":
    main()
