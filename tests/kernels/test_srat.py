"""Eq. 7 in one forward and one backward launch: values, gradients, launches, configurations, dirty memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from srat_fast.training.capture import capturing
from srat_kernels import SratLoss, kernel_launches, last_backend, srat_loss
from srat_kernels.loss import kernels
from srat_kernels.loss.op import Settings, Vectors
from srat_kernels.tuning import Config
from tests.kernels import oracle
from tests.kernels.accuracy import assert_as_accurate

MARGIN: dict[str, Any] = {
    "scale": 30.0,
    "focal_gamma": 1.0,
    "focal_weighting": "inside",
    "reduction": "weighted_mean",
}


def batch_of(
    size: int, device: torch.device, dims: int = 32, classes: int = 10
) -> tuple[Tensor, Tensor, Tensor]:
    features = normalize(torch.randn(size, dims), dim=1).to(device).requires_grad_()
    logits = torch.randn(size, classes, device=device).requires_grad_()
    return features, logits, torch.randint(classes, (size,), device=device)


def vectors(device: torch.device, classes: int = 10) -> dict[str, Tensor]:
    return {
        "class_weights": torch.logspace(0, 2, classes, device=device),
        "margins": torch.linspace(0.1, 0.5, classes, device=device),
        "bias": torch.linspace(-1, -5, classes, device=device),
        "inverse_temperature": torch.linspace(1, 0.3, classes, device=device),
    }


def exact_loss(
    features: Tensor, logits: Tensor, labels: Tensor, weight: float, options: dict[str, Any]
) -> SratLoss:
    classification = oracle.margin(logits, labels, **options)
    separation = oracle.separation(features, labels, 0.07, "drop")
    return SratLoss(classification + weight * separation, classification, separation)


@pytest.mark.parametrize("size", [1, 2, 63, 128])
def test_values_and_gradients(size: int, device: torch.device) -> None:
    features, logits, labels = batch_of(size, device)
    options = {**MARGIN, **vectors(device)}
    kernel = srat_loss(features, logits, labels, separation_weight=1.5, backend="triton", **options)
    assert last_backend("srat_loss") == "triton"
    reference = srat_loss(features, logits, labels, separation_weight=1.5, backend="torch", **options)
    exact_inputs = [tensor.detach().double().requires_grad_() for tensor in (features, logits)]
    exact = exact_loss(*exact_inputs, labels, 1.5, options)
    for name in SratLoss._fields:
        assert_as_accurate(getattr(kernel, name), getattr(reference, name), getattr(exact, name), name)
    gradients = zip(
        torch.autograd.grad(kernel.total, (features, logits)),
        torch.autograd.grad(reference.total, (features, logits)),
        torch.autograd.grad(exact.total, exact_inputs),
        strict=True,
    )
    for name, each in zip(("features", "logits"), gradients, strict=True):
        assert_as_accurate(*each, what=f"gradient of {name}")


def test_each_scalar_can_be_differentiated(device: torch.device) -> None:
    """0.3 total + 2 classification - separation: the three upstream gradients are added up in the kernel."""
    features, logits, labels = batch_of(40, device)

    def gradients(backend: str) -> tuple[Tensor, ...]:
        loss = srat_loss(features, logits, labels, separation_weight=1.5, backend=backend)
        mixture = 0.3 * loss.total + 2.0 * loss.classification - loss.separation
        return torch.autograd.grad(mixture, (features, logits))

    for kernel, reference in zip(gradients("triton"), gradients("torch"), strict=True):
        torch.testing.assert_close(kernel, reference)


@pytest.mark.parametrize("wanted", ["features", "logits"])
def test_only_one_input_needs_a_gradient(wanted: str, device: torch.device) -> None:
    features, logits, labels = batch_of(40, device)
    other = {"features": logits, "logits": features}[wanted]
    other.requires_grad_(False)
    srat_loss(features, logits, labels, backend="triton").total.backward()
    both = {"features": features, "logits": logits}
    (expected,) = torch.autograd.grad(
        srat_loss(features, logits, labels, backend="torch").total, both[wanted], retain_graph=False
    )
    torch.testing.assert_close(both[wanted].grad, expected)
    assert other.grad is None


def test_no_separation_weight_leaves_the_features_alone(device: torch.device) -> None:
    features, logits, labels = batch_of(40, device)
    loss = srat_loss(features, logits, labels, separation_weight=0.0, backend="triton")
    torch.testing.assert_close(loss.total, loss.classification, rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(loss.total, features)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=0)


def test_whole_numbers_are_numbers_too(device: torch.device) -> None:
    features, logits, labels = batch_of(20, device)
    options = {"separation_weight": 1, "temperature": 1, "scale": 30, "focal_gamma": 2}
    kernel, reference = (
        srat_loss(features, logits, labels, backend=name, **options) for name in ("triton", "torch")
    )
    torch.testing.assert_close(kernel.total, reference.total)


def test_one_launch_forward_and_one_backward(device: torch.device) -> None:
    features, logits, labels = batch_of(40, device)
    before = kernel_launches()
    srat_loss(features, logits, labels, backend="triton").total.backward()
    after = kernel_launches()
    used = {
        name: count - before.get(name, 0) for name, count in after.items() if count != before.get(name, 0)
    }
    assert used == {"forward_kernel": 1, "finish_kernel": 1, "backward_kernel": 1}


def test_the_second_derivative_is_refused(device: torch.device) -> None:
    features, logits, labels = batch_of(8, device)
    loss = srat_loss(features, logits, labels, backend="triton").total
    (gradient,) = torch.autograd.grad(loss, features, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        gradient.sum().backward()


def test_memory_is_linear_in_the_batch(device: torch.device) -> None:
    """Nothing that the forward leaves for the backward has two batch axes."""
    features, logits, labels = batch_of(200, device)
    loss = srat_loss(features, logits, labels, backend="triton")
    saved = [tensor for tensor in loss.total.grad_fn.saved_tensors if tensor is not None]
    assert max(tensor.numel() for tensor in saved) <= max(features.numel(), logits.numel())


def outputs(features: Tensor, logits: Tensor) -> tuple[Tensor, ...]:
    """What `run_forward` fills, full of NaN."""
    batch, classes = logits.shape
    shapes = [(), (), (), (batch,), (batch,), (batch, classes), (2,)]
    return tuple(torch.full(shape, float("nan"), device=logits.device) for shape in shapes)


def run(
    features: Tensor, logits: Tensor, labels: Tensor, forward: Config | None, backward: Config | None
) -> dict[str, Tensor]:
    """Forward and backward by the launchers themselves, into memory full of NaN, with given configurations."""
    out = outputs(features, logits)
    settings = Settings(2.0, 0.07, weighted_mean=True, precision="tf32x3")
    kernels.run_forward(features, logits, labels, Vectors(), out, settings, forward)
    gradients = torch.full_like(features, float("nan")), torch.full_like(logits, float("nan"))
    one = torch.ones((), device=features.device)
    kernels.run_backward(features, labels, out[3:], (one, None, None), *gradients, settings, backward)
    return {
        "total": out[0],
        "classification": out[1],
        "separation": out[2],
        "dz": gradients[0],
        "dx": gradients[1],
    }


@pytest.mark.parametrize(
    ("forward", "backward"),
    [(None, None), *zip(kernels.FORWARD, kernels.BACKWARD, strict=True)],
    ids=lambda config: "tuned" if config is None else "-".join(map(str, config.tiles.values())),
)
def test_every_configuration_fills_outputs_that_held_nan(
    forward: Config | None, backward: Config | None, device: torch.device
) -> None:
    features, logits, labels = (tensor.detach() for tensor in batch_of(150, device, dims=130))
    got = run(features, logits, labels, forward, backward)
    features.requires_grad_()
    logits.requires_grad_()
    loss = srat_loss(features, logits, labels, backend="torch")
    gradients = torch.autograd.grad(loss.total, (features, logits))
    for name, expected in zip(got, (*loss, *gradients), strict=True):
        assert not got[name].isnan().any(), f"{name}: not written everywhere"
        torch.testing.assert_close(
            got[name], expected.detach(), msg=lambda text, name=name: f"{name}: {text}"
        )


def test_candidates_fit_the_shape_class() -> None:
    for batch in (16, 128, 512, 4096):
        for dims in (16, 128, 512):
            for configs in (kernels.FORWARD, kernels.BACKWARD):
                found = kernels.candidates(configs, batch, dims)
                assert found, "there is always a way to run"
                assert all(config.tiles["BLOCK_M"] <= max(16, batch // 4) for config in found)
                assert all(config.tiles["BLOCK_K"] <= dims for config in found)
                assert len(set(map(str, found))) == len(found)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_a_captured_graph_replays_with_new_numbers(device: torch.device) -> None:
    features, logits, labels = batch_of(128, device)
    inputs = (features, logits)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # compiles and tunes before the capture
        for _ in range(2):
            torch.autograd.grad(srat_loss(features, logits, labels, backend="triton").total, inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with capturing(graph):
        loss = srat_loss(features, logits, labels, backend="triton")
        gradients = torch.autograd.grad(loss.total, inputs)
        total = loss.total.detach()
    del (
        loss
    )  # an autograd graph of the capture's stream that lives on makes torch warn at the next backward pass
    with torch.no_grad():
        features.copy_(normalize(torch.randn_like(features), dim=1))
        logits.copy_(torch.randn_like(logits))
        labels.random_(10)
    graph.replay()
    expected = srat_loss(features, logits, labels, backend="torch")
    torch.testing.assert_close(total, expected.total)
    for got, want in zip(gradients, torch.autograd.grad(expected.total, inputs), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_tensors_on_a_gpu_that_is_not_the_current_one() -> None:
    features, logits, labels = batch_of(64, torch.device("cuda:1"))
    loss = srat_loss(features, logits, labels, backend="triton").total
    torch.testing.assert_close(loss, srat_loss(features, logits, labels, backend="torch").total)
