"""CIFAR ResNet-18 with a projection head: images [B, C, H, W] in [0, 1] enter, logits and features leave.

Parameter names are those of the common CIFAR ResNet-18 (conv1, bn1, layer1..4, linear), so that a state dict can be
shared; `projection` is the only addition.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class PointwiseConv2d(nn.Conv2d):
    """1x1 convolution with stride, safe for any number of channels.

    oneDNN writes past its workspace in the weight gradient of a strided 1x1 channels_last convolution whose input
    channels do not fill a block (8 with AVX2, 16 with AVX-512; uxlfoundation/oneDNN issue 6035): it crashes or is
    silently wrong. Narrower layers read every stride-th pixel and convolve with stride 1: the same function.
    """

    BLOCK = 16

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.in_channels >= self.BLOCK:
            return super()._conv_forward(input, weight, bias)
        vertical, horizontal = self.stride
        return functional.conv2d(input[:, :, ::vertical, ::horizontal], weight, bias)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al. 2016).

    Args:
        inputs: channels in.
        outputs: channels out.
        stride: of the first convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                PointwiseConv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out)) + self.shortcut(x)
        return functional.relu(out)


class ResNet18(nn.Module):
    """ResNet-18 for small images of any size.

    Args:
        classes: C.
        channels: of the images, 1 or 3.
        width: channels of the first stage (64 in the paper); the features have 8 * width.
        feature_dim: output of the projection head; None for no head.
        mean: [channels] subtracted inside the model, with `std`; None for no normalisation.
        std: [channels] divided by inside the model.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        classes: int,
        *,
        channels: int = 3,
        width: int = 64,
        feature_dim: int | None = None,
        mean: Tensor | None = None,
        std: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.normalize = mean is not None
        if mean is not None and std is not None:
            self.register_buffer("mean", mean.float().view(1, -1, 1, 1))
            self.register_buffer("std", std.float().view(1, -1, 1, 1))
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._stage(width, width, 1)
        self.layer2 = self._stage(width, 2 * width, 2)
        self.layer3 = self._stage(2 * width, 4 * width, 2)
        self.layer4 = self._stage(4 * width, 8 * width, 2)
        self.linear = nn.Linear(8 * width, classes)
        # last, so that the other weights of a seed are the same with and without it
        self.projection: nn.Sequential | None = None
        if feature_dim is not None:
            self.projection = nn.Sequential(
                nn.Linear(8 * width, 8 * width), nn.ReLU(inplace=True), nn.Linear(8 * width, feature_dim)
            )

    @staticmethod
    def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        return nn.Sequential(BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs, 1))

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features: [B, C, H, W] in [0, 1] -> [B, 8 * width], in the weights' precision."""
        if self.normalize:
            x = (x - self.mean) / self.std
        # a no-op except where the convolutions have a precision of their own (attacks/shadow.py)
        x = x.to(self.conv1.weight.dtype)
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        # the pooled features leave autocast here: head and loss stay in full precision (performance.md)
        return x.to(self.linear.weight.dtype).mean(dim=(2, 3))

    def classify(self, features: Tensor) -> Tensor:
        """[B, 8 * width] -> logits [B, classes], outside autocast."""
        with torch.autocast(features.device.type, enabled=False):
            return self.linear(features)

    def separable(self, features: Tensor) -> Tensor:
        """z of Eq. 6: [B, 8 * width] -> unit rows, through the projection head where there is one, outside autocast."""
        with torch.autocast(features.device.type, enabled=False):
            return functional.normalize(
                features if self.projection is None else self.projection(features), dim=1
            )

    def forward(self, x: Tensor) -> Tensor:
        """Logits: [B, C, H, W] in [0, 1] -> [B, classes]."""
        return self.classify(self.features(x))
