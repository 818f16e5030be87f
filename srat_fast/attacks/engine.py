"""PGD at speed: `attacks/pgd.py` on a `Shadow` of the model in training.

The shadow casts weights once a batch, has no weight gradients and folds BatchNorm with `bn="running"`; its forward and
backward may be compiled. The k steps are `pgd` itself: its semantics hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from srat_fast.attacks.inner import ce
from srat_fast.attacks.pgd import pgd
from srat_fast.attacks.shadow import Shadow
from srat_fast.attacks.threat import Threat
from srat_fast.models.batch import Batch, Gather
from srat_fast.models.classifier import Classifier


class AttackEngine:
    """PGD against a model in training.

    Args:
        model: in train mode, on its device, channels_last; its tensors must stay where they are from now on.
        dtype: of the convolutions: bfloat16, or the model's own.
        bn: "batch", "frozen" or "running", as `Shadow`.
        compiled: compile the shadow's forward and input gradient with torch.compile (at the first call of a shape).
        mode: `run.compile_mode`.
        features: whether the loss of its attacks reads features (`features = True`).
    """

    def __init__(
        self,
        model: Classifier,
        *,
        dtype: torch.dtype,
        bn: str,
        compiled: bool,
        mode: str = "auto",
        features: bool = False,
    ) -> None:
        self.shadow = Shadow(model, dtype=dtype, bn=bn, features=features)
        self._features = features
        self._forward: Callable[[Tensor], Tensor] = self.shadow
        if compiled:
            self._forward = torch.compile(self.shadow, fullgraph=True, dynamic=False, mode=compile_mode(mode))

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        ball: Threat,
        steps: int,
        step_size: float | Tensor,
        start: Tensor | None = None,
        loss: Callable[[Batch], Tensor] = ce,
        objective: Any = None,
        nonfinite: Tensor | None = None,
        zero: Tensor | None = None,
        gather: Gather | None = None,
        eager: bool = False,
        stop: str = "off",
    ) -> Tensor:
        """`attacks.pgd.pgd` on the model's present weights, in the images' own precision.

        `eager` does without the compiled forward: for the start-up check, and for shapes not worth a compilation.
        """
        self.shadow.refresh()
        chosen, passes = self.shadow if eager else self._forward, 0

        def forward(given: Tensor) -> Tensor:
            nonlocal passes  # a loss may ask for the clean images' too
            passes += 1
            return chosen(given)

        network = self.shadow.network
        parts = {name: getattr(network, name) for name in ("classify", "separable", "linear")}
        adversarial = pgd(
            SimpleNamespace(features=forward, **parts) if self._features else forward,
            images,
            labels,
            ball=ball,
            steps=steps,
            step_size=step_size,
            start=start,
            loss=loss,
            objective=objective,
            nonfinite=nonfinite,
            zero=zero,
            gather=gather,
            stop=stop,
        )
        self.shadow.count(passes)
        return adversarial


def compile_mode(requested: str) -> str:
    """torch.compile's mode for `run.compile_mode`: never its own CUDA graphs, unfit for a loop that feeds itself.

    "auto" is "default": most of the time is in convolutions, which either mode leaves to cuDNN unless a Triton one
    wins, and a run of minutes does not earn back minutes of search.
    """
    return "max-autotune-no-cudagraphs" if requested == "max-autotune" else "default"


@contextmanager
def compile_settings(device: torch.device) -> Iterator[None]:
    """What holds while torch.compile works for an engine; put back afterwards.

    Dynamo's limit of 8 programs per function would refuse the ninth run of a loop over methods. Inductor's fast
    launcher keeps pointers into modules that may be unloaded (pytorch issue 188607, mended in 2.14); a captured run
    gains nothing from it. Deterministic runs do not let a clock choose how sums are split. And inductor's cache must
    not give code for vectors of one width to a processor of another: its key has the width only where it is set, and
    code that steps by 8 floats and stores 16 writes past every array (seen with one cache folder for both).
    """
    import torch._dynamo.config as dynamo  # these take seconds to import
    import torch._inductor.config as inductor

    wanted: dict[str, Any] = {}
    if torch.__version__ < "2.14":  # compared as versions
        wanted["use_fast_triton_launcher"] = False
    if torch.are_deterministic_algorithms_enabled():
        wanted["deterministic"] = True
    if device.type == "cpu":
        from torch._inductor.cpu_vec_isa import pick_vec_isa

        wanted["cpp.simdlen"] = pick_vec_isa().bit_width()
    there = {
        name: value for name, value in wanted.items() if hasattr(inductor, name.split(".")[0])
    }  # not in torch 2.11
    with dynamo.patch(recompile_limit=dynamo.accumulated_recompile_limit), inductor.patch(there):
        yield
