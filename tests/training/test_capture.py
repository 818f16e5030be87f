"""Captured steps: what may go wrong in silence. CUDA graphs are stood in for (tape.py), so that a CPU shows it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from srat_fast.attacks.engine import compile_settings
from srat_fast.data.arrays import ImageSet
from srat_fast.data.memory import MemoryLoader
from srat_fast.errors import TrainingFailure, failure_of
from srat_fast.hardware import numerics
from srat_fast.methods import rows
from srat_fast.models.build import build_model
from srat_fast.models.classifier import Classifier
from srat_fast.models.preact import PreActBlock, WideBlock
from srat_fast.models.resnet import BasicBlock, Bottleneck
from srat_fast.recipe import Recipe, build_recipe
from srat_fast.training import trainer
from srat_fast.training.capture import Captured, capturing
from srat_fast.training.parity import check_parity, compile_errors
from srat_fast.training.step import FastEngine
from tests.training import tape
from tests.training.short_runs import short

CPU = torch.device("cpu")
COUNTS = [8, 6, 4, 2]
#: One network of each further kind of block; the others repeat these.
BLOCKS = {"resnet50": Bottleneck, "preactresnet18": PreActBlock, "wrn-28-10": WideBlock}
L2 = {"attack__threat": "l2", "attack__epsilon": 0.5, "attack__step_size": 0.2}


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    tape.install(monkeypatch)


def recipe_of(**changes: Any) -> Recipe:
    fields = {
        "method": "srat-ldam", "model.width": 8, "model.feature_dim": 8, "attack.steps": 2, "optim.epochs": 3,
        "optim.batch_size": 8, "run.precision": "fp32", "run.compile": "off", "run.capture": "off",
    }  # fmt: skip
    return build_recipe(
        "paper", fields | {name.replace("__", "."): value for name, value in changes.items()}
    ).resolve()


def tiny(recipe: Recipe, channels: int = 3) -> Classifier:
    """A network with one block of its kind, which compiles in a second or two."""
    model = build_model(recipe, classes=len(COUNTS), channels=channels, moments=None)
    network = model.backbone
    stages = [name for name, m in network.named_children() if isinstance(m, torch.nn.Sequential)]
    for name in stages:
        setattr(network, name, torch.nn.Sequential())
    block = BLOCKS.get(recipe.model.name, BasicBlock)
    only = torch.nn.Sequential(block(network.conv1.out_channels, network.feature_dim, 2))
    setattr(network, stages[-1], only)
    return model


def engine_of(recipe: Recipe, channels: int = 3) -> FastEngine:
    torch.manual_seed(0)
    return FastEngine(recipe, tiny(recipe, channels), COUNTS, [2, 3])


def loader_of(channels: int = 3, **augmentation: Any) -> MemoryLoader:
    """20 images of 8 x 8 pixels in batches of 8, 8 and 4."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (20, 8, 8, channels), dtype=np.uint8)
    labels = np.repeat(np.arange(4), COUNTS).astype(np.int64)
    return MemoryLoader(ImageSet(pixels, labels), batch_size=8, device=CPU, shuffle=True, **augmentation)


AUGMENTATIONS = [{"crop_padding": 1, "flip": True}, {"crop_area": 0.5, "flip": True}]


#: name -> channels, augmentation, fields of the recipe
VARIANTS: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    "one channel": (1, {"crop_padding": 1}, {}),
    "resized crop": (1, {"crop_area": 0.5, "flip": True}, {}),
    "running": (3, {"crop_padding": 1}, {"attack__bn": "running"}),
    "bf16": (3, {}, {"run__precision": "bf16", "optim__clip_norm": 1.0}),
    "objective": (
        3, {}, {"method": "cb-reweight", "attack__loss": "objective", "attack__random_start": False}
    ),
    "natural": (3, {"crop_area": 0.5}, {"method": "natural"}),
    **{name: (3, {}, L2 | {"model__name": name, "model__width": 4}) for name in BLOCKS},
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_captured_training_is_eager_training(graphs, variant) -> None:
    """A recording of attack and update for each of the two shapes, in the first epoch, and no more."""
    channels, augmentation, changes = VARIANTS[variant]
    eager, captured = (
        engine_of(recipe_of(run__capture=choice, **changes), channels) for choice in ("off", "on")
    )
    loader = loader_of(channels, **augmentation)
    for epoch in range(3):
        eager.start_epoch(epoch)
        captured.start_epoch(epoch)
        for images, labels in loader.epoch(epoch):
            theirs, ours = eager.step(images, labels), captured.step(images, labels)
            torch.testing.assert_close(ours.losses["total"], theirs.losses["total"])
            assert int(ours.correct) == int(theirs.correct)
    assert tape.Graph.made == (2 if variant == "natural" else 4)
    for mine, other in zip(captured.state(), eager.state(), strict=True):
        torch.testing.assert_close(mine, other)


#: name -> fields, and what the feedback rule has found by the second epoch
STEERED: dict[str, tuple[dict[str, Any], dict[str, list[float]]]] = {
    "frl": (
        {"method": "frl-remargin"},
        {"weights": [0.5, 1, 1, 3], "pair": [2, 1, 1, 0.3], "radii": [1, 1, 0.98, 3]},
    ),
    "cfa": (
        {"method": "cfa"},
        {"weights": [0.2, 0.1, 0.1, 0.3], "pair": [0.1] * 4, "radii": [0.5, 0.6, 1, 1.2]},
    ),
    "faal": (
        {"method": "faal", "loss__branch": "clean", "loss__kl_weight": 6.0, "optim__awp_gamma": 0.01},
        {},
    ),
    "bat": ({"method": "bat", "attack__step_size": 0.004}, {}),
}


@pytest.mark.parametrize("kind", STEERED)
def test_captured_training_by_feedback_is_eager_training(graphs, kind) -> None:
    changes, effects = STEERED[kind]
    eager, captured = (engine_of(recipe_of(run__capture=choice, **changes)) for choice in ("off", "on"))
    loader = loader_of()
    for epoch in range(2):
        for engine in (eager, captured):
            engine.steer(effects if epoch else {})
            engine.start_epoch(epoch)
        for number, (images, labels) in enumerate(loader.epoch(epoch)):
            theirs, ours = eager.step(images, labels), captured.step(images, labels)
            torch.testing.assert_close(ours.losses, theirs.losses)
            torch.testing.assert_close(ours.images, theirs.images)
            torch.testing.assert_close(captured.objective.class_weights, eager.objective.class_weights)
            if number == 0:
                first = ours.losses["total"].clone()
    assert bool(ours.losses["total"] != first)
    assert tape.Graph.made == 4, "steering records nothing anew"
    for mine, other in zip(captured.state(), eager.state(), strict=True):
        torch.testing.assert_close(mine, other)


def test_a_rehearsal_leaves_no_trace_in_weights_that_a_step_finds(graphs) -> None:
    engine = engine_of(recipe_of(method="faal", run__capture="on"))
    engine.start_epoch(0)
    first, _, partial = loader_of().epoch(0)
    for batch in (
        first,
        partial,
    ):  # the second shape is not checked against eager mode, which has its own traces
        engine.rehearse(*batch)
    assert engine.objective.class_weights.tolist() == [1.0] * 4


def test_the_collector_rests_during_a_capture_and_only_then(graphs) -> None:
    def function(x: Tensor) -> tuple[Tensor]:
        return (x + 1,)

    for before in (True, False):
        (gc.enable if before else gc.disable)()
        try:
            assert Captured(function, list)(torch.zeros(2))[0].tolist() == [1, 1]
            assert gc.isenabled() is before
            with pytest.raises(ZeroDivisionError), capturing(tape.Graph()):  # type: ignore[arg-type]
                raise ZeroDivisionError
            assert gc.isenabled() is before
        finally:
            gc.enable()
    assert tape.Capture.collecting == [False] * 4


def test_a_closed_engine_keeps_no_graph(graphs) -> None:
    engine = engine_of(recipe_of(run__capture="on"))
    images, labels = next(iter(loader_of().epoch(0)))
    engine.start_epoch(0)
    engine.step(images, labels)
    recordings = [r for part in (engine._attack, engine._update) for r in part._recordings.values()]
    held = [weakref.ref(recording.graph) for recording in recordings]
    del recordings
    gc.disable()
    try:
        engine.close()
        assert [graph() for graph in held] == [None, None]
    finally:
        gc.enable()
    engine.step(images, labels)  # rehearsed and recorded anew
    assert tape.Graph.made == 4


@pytest.mark.parametrize("ends", ["finished", "failed"])
def test_a_run_closes_its_engine(tmp_path, monkeypatch, ends) -> None:
    closed = []
    real = FastEngine.close
    monkeypatch.setattr(FastEngine, "close", lambda self: closed.append(real(self)))
    if ends == "failed":
        monkeypatch.setattr(FastEngine, "step", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            trainer.train(short(model__width=8), tmp_path / "run")
    else:
        trainer.train(short(model__width=8, optim__epochs=1), tmp_path / "run")
    assert closed == [None]


def test_a_graph_that_does_nothing_is_refused(graphs, monkeypatch) -> None:
    """What a capture on another device leaves: outputs that were computed once, and replays without effect."""
    monkeypatch.setattr(tape.Graph, "empty", True)
    engine = engine_of(recipe_of(run__capture="on"))
    images, labels = next(iter(loader_of().epoch(0)))
    before = [t.clone() for t in engine.state()]
    with pytest.raises(TrainingFailure, match=r"does not write its output 0 when replayed; --no-compile"):
        engine.step(images, labels)
    torch.testing.assert_close(before, list(engine.state()), rtol=0, atol=0)


def test_a_captured_update_with_a_wrong_gradient_is_refused(graphs) -> None:
    """A replay sets no `p.grad`: what the check reads has to be what the graph writes."""
    images, labels = next(iter(loader_of().epoch(0)))
    engine = engine_of(recipe_of(run__capture="on"))
    captured, weight = engine._update, engine.model.backbone.layer4[0].conv1.weight
    written: list[torch.Tensor] = []

    def wrong(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result = captured(*inputs)
        if not written:
            assert weight.grad is not None
            written.append(weight.grad)
        written[0].neg_()
        return result

    check_parity(engine, images, labels)
    check_parity(engine, images, labels)
    engine = engine_of(recipe_of(run__capture="on"))
    captured, weight = engine._update, engine.model.backbone.layer4[0].conv1.weight
    engine._update = wrong
    with pytest.raises(TrainingFailure, match=r"gradient of backbone\.layer4\.0\.conv1\.weight is away from"):
        check_parity(engine, images, labels)


def test_an_output_of_nan_is_no_empty_graph(graphs) -> None:
    def function(x: Tensor) -> tuple[Tensor, ...]:
        return x / 0, (x / 0).bfloat16(), (x / 0).double(), x.long(), (x > 0).sum()

    assert Captured(function, list)(torch.zeros(2))[0].isnan().all()


def test_a_partly_written_output_is_refused(graphs) -> None:
    made = torch.zeros(4)

    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        made[:2] = x
        return x + 1, made

    with pytest.raises(RuntimeError, match="its output 1"):
        Captured(function, list)(torch.zeros(2))


@pytest.mark.parametrize("choice", ["run.capture", "run.compile"])
def test_a_layout_that_was_not_rehearsed_is_refused(graphs, monkeypatch, choice) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    engine = engine_of(recipe_of(**{choice: "on"}), channels=1)
    images, labels = next(iter(loader_of(1).epoch(0)))
    engine.start_epoch(0)
    engine.step(images, labels)
    other = images.contiguous().clone()
    other = torch.empty_strided(images.shape, (64, 64, 8, 1)).copy_(images)
    assert other.stride() != images.stride()
    made = tape.Graph.made
    for step in (engine.step, engine.attack, engine.update):
        with pytest.raises(
            TrainingFailure, match=r"strides \(64, 64, 8, 1\) .* is not laid out as .*--no-compile"
        ):
            step(other, labels)
    with pytest.raises(TrainingFailure, match=r"torch\.int32 labels"):
        engine.update(images, labels.int())
    assert tape.Graph.made == made


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=["padded", "resized"])
@pytest.mark.parametrize("channels", [1, 3])
def test_start_and_examples_are_laid_out_as_images(channels, augmentation) -> None:
    engine = engine_of(recipe_of(), channels)
    for images, labels in loader_of(channels, **augmentation).epoch(0):
        start = engine.ball.random_start(images, engine.noise)
        examples = engine.attack(images, labels)
        assert images.stride() == start.stride() == examples.stride()
        assert images.is_contiguous(memory_format=torch.channels_last)


@contextmanager
def no_recompilation() -> Iterator[None]:
    torch.compiler.set_stance("fail_on_recompile")
    try:
        yield
    finally:
        torch.compiler.set_stance("default")


@pytest.fixture
def aot_eager(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch.compile without inductor's part, which takes most of the time."""
    real = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, *, mode, **options: real(f, **options, backend="aot_eager")
    )
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("channels", "changes"),
    [
        (1, {}),
        (3, L2),
        (3, {"method": "faal"}),
        (3, {"method": "bat"}),
        *((3, L2 | {"model__name": name, "model__width": 4}) for name in BLOCKS),
    ],
    ids=["one channel", "l2", "faal", "bat", *BLOCKS],
)
def test_nothing_is_compiled_again_after_the_first_batch(aot_eager, channels, changes) -> None:
    """One channel fits both memory formats: start and examples once had the other one's strides."""
    engine = engine_of(recipe_of(run__compile="on", attack__steps=1, **changes), channels)
    for epoch in range(2):
        engine.steer({name: torch.full_like(t, 0.5) for name, t in engine.objective.found.items() if epoch})
        engine.start_epoch(epoch)
        for number, (images, labels) in enumerate(loader_of(channels, crop_padding=1).epoch(epoch)):
            if number == 0 and epoch == 0:
                engine.rehearse(images, labels)
            with no_recompilation():
                engine.step(images, labels)


def test_compiled_stages_are_compiled_once(aot_eager) -> None:
    engine = engine_of(recipe_of(run__compile="on", attack__steps=1, method="taet", stages__lengths=(1, 2)))
    for epoch in range(3):
        engine.start_epoch(epoch)
        for number, (images, labels) in enumerate(loader_of(crop_padding=1).epoch(epoch)):
            if number == 0 and epoch < 2:
                engine.rehearse(images, labels)
            with no_recompilation():
                engine.step(images, labels)


def test_more_runs_in_one_process_than_dynamo_has_programs(aot_eager) -> None:
    """A loop over methods, as in a notebook: by itself dynamo refuses a function's ninth program, here the third."""
    import torch._dynamo.config as dynamo

    methods = [row.name for row in rows() if row.adversarial]
    images, labels = next(iter(loader_of().epoch(0)))
    with dynamo.patch(recompile_limit=2):
        for number in range(3):
            changes = {"method": methods[number], "model__width": 8 + number}
            engine = engine_of(recipe_of(run__compile="on", attack__steps=1, **changes))
            engine.start_epoch(0)
            engine.step(images, labels)
            engine.close()


def test_settings_while_an_engine_compiles(monkeypatch) -> None:
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    def settings() -> tuple[Any, ...]:
        return (
            dynamo.recompile_limit,
            inductor.use_fast_triton_launcher,
            inductor.deterministic,
            inductor.cpp.simdlen,
        )

    seen: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        torch, "compile", lambda f, **_: lambda *inputs: seen.append(settings()) or f(*inputs)
    )
    before, images_and_labels = settings(), next(iter(loader_of().epoch(0)))
    width = {"AVX512": 512, "AVX2": 256}.get(
        torch.backends.cpu.get_cpu_capability(), pick_vec_isa().bit_width()
    )
    fast_launcher = before[1] if torch.__version__ >= "2.14" else False
    for deterministic in (False, True):
        seen.clear()
        engine = engine_of(recipe_of(run__compile="on", run__deterministic=deterministic, attack__steps=1))
        with numerics(deterministic):
            engine.rehearse(*images_and_labels)
        assert set(seen) == {(dynamo.accumulated_recompile_limit, fast_launcher, deterministic, width)}
        assert settings() == before
    with pytest.raises(ZeroDivisionError), compile_settings(torch.device("cpu")):
        raise ZeroDivisionError
    assert settings() == before


def raised(how: str) -> None:
    """An allocation that fails inside of a capture, whose end then fails as well; and others."""
    if how == "context":
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")
    if how == "cause":
        raise ValueError("backend='inductor' raised") from torch.OutOfMemoryError("CUDA out of memory")
    raise RuntimeError(
        {"text": "CUDA error: out of memory", "cublas": "CUBLAS_STATUS_ALLOC_FAILED when calling"}[how]
    )


@pytest.mark.parametrize("how", ["context", "cause", "text", "cublas"])
def test_full_memory_inside_a_capture_is_called_so(how) -> None:
    with (
        pytest.raises(TrainingFailure, match=r"^out of memory; lower --batch-size") as error,
        compile_errors(),
    ):
        raised(how)
    assert failure_of(error.value) == "memory"  # a sweep then tries with fewer beside it
