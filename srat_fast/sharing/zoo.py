"""Weights of a ResNet-18 under the names of RobustBench's class, which loads them strictly.

Its class has no normalisation. A network that normalises inside cannot be folded into it either: the first convolution
pads the *normalised* image with zeros, and no convolution of the raw image does that at the border. Such a network fits
that zoo's `Modas2021PRIMEResNet18`, the same class with buffers `mu` and `sigma`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from srat_fast.errors import UserError
from srat_fast.models.classifier import Classifier
from srat_fast.models.resnet import BasicBlock

#: The zoo's classes: module and name, without and with normalisation inside.
PLAIN = ("robustbench.model_zoo.architectures.resnet", "ResNet")
NORMALISED = ("robustbench.model_zoo.cifar10", "Modas2021PRIMEResNet18")


class ZooResNet18(nn.Module):
    """The zoo's network, written anew: 64 channels, 3-channel input, 4 x 4 average pooling of a 4 x 4 map.

    Args:
        classes: C.
        normalised: with buffers `mu` and `sigma`.
    """

    mu: Tensor
    sigma: Tensor

    def __init__(self, classes: int, normalised: bool) -> None:
        super().__init__()
        self.normalised = normalised
        if normalised:
            self.register_buffer("mu", torch.zeros(1, 3, 1, 1))
            self.register_buffer("sigma", torch.ones(1, 3, 1, 1))
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256, 1))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, 2), BasicBlock(512, 512, 1))
        self.linear = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits: [B, 3, 32, 32] in [0, 1] -> [B, classes]."""
        if self.normalised:
            x = (x - self.mu) / self.sigma
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(functional.avg_pool2d(x, 4).flatten(1))


def check_zoo(model: Classifier, image_size: int) -> None:
    """Refuse a network that the zoo's class cannot hold.

    Args:
        model: to be exported.
        image_size: pixels of its images.

    Raises:
        UserError: another width, number of channels or image size.
    """
    needs = [
        (model.name == "resnet18", f"model.name = resnet18, this run has {model.name}"),
        (model.width == 64, f"model.width = 64, this run has {model.width}"),
        (model.channels == 3, f"images with 3 channels, this run's have {model.channels}"),
        (-(-image_size // 8) == 4, f"images of 32 pixels (25 to 32), this run's have {image_size}"),
    ]
    wrong = [text for right, text in needs if not right]
    if wrong:
        raise UserError("--format", f"RobustBench's ResNet-18 needs {'; '.join(wrong)}", "robustbench")


def zoo_state(model: Classifier) -> dict[str, Tensor]:
    """The state dict under the zoo's names; the projection head, which plays no part in logits, is left out.

    Args:
        model: that `check_zoo` accepts.

    Returns:
        Name -> tensor on the CPU, contiguous.
    """
    renamed = {"mean": "mu", "std": "sigma"}
    return {
        renamed.get(name, name): tensor.detach().cpu().contiguous().clone()
        for name, tensor in model.state_dict().items()
        if not name.startswith("projection.")
    }
