"""RobustBench's CIFAR ResNet-18 from the structure that its zoo documents, sharing no code with srat_fast."""

from __future__ import annotations

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if stride > 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, block: type[Block], depths: list[int], num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        before = 64
        for number, (after, depth) in enumerate(zip((64, 128, 256, 512), depths, strict=True), 1):
            blocks = [block(before, after, 1 if number == 1 else 2)]
            blocks += [block(after, after) for _ in range(depth - 1)]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
            before = after
        self.linear = nn.Linear(512, num_classes)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        for number in range(1, 5):
            x = getattr(self, f"layer{number}")(x)
        return self.linear(nn.functional.avg_pool2d(x, 4).view(len(x), -1))


class Modas2021PRIMEResNet18(ResNet):
    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(Block, [2, 2, 2, 2], num_classes)
        self.register_buffer("mu", torch.full((1, 3, 1, 1), 0.5))
        self.register_buffer("sigma", torch.full((1, 3, 1, 1), 0.5))

    def forward(self, x):
        return super().forward((x - self.mu) / self.sigma)
