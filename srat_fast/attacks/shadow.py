"""The attack's own view of the network: the model's present weights as data, cast or folded once a batch.

The shadow shares normalisation, head and whatever is not cast with the model, so that none of the k attack passes casts
or differentiates a weight. It is a module of its own: the model never changes mode for the attack, so no compiled
guard fails.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from srat_fast.models.classifier import Classifier

_CAST = (nn.modules.conv._ConvNd, nn.Linear)


class Shadow(nn.Module):
    """Images -> logits, or penultimate features, with the model's current weights, as data.

    Args:
        model: in train mode, on its device.
        dtype: of convolutions, linear layers and activations: bfloat16, or the model's own.
        bn: "batch" (batch statistics; the model's running statistics are updated on each pass, as in train mode),
            "frozen" (batch statistics, the running ones and their counters left alone) or "running" (running
            statistics; folded into the convolutions that the backbone pairs with them).
        features: give features; `network` then goes on from them to logits and separable rows.
    """

    def __init__(self, model: Classifier, *, dtype: torch.dtype, bn: str, features: bool = False) -> None:
        super().__init__()
        running = bn == "running"
        self._half, self._features = dtype == torch.bfloat16, features
        self.network = copy.deepcopy(model).requires_grad_(False)
        if not features:
            self.network.projection = None  # the attack sees logits only
        self._folds = _foldable(model) if running else []
        pairs = _foldable(self.network) if running else []
        self._folded = [convolution for convolution, _ in pairs]
        self._sources: list[Tensor] = []
        self._casts: list[Tensor] = []
        self._counts: list[Tensor] = []
        self._share(model, dtype, counts=bn == "batch")
        if bn == "frozen":
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._NormBase):
                    module.track_running_stats = False
        _replace(self.network, [norm for _, norm in pairs])
        self.network.train(not running)
        self.refresh()

    def _share(self, model: Classifier, dtype: torch.dtype, counts: bool) -> None:
        """Point the copy's tensors at the model's wherever none is cast or folded."""
        for name, copied in self.network.named_modules():
            source = model.get_submodule(name)
            cast = name.startswith("backbone") and isinstance(source, _CAST)
            for key, weight in source.named_parameters(recurse=False):
                own = copied.get_parameter(key)
                if copied in self._folded:
                    # channels_last is preserved
                    own.data = torch.empty_like(weight, dtype=dtype)
                elif cast and weight.dtype != dtype:
                    own.data = torch.empty_like(weight, dtype=dtype)
                    self._sources.append(weight)
                    self._casts.append(own)
                else:
                    own.data = weight.data
            for key, buffer in source.named_buffers(recurse=False):
                setattr(copied, key, buffer)
            counter = getattr(source, "num_batches_tracked", None)
            if counts and counter is not None and source.momentum is not None:
                # `count` adds to all of them at once: here each would be a launch a pass
                copied.num_batches_tracked = None
                self._counts.append(counter)
        for convolution, (_, norm) in zip(self._folded, self._folds, strict=True):
            if convolution.bias is None:
                bias = torch.zeros_like(norm.bias, dtype=dtype)
                convolution.bias = nn.Parameter(bias, requires_grad=False)

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the model's present weights, in place; once a batch, before the attack."""
        if self._casts:
            torch._foreach_copy_(self._casts, self._sources)
        if self._folds:
            self._refold()

    def _refold(self) -> None:
        """weight * gain and bias + (own bias - mean) * gain of every pair, gain = weight / deviation of its BatchNorm.

        All layers at once where they can be: one after another it is 160 launches, 2 % of a captured step.
        """
        norms, means, variances = [norm for _, norm in self._folds], [], []
        for norm in norms:
            assert norm.running_var is not None and norm.running_mean is not None
            means.append(norm.running_mean)
            variances.append(norm.running_var)
        gains = torch._foreach_add(variances, [norm.eps for norm in norms])
        torch._foreach_rsqrt_(gains)
        torch._foreach_mul_(gains, [norm.weight for norm in norms])
        for convolution, (source, _), gain in zip(self._folded, self._folds, gains, strict=True):
            torch.mul(source.weight, gain.view(-1, 1, 1, 1), out=convolution.weight)
        shifts = torch._foreach_sub([norm.bias for norm in norms], torch._foreach_mul(means, gains))
        for shift, (source, _), gain in zip(shifts, self._folds, gains, strict=True):
            if source.bias is not None:
                shift.addcmul_(source.bias, gain)
        biases = [c.bias for c in self._folded if c.bias is not None]
        torch._foreach_copy_(biases, shifts)

    @torch.no_grad()
    def count(self, passes: int) -> None:
        """Count forward passes as BatchNorm does, in `num_batches_tracked` of the model; once an attack.

        Args:
            passes: since the last call.
        """
        if self._counts:
            torch._foreach_add_(self._counts, passes)

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] in [0, 1] -> [B, classes], or [B, D], in the model's own precision."""
        # for what a backbone has beside layers that are cast: operations that need one precision find it
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self._half):
            return self.network.features(images) if self._features else self.network(images)


def _foldable(model: Classifier) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Its pairs whose BatchNorm has a gain and running statistics."""
    return [pair for pair in model.folds() if pair[1].affine and pair[1].track_running_stats]


def _replace(network: nn.Module, norms: list[nn.BatchNorm2d]) -> None:
    """Put the identity in place of BatchNorms whose work is in the convolutions before them."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if child in norms:
                setattr(module, name, nn.Identity())
