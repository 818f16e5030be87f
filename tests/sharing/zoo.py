"""RobustBench's CIFAR networks from the structure that its zoo documents, sharing no code with srat_fast."""

from __future__ import annotations

import torch
from torch import nn


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, before: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride > 1 or before != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, before: int, width: int, stride: int = 1) -> None:
        super().__init__()
        after = 4 * width
        self.conv1 = nn.Conv2d(before, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, after, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if stride > 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(y)))))
        return torch.relu(y + self.shortcut(x))


class PreActBlockV2(nn.Module):
    expansion = 1

    def __init__(self, before: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=1, padding=1, bias=False)
        if stride > 1 or before != width:
            self.shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride=stride, bias=False))

    def forward(self, x):
        y = torch.relu(self.bn1(x))
        kept = self.shortcut(y) if hasattr(self, "shortcut") else x
        return kept + self.conv2(torch.relu(self.bn2(self.conv1(y))))


def stages(network: nn.Module, block, depths: list[int]) -> int:
    before = 64
    for number, (width, depth) in enumerate(zip((64, 128, 256, 512), depths, strict=True), 1):
        blocks = [block(before, width, 1 if number == 1 else 2)]
        before = width * block.expansion
        blocks += [block(before, width) for _ in range(depth - 1)]
        setattr(network, f"layer{number}", nn.Sequential(*blocks))
    return before


class ResNet(nn.Module):
    def __init__(self, block, depths: list[int], num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.linear = nn.Linear(stages(self, block, depths), num_classes)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        for number in range(1, 5):
            x = getattr(self, f"layer{number}")(x)
        return self.linear(nn.functional.avg_pool2d(x, 4).view(len(x), -1))


class PreActResNet(nn.Module):
    def __init__(self, block, depths: list[int], num_classes: int = 10, bn_before_fc: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
        features = stages(self, block, depths)
        self.bn = nn.BatchNorm2d(features) if bn_before_fc else nn.Identity()
        self.linear = nn.Linear(features, num_classes)
        self.last = torch.relu if bn_before_fc else nn.Identity()

    def forward(self, x):
        x = self.conv1(x)
        for number in range(1, 5):
            x = getattr(self, f"layer{number}")(x)
        x = self.last(self.bn(x))
        return self.linear(nn.functional.avg_pool2d(x, 4).view(len(x), -1))


class WideBlock(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.same = before == after
        if not self.same:
            self.convShortcut = nn.Conv2d(before, after, 1, stride=stride, bias=False)

    def forward(self, x):
        y = torch.relu(self.bn1(x))
        kept = x if self.same else self.convShortcut(y)
        return kept + self.conv2(torch.relu(self.bn2(self.conv1(y))))


class WideGroup(nn.Module):
    def __init__(self, before: int, after: int, depth: int, stride: int) -> None:
        super().__init__()
        blocks = [
            WideBlock(before if i == 0 else after, after, stride if i == 0 else 1) for i in range(depth)
        ]
        self.layer = nn.Sequential(*blocks)

    def forward(self, x):
        return self.layer(x)


class WideResNet(nn.Module):
    def __init__(
        self, depth: int = 28, num_classes: int = 10, widen_factor: int = 10, sub_block1: bool = False
    ) -> None:
        super().__init__()
        n, k = (depth - 4) // 6, widen_factor
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block1 = WideGroup(16, 16 * k, n, 1)
        if sub_block1:
            self.sub_block1 = WideGroup(16, 16 * k, n, 1)
        self.block2 = WideGroup(16 * k, 32 * k, n, 2)
        self.block3 = WideGroup(32 * k, 64 * k, n, 2)
        self.bn1 = nn.BatchNorm2d(64 * k)
        self.fc = nn.Linear(64 * k, num_classes)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        x = torch.relu(self.bn1(x))
        return self.fc(nn.functional.avg_pool2d(x, 8).view(len(x), -1))


class _Normalised:
    """Mixed in before a network: buffers `mu` and `sigma`."""

    def __init__(self, *arguments, **named) -> None:
        super().__init__(*arguments, **named)
        self.register_buffer("mu", torch.full((1, 3, 1, 1), 0.5))
        self.register_buffer("sigma", torch.full((1, 3, 1, 1), 0.5))

    def forward(self, x):
        return super().forward((x - self.mu) / self.sigma)


class Modas2021PRIMEResNet18(_Normalised, ResNet):
    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes)


class Engstrom2019RobustnessNet(_Normalised, ResNet):
    def __init__(self) -> None:
        super().__init__(Bottleneck, [3, 4, 6, 3])


class Rice2020OverfittingNetL2(_Normalised, PreActResNet):
    def __init__(self) -> None:
        super().__init__(PreActBlockV2, [2, 2, 2, 2], bn_before_fc=True)


class Rice2020OverfittingNet(_Normalised, WideResNet):
    def __init__(self, depth: int = 34, widen_factor: int = 20) -> None:
        super().__init__(depth=depth, widen_factor=widen_factor)
