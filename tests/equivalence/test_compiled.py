"""Compiled (and, on a GPU, captured) steps against eager ones; the start-up check; no recompilation in steady state."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch

from benchmarks.startup import FAULTS, applies
from srat_fast.errors import TrainingFailure
from srat_fast.hardware import numerics
from srat_fast.methods import rows
from srat_fast.registry import model as models
from srat_fast.training import parity
from srat_fast.training.capture import preserved
from srat_fast.training.step import FastEngine
from tests.equivalence.test_step import batches, make_pair
from tests.training.test_capture import engine_of, loader_of, no_recompilation, recipe_of

# compiling takes 20 to 40 seconds a shape and mode on a CPU: one method that uses everything stands for all
# one attack step: from the second on, the sign makes rounding into whole steps, and pixels say nothing any more
FULL = {"method": "srat-ldam", "optim.clip_norm": 1.0, "attack.steps": 1, "optim.batch_size": 16}

L2 = {"attack.threat": "l2", "attack.epsilon": 0.8, "attack.step_size": 0.3}


def variants(device: torch.device) -> list[dict[str, object]]:
    on = {"run.compile": "on"}
    if device.type == "cuda":
        return [
            on,
            {"run.capture": "on"},
            on | {"run.capture": "on"},
            on | {"run.capture": "on", "attack.bn": "running"},
        ]
    return [on]


def flat(engine: FastEngine) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in engine.model.parameters()])


def test_steps_agree_and_nothing_recompiles_after_the_first_epoch(device: torch.device) -> None:
    for variant in variants(device):
        eager, fast = (make_pair(device, torch.float32, **FULL, **extra).fast for extra in ({}, variant))
        try:
            for epoch in range(3):  # the weights switch at epoch 1, the rate drops there too
                if epoch == 1:
                    torch.compiler.set_stance("fail_on_recompile")
                eager.start_epoch(epoch)
                fast.start_epoch(epoch)
                for images, labels in batches(device, torch.float32, epoch):  # 16, 16, a partial batch of 8
                    images = images.contiguous(memory_format=torch.channels_last)
                    if images.shape not in fast._seen:
                        fast.rehearse(images, labels)
                    ours, theirs = fast.attack(images, labels), eager.attack(images, labels)
                    assert float(((ours - theirs).abs() > 1e-6).double().mean()) < 0.01
                    assert float((ours - images).abs().max()) <= 0.05 + 1e-6
                    common = theirs.clone(memory_format=torch.preserve_format)
                    before = flat(eager)
                    a, b = fast.update(common, labels), eager.update(common, labels)
                    assert torch.allclose(a.losses["total"], b.losses["total"], rtol=1e-4)
                    assert torch.allclose(a.losses["separation"], b.losses["separation"], rtol=1e-4)
                    ours, theirs = flat(fast), flat(eager)
                    # ReLU kinks: at most 0.02 away on any processor; a wrong rate, decay or momentum is 0.1 and more
                    assert parity.distance(ours - before, theirs - before) < 0.05
                    with torch.no_grad():
                        for mine, other in zip(fast.state(), eager.state(), strict=True):
                            mine.copy_(other)
                    if len(images) == 16:
                        parity.check_parity(fast, images, labels)
            assert fast.compile_seconds > 0
            assert eager.compile_seconds == 0
        finally:
            torch.compiler.set_stance("default")


def test_compiled_steps_with_perturbed_weights_radii_by_class_and_two_branches() -> None:
    """From common states; the update is checked anew, and not compiled again, where weights begin to be perturbed."""
    changes = {
        "method": "robustlt:trades-awp",
        "optim__awp_epoch": 1,
        "optim__clip_norm": 1.0,
        "attack__steps": 1,
    }
    eager, fast = (engine_of(recipe_of(**changes, run__compile=choice)) for choice in ("off", "on"))
    for epoch in range(3):
        for engine in (eager, fast):
            engine.start_epoch(epoch)
        images, labels = next(iter(loader_of().epoch(epoch)))
        images = images.contiguous(memory_format=torch.channels_last)
        with no_recompilation() if epoch else nullcontext():
            assert (images.shape in fast._seen) == (epoch == 2)
            if epoch < 2:
                fast.rehearse(images, labels)
            ours, theirs = fast.attack(images, labels), eager.attack(images, labels)
            assert float(((ours - theirs).abs() > 1e-6).double().mean()) < 0.02
            assert bool((theirs != images).any()) == (epoch > 0)
            before = flat(eager)
            a, b = fast.update(theirs, labels, images), eager.update(theirs, labels, images)
        for name, value in b.losses.items():
            assert torch.allclose(a.losses[name], value, rtol=1e-4, atol=1e-6), name
        assert parity.distance(flat(fast) - before, flat(eager) - before) < 0.05
        with torch.no_grad():
            for mine, other in zip(fast.state(), eager.state(), strict=True):
                mine.copy_(other)


def test_the_check_fails_closed_on_radii_of_another_epoch() -> None:
    engine = engine_of(recipe_of(method="robustlt:ce"))
    engine.start_epoch(0)  # a radius of 0: the check is made at the full one
    images, labels = next(iter(loader_of().epoch(0)))
    parity.check_parity(engine, images, labels)
    assert engine.radii is not None
    factors, first = engine.radii.factors, engine.radii.factors.clone()
    assert not first.any()

    def stale(*inputs: torch.Tensor) -> tuple[torch.Tensor]:
        with preserved([factors]):
            factors.copy_(first)
            return engine.attack_eagerly(*inputs)

    engine._attack = stale
    with pytest.raises(TrainingFailure, match="compiled attack moves pixels less than the eager one"):
        parity.check_parity(engine, images, labels)


@pytest.fixture
def engine(device):
    return make_pair(device, torch.float32, method="srat-ldam", **{"run.compile": "off"}).fast


def first(device):
    images, labels = next(iter(batches(device, torch.float32, 0)))
    return images.contiguous(memory_format=torch.channels_last), labels


def test_the_check_passes_for_equal_code_and_leaves_no_trace(engine, device) -> None:
    before = [t.clone() for t in engine.state()]
    parity.check_parity(engine, *first(device))
    torch.testing.assert_close(before, list(engine.state()), rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["srat-ldam", "srat-focal", "cb-reweight", "natural"])
def test_the_check_fails_closed_on_every_planted_fault(method, precision, device) -> None:
    plain = {"method": method, "run.compile": "off", "run.precision": precision}
    for name, plant in FAULTS.items():
        engine = make_pair(device, torch.float32, **plain).fast
        if not applies(name, engine):
            continue
        if name == next(iter(FAULTS)):  # every engine here begins as this one does
            parity.check_parity(engine, *first(device))
        plant(engine)
        with pytest.raises(
            TrainingFailure, match=r"the compiled .* is allowed\); --no-compile .*--engine reference"
        ):
            parity.check_parity(engine, *first(device))


@pytest.mark.parametrize("bn", ["batch", "running"])
def test_the_check_fails_closed_on_an_attack_of_nothing(bn, device, monkeypatch) -> None:
    engine = make_pair(device, torch.float32, method="srat-ldam", **{"attack.bn": bn}).fast
    says = "the compiled attack moves pixels less than the eager one, by"
    for number, shown in ((1.0, r"1 \(at most"), (float("nan"), "nan")):
        monkeypatch.setattr(engine, "_attack", lambda images, labels, start, n=number: (images * n,))
        with pytest.raises(TrainingFailure, match=f"{says} {shown}"):
            parity.check_parity(engine, *first(device))


def test_compile_failures_name_the_way_out() -> None:
    with (
        pytest.raises(
            TrainingFailure, match=r"compiling the training step failed: no compiler here; --no-compile"
        ),
        parity.compile_errors(),
    ):
        raise RuntimeError("no compiler here\nlong story")
    with pytest.raises(TrainingFailure, match="lower --batch-size"), parity.compile_errors():
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_compiling_does_not_advise_tf32() -> None:
    """What inductor says on every GPU since Ampere; as an error it would end the compilation."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with parity.compile_errors():
            warnings.warn(
                "TensorFloat32 tensor cores for float32 matrix multiplication available", stacklevel=1
            )
        with pytest.raises(TrainingFailure, match="another"), parity.compile_errors():
            warnings.warn("another", stacklevel=1)


def test_preserved_puts_tensors_back_even_after_an_error() -> None:
    tensor = torch.ones(3)

    def spoil() -> None:
        with preserved([tensor]):
            tensor.mul_(5)
            raise ValueError("on the way")

    with pytest.raises(ValueError, match="on the way"):
        spoil()
    assert tensor.tolist() == [1, 1, 1]


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    with warnings.catch_warnings():
        # the switch itself warns that it is a prototype, after it has been thrown
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype", UserWarning)
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU can be waited for")
@pytest.mark.parametrize("variant", [{}, {"run.capture": "on"}, {"run.compile": "on", "run.capture": "on"}])
def test_no_step_waits_for_the_gpu(device, variant) -> None:
    engine = make_pair(device, torch.float32, **FULL, **variant).fast
    engine.start_epoch(0)
    steps = [*batches(device, torch.float32, 0)]
    for images, labels in steps:  # compiles, tunes and captures: these may wait
        engine.step(images, labels)
    with waiting_is_an_error():
        for images, labels in steps:
            engine.step(images, labels)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize(
    "changes",
    [
        {"attack.bn": "batch"},
        {"attack.bn": "running"},
        *({"model.name": name, "attack.bn": "running"} | L2 for name in models if ":" not in name),
        *({"method": row.name, "optim.clip_norm": 0.0} for row in rows() if row.adversarial),
    ],
)
def test_a_captured_run_equals_an_eager_one(device, changes) -> None:
    """The same kernels in the same order: captured training follows eager training, partial batches included."""
    changes = FULL | {"attack.steps": 3, "run.compile": "off"} | changes
    eager, captured = (
        make_pair(device, torch.float32, **changes, **{"run.capture": choice}).fast
        for choice in ("off", "on")
    )
    for epoch in range(3):
        eager.start_epoch(epoch)
        captured.start_epoch(epoch)
        for images, labels in batches(device, torch.float32, epoch):
            with numerics(
                deterministic=True
            ):  # atomics would round differently, and the sign make steps of it
                theirs = eager.step(images, labels)
                ours = captured.step(images, labels)
            torch.testing.assert_close(ours.losses["total"], theirs.losses["total"], rtol=1e-3, atol=0)
            assert int(ours.correct) == int(theirs.correct)
    for mine, other in zip(captured.model.parameters(), eager.model.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-2, atol=1e-4)
