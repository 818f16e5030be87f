"""The project's own operations: SRAT's fused loss and the L-infinity attack step.

Enters: feature, logit and image tensors. Leaves: scalar losses with gradients, or the next adversarial images.
Knows nothing of `srat_fast`; every op takes ``backend=`` and `resolve_backend` says which one will run.
"""

from srat_kernels.backends import BACKENDS, available_backends, resolve_backend
from srat_kernels.linf.op import linf_step
from srat_kernels.loss.op import SratLoss, margin_loss, separation_loss, srat_loss

__all__ = [
    "BACKENDS",
    "SratLoss",
    "available_backends",
    "linf_step",
    "margin_loss",
    "resolve_backend",
    "separation_loss",
    "srat_loss",
]
