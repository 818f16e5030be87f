"""What every op promises beside its numbers: arguments, backends, registration with torch, imports."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from srat_kernels import (
    BACKENDS,
    available_backends,
    kernel_launches,
    last_backend,
    linf_step,
    margin_loss,
    resolve_backend,
    separation_loss,
    srat_loss,
)
from srat_kernels.linf.op import linf_step_inplace, linf_step_new
from srat_kernels.loss.op import Settings, Vectors, srat_backward, srat_forward


@pytest.fixture
def inputs(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Features [12, 6], logits [12, 4], labels [12]."""
    features = normalize(torch.randn(12, 6), dim=1).to(device).requires_grad_()
    return (
        features,
        torch.randn(12, 4, device=device, requires_grad=True),
        torch.randint(4, (12,), device=device),
    )


def test_names_and_order_of_the_backends() -> None:
    assert BACKENDS == ("auto", "triton", "torch")
    interpreted = not torch.cuda.is_available()
    assert available_backends("cpu") == (("torch", "triton") if interpreted else ("torch",))
    assert available_backends("cuda") == ("triton", "torch")
    assert resolve_backend("auto", "cpu") == "torch", "the interpreter is never a default"
    assert resolve_backend("auto", "cuda") == "triton"


def test_a_backend_that_cannot_run_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    z, labels = torch.ones(2, 2), torch.zeros(2, dtype=torch.long)
    for backend in ("triton", "cuda", ""):
        with pytest.raises(ValueError, match="on cpu allowed are auto, torch"):
            separation_loss(z, labels, backend=backend)


def test_auto_leaves_what_no_kernel_computes_to_torch(inputs: tuple[Tensor, ...]) -> None:
    features, logits, labels = inputs
    loss = srat_loss(features.double(), logits, labels)
    assert last_backend("srat_loss") == "torch"
    assert loss.separation.dtype == torch.float64
    images = torch.rand(4, dtype=torch.float64)
    linf_step(images, images, images, step_size=0.1, epsilon=0.1)
    assert last_backend("linf_step") == "torch"


def test_triton_by_name_refuses_float64(inputs: tuple[Tensor, ...]) -> None:
    features, logits, labels = inputs
    with pytest.raises(TypeError, match=r"features: torch\.float64 cannot run"):
        separation_loss(features.double(), labels, backend="triton")
    with pytest.raises(TypeError, match=r"logits: torch\.float64 cannot run"):
        srat_loss(features, logits.double(), labels, backend="triton")
    half = torch.rand(4, dtype=torch.float16, device=features.device)
    with pytest.raises(TypeError, match=r"adversarial: torch\.float16 cannot run"):
        linf_step(half, half, half, step_size=0.1, epsilon=0.1, backend="triton")


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"features": lambda z: z.long()}, TypeError, "features: a floating-point"),
        ({"features": lambda z: z[0]}, ValueError, "features: 2 axes"),
        ({"features": lambda z: z[:0]}, ValueError, "features: is empty"),
        ({"features": lambda z: z[:5]}, ValueError, r"labels: shape \(5,\)"),
        ({"features": lambda z: z.to("meta")}, ValueError, "labels: are on"),
        ({"logits": lambda x: x[:, 0]}, ValueError, "logits: 2 axes"),
        ({"logits": lambda x: x.to("meta")}, ValueError, "labels: are on"),
        ({"labels": lambda y: y.float()}, TypeError, "labels: an int64 or int32"),
        ({"labels": lambda y: y[:3]}, ValueError, r"labels: shape \(12,\)"),
        ({"class_weights": lambda _: torch.ones(3)}, ValueError, r"class_weights: \[4\]"),
        ({"margins": lambda _: torch.ones(4, dtype=torch.long)}, TypeError, "margins: a floating-point"),
        ({"bias": lambda _: torch.ones(3)}, ValueError, r"bias: \[4\]"),
        ({"bias": lambda _: torch.ones(4, device="meta")}, ValueError, "bias: .* on meta"),
        ({"bias": lambda _: torch.ones(4).long()}, TypeError, "bias: a floating-point"),
        ({"inverse_temperature": lambda _: torch.ones(1, 4)}, ValueError, "inverse_temperature: 1 axes"),
        ({"inverse_temperature": lambda _: torch.ones(5)}, ValueError, r"inverse_temperature: \[4\]"),
        ({"inverse_temperature": lambda _: 1.0}, TypeError, "inverse_temperature: a floating-point"),
        ({"temperature": lambda _: 0.0}, ValueError, "temperature = 0.0"),
        ({"separation_weight": lambda _: -1.0}, ValueError, "separation_weight = -1.0"),
        ({"scale": lambda _: float("nan")}, ValueError, "scale = nan"),
        ({"focal_gamma": lambda _: -1.0}, ValueError, "focal_gamma = -1.0"),
        ({"empty_anchors": lambda _: "skip"}, ValueError, "allowed are drop, zero"),
        ({"focal_weighting": lambda _: "both"}, ValueError, "allowed are outside, inside"),
        ({"reduction": lambda _: "sum"}, ValueError, "allowed are weighted_mean, batch"),
        ({"precision": lambda _: "fp8"}, ValueError, "precision = 'fp8'"),
    ],
)
def test_arguments_that_are_refused(
    change: dict[str, Callable[[Any], Any]],
    error: type[Exception],
    text: str,
    backend: str,
    inputs: tuple[Tensor, ...],
) -> None:
    arguments: dict[str, Any] = dict(zip(("features", "logits", "labels"), inputs, strict=True))
    for name, function in change.items():
        arguments[name] = function(arguments.get(name))
    with pytest.raises(error, match=text):
        srat_loss(**arguments, backend=backend)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU multiplies bfloat16 rightly")
def test_the_interpreter_refuses_bf16_dots(inputs: tuple[Tensor, ...]) -> None:
    with pytest.raises(ValueError, match="allowed are tf32x3, ieee"):
        separation_loss(inputs[0], inputs[2], precision="bf16", backend="triton")


@pytest.mark.parametrize("label", [-1, 4])
def test_a_label_out_of_range_is_refused_on_a_cpu(label: int) -> None:
    labels = torch.tensor([0, label])
    with pytest.raises(ValueError, match="labels: 0 to 3 are allowed"):
        margin_loss(torch.randn(2, 4), labels)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_out_of_range_is_refused_on_a_cpu(bad: float) -> None:
    with pytest.raises(ValueError, match="inverse_temperature: finite numbers > 0"):
        margin_loss(torch.randn(2, 2), torch.tensor([0, 1]), inverse_temperature=torch.tensor([1.0, bad]))


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_linf_arguments_that_are_refused(backend: str, device: torch.device) -> None:
    x = torch.rand(2, 3, device=device)
    numbers = {"step_size": 0.1, "epsilon": 0.1, "backend": backend}
    for bad in (
        {"adversarial": x, "gradient": x[:1], "clean": x},
        {"adversarial": x, "gradient": x, "clean": x.to("meta")},
        {"adversarial": x[:0], "gradient": x[:0], "clean": x[:0]},
        {"adversarial": x, "gradient": x, "clean": x, "epsilon": 0.0},
        {"adversarial": x, "gradient": x, "clean": x, "step_size": -1.0},
        {"adversarial": x[:1].expand(2, 3), "gradient": x, "clean": x, "inplace": True},
        {"adversarial": x, "gradient": x, "clean": x, "nonfinite": torch.zeros(1, device="meta").long()},
        {"adversarial": x, "gradient": x, "clean": x, "zero": torch.zeros(1, device="meta").long()},
    ):
        with pytest.raises(ValueError, match=r"shape|is on|empty|a finite number|expanded"):
            linf_step(**{**numbers, **bad})
    for bad in (
        {"adversarial": x, "gradient": x.long(), "clean": x},
        {"adversarial": x, "gradient": x, "clean": x.double()},
        {"adversarial": x, "gradient": x, "clean": x, "nonfinite": torch.zeros(1, device=device)},
        {"adversarial": x, "gradient": x, "clean": x, "zero": torch.zeros(1, device=device)},
    ):
        with pytest.raises(TypeError):
            linf_step(**{**numbers, **bad})


def test_opcheck_of_the_loss(inputs: tuple[Tensor, ...], device: torch.device) -> None:
    features, logits, labels = inputs
    settings = Settings(2.0, 0.07, True, 30.0, 1.0, "inside", True, "tf32x3")
    vectors = [torch.rand(4, device=device) for _ in Vectors._fields]
    torch.library.opcheck(srat_forward, (features, logits, labels, *vectors, *settings))
    torch.library.opcheck(srat_forward, (features, None, labels, *Vectors(), *settings))
    torch.library.opcheck(srat_forward, (None, logits, labels, None, None, *vectors[:2], *settings))
    torch.library.opcheck(srat_forward, (None, logits, labels, *Vectors(), *settings))
    with torch.no_grad():
        saved = srat_forward(features, logits, labels, *vectors, *settings)[3:]
        one = torch.ones((), device=device)
        torch.library.opcheck(
            srat_backward, (features.detach(), labels, *saved, one, None, one, torch.float32, *settings)
        )
        torch.library.opcheck(
            srat_backward, (None, labels, *saved, None, one, None, torch.float32, *settings)
        )


def test_opcheck_of_the_step(device: torch.device) -> None:
    x = torch.rand(2, 3, 4, 4, device=device).contiguous(memory_format=torch.channels_last)
    count = torch.zeros(1, dtype=torch.int64, device=device)
    for op in (linf_step_new, linf_step_inplace):
        torch.library.opcheck(op, (x.clone(), torch.randn_like(x), x, 0.1, 0.1, count, None))
        torch.library.opcheck(op, (x.clone(), torch.randn_like(x), x, 0.1, 0.1, None, count))


def test_a_compiled_step_has_no_graph_break(inputs: tuple[Tensor, ...], device: torch.device) -> None:
    """Loss, both gradients and the image step in one graph; the kernels run inside of it, at every call."""
    features, logits, labels = inputs
    images, clean = torch.rand(2, 5, device=device), torch.rand(2, 5, device=device)
    vectors = {name: torch.rand(4, device=device) + 0.5 for name in Vectors._fields}

    def both(z: Tensor, x: Tensor, image: Tensor, count: Tensor, backend: str) -> tuple[Tensor, ...]:
        loss = srat_loss(z, x, labels, **vectors, backend=backend)
        moved = linf_step(
            image, image - clean, clean, step_size=0.1, epsilon=0.2, nonfinite=count, backend=backend
        )
        linf_step(image, moved, clean, step_size=0.1, epsilon=0.2, inplace=True, backend=backend)
        return loss.total, moved

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager", dynamic=False)
    results = []
    for function, backend in ((compiled, "triton"), (compiled, "triton"), (both, "torch")):
        image, count = images.clone(), torch.zeros(1, dtype=torch.int64, device=device)
        before = kernel_launches()
        total, moved = function(features, logits, image, count, backend)
        gradients = torch.autograd.grad(total, (features, logits))
        used = {name: n - before.get(name, 0) for name, n in kernel_launches().items()}
        if backend == "triton":
            assert used == {"forward_kernel": 1, "finish_kernel": 1, "backward_kernel": 1, "linf_kernel": 2}
        results.append((total, moved, image, *gradients))
    for first, second, reference in zip(*results, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)
        torch.testing.assert_close(first, reference)


def test_importing_the_package_does_not_import_triton() -> None:
    code = "import sys, srat_kernels; assert 'triton' not in sys.modules, 'imported'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_triton_the_package_works_and_says_so() -> None:
    code = """
import importlib.util, sys, torch
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "triton" else found(name, *rest)
sys.modules["triton"] = None  # an import statement raises ImportError
import srat_kernels
assert srat_kernels.available_backends("cuda") == ("torch",)
z, y = torch.eye(2), torch.zeros(2, dtype=torch.long)
srat_kernels.separation_loss(z, y)
assert srat_kernels.last_backend("separation_loss") == "torch"
try:
    srat_kernels.separation_loss(z, y, backend="triton")
except ValueError as error:
    assert "allowed are auto, torch" in str(error), error
else:
    raise AssertionError("no error")
try:
    import srat_kernels.jit
except ImportError as error:
    assert "pip install triton" in str(error), error
else:
    raise AssertionError("no error")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
