"""RobustBench's own classes of our networks: which class holds one, and its state dict under the names of that zoo."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from srat_fast.errors import UserError
from srat_fast.models.classifier import Classifier, CosineLinear
from srat_fast.models.files import model_from_state

_CIFAR10, _CIFAR100 = "robustbench.model_zoo.cifar10", "robustbench.model_zoo.cifar100"
_RESNET = "robustbench.model_zoo.architectures.resnet"
_WIDE = "robustbench.model_zoo.architectures.wide_resnet"
#: Network -> module, names to import, and call of the zoo's class, without normalisation inside.
_PLAIN = {
    "resnet18": (_RESNET, "ResNet, BasicBlock", "ResNet(BasicBlock, [2, 2, 2, 2], num_classes={classes})"),
    "resnet34": (_RESNET, "ResNet, BasicBlock", "ResNet(BasicBlock, [3, 4, 6, 3], num_classes={classes})"),
    "resnet50": (_RESNET, "ResNet, Bottleneck", "ResNet(Bottleneck, [3, 4, 6, 3], num_classes={classes})"),
    "preactresnet18": (
        _RESNET,
        "PreActResNet, PreActBlockV2",
        "PreActResNet(PreActBlockV2, [2, 2, 2, 2], num_classes={classes}, bn_before_fc=True)",
    ),
    "wrn-28-10": (_WIDE, "WideResNet", "WideResNet(depth=28, num_classes={classes}, widen_factor={factor})"),
    "wrn-34-10": (_WIDE, "WideResNet", "WideResNet(depth=34, num_classes={classes}, widen_factor={factor})"),
    "wrn-70-16": (_WIDE, "WideResNet", "WideResNet(depth=70, num_classes={classes}, widen_factor={factor})"),
}
_WIDE_10 = (_CIFAR10, "Rice2020OverfittingNet", "Rice2020OverfittingNet({depth}, {factor})")
_WIDE_100 = (_CIFAR100, "Wu2020AdversarialNet", "Wu2020AdversarialNet({depth}, {factor})")
#: (network, classes) -> the same for a network that normalises inside; None for any number of classes.
#:
#: A network that normalises inside cannot be folded into the plain class: the first convolution pads the *normalised*
#: image with zeros, and no convolution of the raw image does that at the border. These have buffers `mu` and `sigma`.
_NORMALISED = {
    ("resnet18", None): (_CIFAR10, "Modas2021PRIMEResNet18", "Modas2021PRIMEResNet18(num_classes={classes})"),
    ("resnet50", 10): (_CIFAR10, "Engstrom2019RobustnessNet", "Engstrom2019RobustnessNet()"),
    ("preactresnet18", 10): (_CIFAR10, "Rice2020OverfittingNetL2", "Rice2020OverfittingNetL2()"),
    ("preactresnet18", 100): (_CIFAR100, "Rice2020OverfittingNet", "Rice2020OverfittingNet()"),
    ("wrn-28-10", 10): _WIDE_10,
    ("wrn-34-10", 10): _WIDE_10,
    ("wrn-70-16", 10): _WIDE_10,
    ("wrn-28-10", 100): _WIDE_100,
    ("wrn-34-10", 100): _WIDE_100,
    ("wrn-70-16", 100): _WIDE_100,
}
#: Our names of the normalisation -> the zoo's.
_RENAMED = {"mean": "mu", "std": "sigma"}
#: What wrappers put before each name: torch.compile, DistributedDataParallel.
_WRAPPERS = ("_orig_mod.", "module.")


def check_zoo(model: Classifier, image_size: int) -> None:
    """Refuse a network that no class of the zoo can hold."""
    if model.name not in _PLAIN:
        problem = f"RobustBench has {', '.join(_PLAIN)}; model.name of this run is {model.name}"
        raise UserError("--format", problem, "robustbench")
    wide = model.name.startswith("wrn-")
    # the zoo's classes pool windows of a fixed size: 4 x 4 of an eighth of the image, or 8 x 8 of a quarter
    parts, window = (4, 8) if wide else (8, 4)
    smallest = parts * (window - 1) + 1
    whole = wide and (_published_factor(model) * model.width) % 64 == 0
    width = (
        f"model.width = 64{' or another that makes a whole k' if wide else ''}, this run has {model.width}"
    )
    needs = [
        (not isinstance(model.linear, CosineLinear), "model.head = linear, this run has cosine"),
        (whole or model.width == 64, width),
        (model.channels == 3, f"images with 3 channels, this run's have {model.channels}"),
        (
            -(-image_size // parts) == window,
            f"images of {smallest} to 32 pixels, this run's have {image_size}",
        ),
        (_class_of(model) is not None, f"model.normalize = none with {model.classes} classes"),
    ]
    wrong = [text for right, text in needs if not right]
    if wrong:
        raise UserError("--format", f"RobustBench's {model.name} needs {'; '.join(wrong)}", "robustbench")


def _published_factor(model: Classifier) -> int:
    return int(model.name.rpartition("-")[2])


def _class_of(model: Classifier) -> tuple[str, str, str] | None:
    """Module, names and call of the class that holds it."""
    if not model.normalize:
        return _PLAIN[model.name]
    return _NORMALISED.get((model.name, model.classes)) or _NORMALISED.get((model.name, None))


def zoo_snippet(model: Classifier) -> str:
    """The lines of Python that load it into the zoo's class."""
    found = _class_of(model)
    assert found is not None, "checked"
    module, names, call = found
    depth, factor = "", ""
    if model.name.startswith("wrn-"):
        depth, factor = model.name.split("-")[1], str(_published_factor(model) * model.width // 64)
    return (
        f"import torch; from {module} import {names}\n"
        f"model = {call.format(classes=model.classes, depth=depth, factor=factor)}.eval()\n"
        'model.load_state_dict(torch.load("model.pt", weights_only=True), strict=True)\n'
        "logits = model(images)"
    )


def zoo_state(model: Classifier) -> dict[str, Tensor]:
    """The state dict under the zoo's names, without the projection head, which plays no part in logits."""
    return {
        _RENAMED.get(name, name): tensor.detach().cpu().contiguous().clone()
        for name, tensor in model.state_dict().items()
        if not name.startswith("projection.")
    }


def zoo_bytes(model: Classifier) -> bytes:
    """The content of model.pt."""
    buffer = io.BytesIO()
    torch.save(zoo_state(model), buffer)
    return buffer.getvalue()


def read_zoo(model: Classifier, path: Path) -> Callable[[Tensor], Tensor]:
    """Images -> logits of the file, in a network of the same name."""
    state = foreign_state(torch.load(path, weights_only=True), model.name)
    return model_from_state(state, None, "--format", path, name=model.name)


def foreign_state(state: dict[str, Tensor], name: str | None) -> dict[str, Tensor]:
    """A state dict with names of a wrapper or of the zoo under ours; `name`: of the network where it is known."""
    ours = {theirs: own for own, theirs in _RENAMED.items()}
    plain = {}
    for key, tensor in state.items():
        while key.startswith(_WRAPPERS):
            key = key.partition(".")[2]
        # TRADES' WideResNet, and with it the zoo's, may have a second block1, which no forward pass reads
        if not (key.startswith("sub_block1.") and name is not None and name.startswith("wrn-")):
            plain[ours.get(key, key)] = tensor
    return plain
