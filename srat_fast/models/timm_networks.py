"""Classifiers of the package timm as networks: timm:resnet18, timm:convnext_atto and whatever else it lists."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from torch import Tensor, nn

from srat_fast.errors import MissingPackage, UserError, did_you_mean
from srat_fast.registry import model

#: The only `model.width`: a name of timm says how wide its network is.
_WIDTH = 64


class TimmNetwork(nn.Module):
    """One of timm's classifiers without its last layer, with fresh weights, under timm's parameter names.

    Args:
        name: as `timm.list_models` has it.
        channels: of the images.
        width: 64: the name says how wide the network is.

    Raises:
        MissingPackage: timm is not installed.
        UserError: timm has no such network, its features cannot be had, or another width is asked for.
    """

    inner = "network"

    def __init__(self, name: str, channels: int, width: int) -> None:
        super().__init__()
        self.name = f"timm:{name}"
        timm = _timm(self.name)
        if not timm.is_model(name):
            problem = "timm has no such network" + did_you_mean(name, timm.list_models())
            raise UserError("model.name", problem, self.name)
        if width != _WIDTH:
            raise UserError("model.width", f"{_WIDTH} with {self.name}, whose name says its width", width)
        self.network = timm.create_model(name, pretrained=False, num_classes=0, in_chans=channels)
        self.head_name = self.network.pretrained_cfg.get("classifier")
        features = getattr(self.network, "head_hidden_size", None) or self.network.num_features
        if not isinstance(self.head_name, str) or not hasattr(self.network, "forward_head"):
            raise UserError("model.name", "it has no single last layer whose input can be had", self.name)
        self.feature_dim = int(features)

    def features(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> what the last layer reads, [B, D]."""
        if not images.is_meta:
            return self._features(images)
        try:
            return self._features(images)
        except (AssertionError, RuntimeError) as error:
            # of shapes only, before training; on a device it could be want of memory
            reason = " ".join(str(error).split())[:200]
            problem = f"cannot take images of {images.shape[2]} x {images.shape[3]} pixels: {reason}"
            raise UserError("model.name", problem, self.name) from None

    def _features(self, images: Tensor) -> Tensor:
        return self.network.forward_head(self.network.forward_features(images), pre_logits=True)


def _timm(name: str) -> ModuleType:
    try:
        import timm
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise UserError("model.name", f"timm cannot be imported: {error}", name) from None
        raise MissingPackage("timm", f"model.name = {name}", "pip install 'srat-fast[timm]'") from None
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that is not of this torch
        raise UserError("model.name", f"timm cannot be imported: {error}", name) from None
    return timm


@model("timm:<name>")
def timm_network(name: str) -> Callable[[int, int], TimmNetwork]:
    """What makes the network `name` of timm from (channels, width)."""
    return lambda channels, width: TimmNetwork(name, channels, width)
