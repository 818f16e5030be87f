"""CIFAR ResNets: 3x3 stem without pooling, four stages of post-activation blocks (He et al. 2016).

Parameter names are those of the common CIFAR ResNets (conv1, bn1, layer1..4), so that a state dict can be shared.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from srat_fast.registry import model


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
    """Two 3x3 convolutions with a shortcut: [B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""

    expansion = 1

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, activated."""
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out)) + self.shortcut(x)
        return functional.relu(out)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut; the inner ones have a quarter of the outputs' channels.

    The stride is that of the 3x3 convolution, as in all common code; the paper strides in the first 1x1.
    """

    expansion = 4

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = outputs // self.expansion
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, activated."""
        out = functional.relu(self.bn1(self.conv1(x)))
        out = functional.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out)) + self.shortcut(x)
        return functional.relu(out)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """A projection where the shape changes, else the identity."""
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    return nn.Sequential(PointwiseConv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """ResNet for small images of any size.

    Args:
        channels: of the images.
        width: channels of the stem (64 in the paper); the features have 8 * width * block.expansion.
        block: of all stages.
        depths: blocks of each stage.
    """

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(
        self, channels: int, width: int, block: type[BasicBlock | Bottleneck], depths: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for stage, depth in enumerate(depths):
            outputs = width * 2**stage * block.expansion
            first = block(inputs, outputs, 1 if stage == 0 else 2)
            rest = (block(outputs, outputs, 1) for _ in range(depth - 1))
            self.add_module(f"layer{stage + 1}", nn.Sequential(first, *rest))
            inputs = outputs
        self.feature_dim = inputs

    def features(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> the last stage's map, [B, feature_dim, H / 8, W / 8]."""
        x = functional.relu(self.bn1(self.conv1(images)))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def folds(self) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        """Every convolution with its BatchNorm: they are registered in turn."""
        convolutions = [m for m in self.modules() if isinstance(m, nn.Conv2d)]
        return list(
            zip(convolutions, (m for m in self.modules() if isinstance(m, nn.BatchNorm2d)), strict=True)
        )


@model("resnet18")
def resnet18(channels: int, width: int) -> ResNet:
    """ResNet-18, 11.17 million parameters at width 64."""
    return ResNet(channels, width, BasicBlock, (2, 2, 2, 2))


@model("resnet34")
def resnet34(channels: int, width: int) -> ResNet:
    """ResNet-34, 21.28 million parameters at width 64."""
    return ResNet(channels, width, BasicBlock, (3, 4, 6, 3))


@model("resnet50")
def resnet50(channels: int, width: int) -> ResNet:
    """ResNet-50, 23.52 million parameters at width 64."""
    return ResNet(channels, width, Bottleneck, (3, 4, 6, 3))
