"""The project's own operations: SRAT's fused loss and the L-infinity attack step.

Each op takes ``backend=``: `resolve_backend` says what will run, `last_backend` what did. Knows nothing of `srat_fast`.
"""

from srat_kernels.backends import BACKENDS, available_backends, kernel_launches, last_backend, resolve_backend
from srat_kernels.linf.op import linf_step
from srat_kernels.loss.op import PRECISIONS, SratLoss, margin_loss, separation_loss, srat_loss

__all__ = [
    "BACKENDS",
    "PRECISIONS",
    "SratLoss",
    "available_backends",
    "kernel_launches",
    "last_backend",
    "linf_step",
    "margin_loss",
    "resolve_backend",
    "separation_loss",
    "srat_loss",
]
