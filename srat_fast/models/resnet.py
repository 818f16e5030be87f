"""CIFAR ResNet-18: 3x3 stem without pooling, four stages of two blocks.

Parameter names are those of the common CIFAR ResNet-18 (conv1, bn1, layer1..4), so that a state dict can be shared.
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


@model("resnet18")
class ResNet18(nn.Module):
    """ResNet-18 for small images of any size (He et al. 2016).

    Args:
        channels: of the images, 1 or 3.
        width: channels of the first stage (64 in the paper); the features have 8 * width.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.feature_dim = 8 * width
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._stage(width, width, 1)
        self.layer2 = self._stage(width, 2 * width, 2)
        self.layer3 = self._stage(2 * width, 4 * width, 2)
        self.layer4 = self._stage(4 * width, 8 * width, 2)

    @staticmethod
    def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        return nn.Sequential(BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs, 1))

    def features(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> the last stage's map, [B, 8 * width, H / 8, W / 8]."""
        x = functional.relu(self.bn1(self.conv1(images)))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def folds(self) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        """Every convolution with its BatchNorm: they are registered in turn."""
        convolutions = [m for m in self.modules() if isinstance(m, nn.Conv2d)]
        return list(
            zip(convolutions, (m for m in self.modules() if isinstance(m, nn.BatchNorm2d)), strict=True)
        )
