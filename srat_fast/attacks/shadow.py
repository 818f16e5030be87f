"""The attack's own view of the network: a model enters; a forward pass without weight gradients leaves.

The shadow shares BatchNorm and head tensors with the model and keeps its own convolution weights, cast (or folded) once
a batch, so that none of the k attack passes casts or differentiates a weight. It is a module of its own: the model
never changes mode for the attack, so no compiled guard fails.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from srat_fast.models.resnet import ResNet18


class Shadow(nn.Module):
    """Images -> logits with the model's current weights, as data.

    Args:
        model: in train mode, on its device.
        dtype: of the convolutions and activations: bfloat16, or the model's own.
        bn: "batch" (batch statistics; the model's running statistics are updated on each pass, as in train mode) or
            "running" (running statistics, folded into the convolutions).
    """

    def __init__(self, model: ResNet18, *, dtype: torch.dtype, bn: str) -> None:
        super().__init__()
        self._fold = bn == "running"
        self._sources = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
        self._norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        counts = [] if self._fold else [norm.num_batches_tracked for norm in self._norms]
        self._counts = [count for count in counts if count is not None]
        self.network = copy.deepcopy(model).requires_grad_(False)
        self.network.projection = None  # the attack sees logits only
        self._convolutions = [m for m in self.network.modules() if isinstance(m, nn.Conv2d)]
        self._share(model, dtype)
        self.network.train(not self._fold)
        self.refresh()

    def _share(self, model: ResNet18, dtype: torch.dtype) -> None:
        """Point the copy's tensors at the model's wherever no cast is needed."""
        self.network.linear.weight.data = model.linear.weight.data
        if model.linear.bias is not None:
            self.network.linear.bias.data = model.linear.bias.data
        own = model.conv1.weight.dtype
        for convolution, source in zip(self._convolutions, self._sources, strict=True):
            if dtype == own and not self._fold:
                convolution.weight.data = source.weight.data
            else:
                convolution.weight.data = torch.empty_like(
                    source.weight, dtype=dtype
                )  # channels_last is preserved
                if self._fold:
                    bias = torch.zeros(source.out_channels, dtype=dtype, device=source.weight.device)
                    convolution.bias = nn.Parameter(bias, requires_grad=False)
        copies = [m for m in self.network.modules() if isinstance(m, nn.BatchNorm2d)]
        if self._fold:
            _without_norms(self.network)
            return
        for norm, source_norm in zip(copies, self._norms, strict=True):
            for name in ("weight", "bias"):
                getattr(norm, name).data = getattr(source_norm, name).data
            for name in ("running_mean", "running_var"):
                setattr(norm, name, getattr(source_norm, name))
            # `count` adds to all of them at once: here each would be a launch a pass
            norm.num_batches_tracked = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the model's present weights, in place; once a batch, before the attack."""
        if self._fold:
            self._refold()
        elif self._convolutions[0].weight.data_ptr() != self._sources[0].weight.data_ptr():
            torch._foreach_copy_([c.weight for c in self._convolutions], [s.weight for s in self._sources])

    def _refold(self) -> None:
        """weight * gain and bias - mean * gain of every layer, gain = weight / deviation of its BatchNorm.

        All layers at once where they can be: one after another it is 160 launches, 2 % of a captured step.
        """
        norms, means, variances = self._norms, [], []
        for norm in norms:
            assert norm.running_var is not None and norm.running_mean is not None
            means.append(norm.running_mean)
            variances.append(norm.running_var)
        gains = torch._foreach_add(variances, [norm.eps for norm in norms])
        torch._foreach_rsqrt_(gains)
        torch._foreach_mul_(gains, [norm.weight for norm in norms])
        for convolution, source, gain in zip(self._convolutions, self._sources, gains, strict=True):
            torch.mul(source.weight, gain.view(-1, 1, 1, 1), out=convolution.weight)
        shifts = torch._foreach_sub([norm.bias for norm in norms], torch._foreach_mul(means, gains))
        biases = [c.bias for c in self._convolutions if c.bias is not None]
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
        """Logits: [B, C, H, W] in [0, 1] -> [B, classes], in the model's own precision."""
        return self.network(images)


def _without_norms(network: ResNet18) -> None:
    """Replace every BatchNorm by the identity: its work is in the convolution before it."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
