"""Pre-activation networks: PreActResNet-18 (He et al. 2016b) and WideResNets (Zagoruyko and Komodakis 2016).

BatchNorm and ReLU stand before each convolution, so no BatchNorm can be folded into the convolution before it: the
shortcut reads between. Parameter names are those of the code that the field shares (RobustBench, TRADES).
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional

from srat_fast.models.resnet import PointwiseConv2d
from srat_fast.registry import model

#: Channels of a WideResNet's stem, whatever its width.
_STEM = 16


class PreActBlock(nn.Module):
    """Two 3x3 convolutions, BatchNorm and ReLU before each; a projected shortcut reads what the first ReLU gives.

    [B, inputs, H, W] -> [B, outputs, H / stride, W / stride].
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.projects = stride != 1 or inputs != outputs
        if self.projects:
            self._add_projection(PointwiseConv2d(inputs, outputs, 1, stride, bias=False))

    def _add_projection(self, convolution: nn.Conv2d) -> None:
        self.shortcut = nn.Sequential(convolution)

    def _project(self, x: Tensor) -> Tensor:
        return self.shortcut(x)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, not activated."""
        active = functional.relu(self.bn1(x))
        out = self.conv2(functional.relu(self.bn2(self.conv1(active))))
        return out + (self._project(active) if self.projects else x)


class WideBlock(PreActBlock):
    """The same with its projection under the name that WideResNet code gives it."""

    def _add_projection(self, convolution: nn.Conv2d) -> None:
        self.convShortcut = convolution

    def _project(self, x: Tensor) -> Tensor:
        return self.convShortcut(x)


def _stage(block: type[PreActBlock], inputs: int, outputs: int, depth: int, stride: int) -> nn.Sequential:
    first = block(inputs, outputs, stride)
    return nn.Sequential(first, *(block(outputs, outputs, 1) for _ in range(depth - 1)))


@model("preactresnet18")
class PreActResNet18(nn.Module):
    """PreActResNet-18 in its CIFAR form, 11.17 million parameters at width 64, with BatchNorm and ReLU at the end.

    Args:
        channels: of the images.
        width: channels of the stem (64 in the paper); the features have 8 * width.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.feature_dim = 8 * width
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.layer1 = _stage(PreActBlock, width, width, 2, 1)
        self.layer2 = _stage(PreActBlock, width, 2 * width, 2, 2)
        self.layer3 = _stage(PreActBlock, 2 * width, 4 * width, 2, 2)
        self.layer4 = _stage(PreActBlock, 4 * width, 8 * width, 2, 2)
        self.bn = nn.BatchNorm2d(8 * width)

    def features(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> the last stage's map, activated: [B, 8 * width, H / 8, W / 8]."""
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(images)))))
        return functional.relu(self.bn(x))


class WideResNet(nn.Module):
    """WideResNet-depth-k, whose first group has 16 k channels; k = factor * width / 64.

    Width 64 is thus the published network, and wrn-28-10 of width 32 is WideResNet-28-5. The stem keeps 16 channels.

    Args:
        channels: of the images.
        width: 64 for the published network.
        depth: 6 n + 4, with n blocks a group.
        factor: the published k.
    """

    head_name = "fc"
    block1: nn.Module
    block2: nn.Module
    block3: nn.Module

    def __init__(self, channels: int, width: int, depth: int, factor: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        first = max(1, 16 * factor * width // 64)
        self.feature_dim = 4 * first
        self.conv1 = nn.Conv2d(channels, _STEM, 3, 1, 1, bias=False)
        inputs = _STEM
        for group, outputs in enumerate((first, 2 * first, 4 * first)):
            stage = _stage(WideBlock, inputs, outputs, blocks, 1 if group == 0 else 2)
            self.add_module(f"block{group + 1}", nn.Sequential(OrderedDict(layer=stage)))
            inputs = outputs
        self.bn1 = nn.BatchNorm2d(inputs)
        for convolution in (m for m in self.modules() if isinstance(m, nn.Conv2d)):
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> the last group's map, activated: [B, feature_dim, H / 4, W / 4]."""
        x = self.block3(self.block2(self.block1(self.conv1(images))))
        return functional.relu(self.bn1(x))


@model("wrn-28-10")
def wrn_28_10(channels: int, width: int) -> WideResNet:
    """WideResNet-28-10, 36.48 million parameters at width 64."""
    return WideResNet(channels, width, 28, 10)


@model("wrn-34-10")
def wrn_34_10(channels: int, width: int) -> WideResNet:
    """WideResNet-34-10, 46.16 million parameters at width 64."""
    return WideResNet(channels, width, 34, 10)


@model("wrn-70-16")
def wrn_70_16(channels: int, width: int) -> WideResNet:
    """WideResNet-70-16, 266.8 million parameters at width 64."""
    return WideResNet(channels, width, 70, 16)
