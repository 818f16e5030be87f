"""Classifier around any backbone: normalisation, precision, head and projection, so that what is attacked is served."""

from __future__ import annotations

from typing import Any, Protocol, Self, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from srat_fast.errors import UserError, require_one_of
from srat_fast.plugins import described
from srat_fast.registry import model


class Backbone(Protocol):
    """What `srat_fast.registry.model` registers a function of: (channels, width) -> an `nn.Module` with these.

    Its weights have the names that they have in it, beside the classifier's own `linear`, `projection`, `mean` and
    `std`, which it must not take. It casts nothing: the classifier gives it images in its weights' precision.

    It may say `head_name`, what state dicts call the last layer in place of `linear`, and `inner`, its only child,
    whose weights then have the names that they have in that.

    Attributes:
        feature_dim: D.
    """

    feature_dim: int

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features of [B, C, H, W]: [B, D], or a map [B, D, h, w] that the classifier averages."""


@runtime_checkable
class Foldable(Protocol):
    """A backbone that says which of its BatchNorms follow a convolution directly, and nothing else reads between."""

    def folds(self) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        """(convolution, the BatchNorm of its output): folded in attacks with `attack.bn = running`."""


class CosineLinear(nn.Linear):
    """scale <f/|f|, w/(|w| + gamma)> + shift: [B, D] -> [B, C] (Pang et al. 2020; gamma: Wu et al. 2021, code).

    Lengths below 1e-12 count as that, as in `functional.normalize`: zeros have cosine 0. `shift` is 0 in training; the
    name is not that of a linear layer's bias, so that weights of the one are never taken for those of the other.
    """

    shift: Tensor

    def __init__(self, features: int, classes: int, scale: float, gamma: float) -> None:
        super().__init__(features, classes, bias=False)
        self.scale, self.gamma = float(scale), float(gamma)
        self.register_buffer("shift", torch.zeros(classes))

    def forward(self, input: Tensor) -> Tensor:
        """Logits."""
        lengths = self.weight.norm(dim=1, keepdim=True) + self.gamma
        cosines = functional.linear(functional.normalize(input, dim=1), self.weight / lengths.clamp(min=TINY))
        return self.scale * cosines + self.shift


class ScaledLinear(nn.Linear):
    """s_c (w_c f + b_c): [B, D] -> [B, C], all s_c 1 until learnable weight scaling trains them (Kang et al. 2020)."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes)
        self.scales = nn.Parameter(torch.ones(classes))

    def forward(self, input: Tensor) -> Tensor:
        """Logits."""
        return super().forward(input) * self.scales


#: The smallest length that is divided by: that of `functional.normalize`.
TINY = 1e-12


class Classifier(nn.Module):
    """Images in [0, 1] -> logits, by a registered network.

    State dicts have the backbone's names without a prefix, and its name of the last layer (conv1.weight, fc.weight).

    Args:
        name: of the network.
        classes: C.
        channels: of the images.
        width: as the network takes it.
        projection_dim: output of the projection head; None for no head.
        mean: [channels] subtracted from the images, with `std`; None for no normalisation.
        std: [channels] that they are divided by.
        head: "linear", "cosine" (`CosineLinear`) or "scaled" (`ScaledLinear`).
        head_scale: factor on the cosines.
        head_gamma: added to the norm of each class's weight.

    Raises:
        UserError: no network or head of that name is known, or the network takes a name of the classifier's own.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        classes: int,
        *,
        channels: int = 3,
        width: int = 64,
        projection_dim: int | None = None,
        mean: Tensor | None = None,
        std: Tensor | None = None,
        head: str = "linear",
        head_scale: float = 1.0,
        head_gamma: float = 0.0,
    ) -> None:
        super().__init__()
        require_one_of("model.head", head, ("linear", "cosine", "scaled"))
        self.name, self.classes, self.channels, self.width = name, classes, channels, width
        self.projection_dim, self.normalize = projection_dim, mean is not None
        if mean is not None and std is not None:
            self.register_buffer("mean", mean.float().view(1, -1, 1, 1))
            self.register_buffer("std", std.float().view(1, -1, 1, 1))
        backbone = model[name](channels, width)
        self.head_name: str = getattr(backbone, "head_name", _HEAD)
        inner = getattr(backbone, "inner", "")
        self._prefix = f"{_BACKBONE}{inner}." if inner else _BACKBONE
        self.backbone: Any = backbone  # a `Backbone`: torch types every submodule as nn.Module
        names = {_BACKBONE + key for key in backbone.state_dict()}
        taken = [
            own for own in (self.head_name, *_OWN) if any(_below(key, self._prefix + own) for key in names)
        ]
        if taken:
            raise UserError("model.name", f"its backbone has a {min(taken)}, which is the classifier's", name)
        self.feature_dim: int = backbone.feature_dim
        self.linear: nn.Linear
        if head == "cosine":
            self.linear = CosineLinear(self.feature_dim, classes, head_scale, head_gamma)
        else:
            kind = ScaledLinear if head == "scaled" else nn.Linear
            self.linear = kind(self.feature_dim, classes)
        # last, so that the other weights of a seed are the same with and without it
        self.projection: nn.Sequential | None = None
        if projection_dim is not None:
            self.projection = nn.Sequential(
                nn.Linear(self.feature_dim, self.feature_dim),
                nn.ReLU(inplace=True),
                nn.Linear(self.feature_dim, projection_dim),
            )
        #: whether the backbone stays in eval mode: its BatchNorm is not to move (`stages.train`)
        self.rests = False
        self.register_state_dict_post_hook(_plain_names)
        self.register_load_state_dict_pre_hook(_prefixed_names)
        self.register_load_state_dict_post_hook(_plain_problems)

    def train(self, mode: bool = True) -> Self:
        """Train or eval mode, of the backbone only where it does not rest."""
        super().train(mode)
        if self.rests:
            self.backbone.eval()
        return self

    def arguments(self) -> dict[str, Any]:
        """What `Classifier` makes such a network from again, weights and normalisation aside; plain values."""
        found = {
            name: getattr(self, name) for name in ("name", "classes", "channels", "width", "projection_dim")
        }
        if isinstance(self.linear, CosineLinear):
            found |= {"head": "cosine", "head_scale": self.linear.scale, "head_gamma": self.linear.gamma}
        if isinstance(self.linear, ScaledLinear):
            found["head"] = "scaled"
        return found

    def folds(self) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        """The backbone's pairs of convolution and BatchNorm; none where it names none."""
        return self.backbone.folds() if isinstance(self.backbone, Foldable) else []

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features: [B, C, H, W] in [0, 1] -> [B, D], in the head's precision."""
        if self.normalize:
            images = (images - self.mean) / self.std
        # a no-op except where the backbone has a precision of its own (attacks/shadow.py)
        precision = next(self.backbone.parameters(), self.linear.weight).dtype
        x = self.backbone.features(images.to(precision))
        # features leave autocast before pooling: head and loss stay in full precision (performance.md)
        x = x.to(self.linear.weight.dtype)
        if x.dim() == 4:
            x = x.mean(dim=(2, 3))
        if x.dim() != 2 or x.shape[1] != self.feature_dim:
            allowed = f"[B, {self.feature_dim}] or [B, {self.feature_dim}, h, w]"
            where = described(self.backbone)
            problem = f"its features must be {allowed}, not {list(x.shape)}"
            raise UserError("model.name", problem if where is None else f"{where}: {problem}", self.name)
        return x

    def classify(self, features: Tensor) -> Tensor:
        """[B, D] -> logits [B, classes], outside autocast."""
        with torch.autocast(features.device.type, enabled=False):
            return self.linear(features)

    def separable(self, features: Tensor) -> Tensor:
        """z of Eq. 6: [B, D] -> unit rows, through the projection head where there is one, outside autocast."""
        with torch.autocast(features.device.type, enabled=False):
            return functional.normalize(
                features if self.projection is None else self.projection(features), dim=1
            )

    def forward(self, images: Tensor) -> Tensor:
        """Logits: [B, C, H, W] in [0, 1] -> [B, classes]."""
        return self.classify(self.features(images))


#: The last layer in the module, whatever state dicts call it.
_HEAD = "linear"
#: The other names at the top of a state dict that are the classifier's.
_OWN = ("projection", "mean", "std")
_BACKBONE = "backbone."


def _below(key: str, name: str) -> bool:
    """Whether a weight is `name`, or in the module of that name."""
    return key == name or key.startswith(f"{name}.")


def _plain_names(module: Classifier, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    """Takes "backbone." off and calls the head as the backbone does, keeping the order."""
    for key in list(state):
        if key.startswith(prefix):
            state[prefix + _plain_name(module, key.removeprefix(prefix))] = state.pop(key)


def _plain_name(module: Classifier, name: str) -> str:
    if _below(name, _HEAD):
        return module.head_name + name.removeprefix(_HEAD)
    return name.removeprefix(module._prefix)


def _prefixed_names(module: Classifier, state: dict[str, Any], prefix: str, *others: Any) -> None:
    """Puts "backbone." before all names but the classifier's own."""
    for key in list(state):
        name = key.removeprefix(prefix)
        if not key.startswith(prefix) or any(_below(name, own) for own in _OWN):
            continue
        if _below(name, module.head_name):
            state[prefix + _HEAD + name.removeprefix(module.head_name)] = state.pop(key)
        else:
            state[prefix + module._prefix + name] = state.pop(key)


def _plain_problems(module: Classifier, problems: Any) -> None:
    """Missing and unexpected names as state dicts have them."""
    for keys in cast(tuple[list[str], list[str]], problems):
        keys[:] = [
            key.replace(module._prefix, "", 1) if module._prefix in key else _plain_name(module, key)
            for key in keys
        ]
