"""The fast path against the reference, after every step, for every method.

The sign in PGD turns a rounding difference at a gradient near zero into a whole step of a pixel, which later steps
amplify. So the trajectories are compared in float64, where rounding is too small to matter and everything must agree;
and in float32 each half of a step is compared from a common state: one attack step by the share of pixels that differ,
the update on common images.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from srat_fast.data.arrays import ImageSet
from srat_fast.data.memory import MemoryLoader
from srat_fast.data.split import load_split
from srat_fast.errors import UserError
from srat_fast.losses.objective import Objective
from srat_fast.methods import PAPER, rows
from srat_fast.models.build import build_model
from srat_fast.recipe import build_recipe
from srat_fast.registry import inner, threat
from srat_fast.registry import model as models
from srat_fast.training.plain import ReferenceEngine
from srat_fast.training.step import FastEngine

COUNTS, UNDER = [60, 24, 9, 3], [2, 3]
EPOCHS = 3  # of 3 batches; weights and rate change at the second


class Small(nn.Module):
    """Two convolutions with BatchNorm: a method's loss and attack meet no more of a network than this."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.feature_dim = 2 * width
        self.first, self.second = (
            nn.Conv2d(channels, width, 3, padding=1),
            nn.Conv2d(width, 2 * width, 3, 2, padding=1),
        )
        self.norms = nn.ModuleList([nn.BatchNorm2d(width), nn.BatchNorm2d(2 * width)])

    def features(self, images: torch.Tensor) -> torch.Tensor:
        for convolution, norm in zip((self.first, self.second), self.norms, strict=True):
            images = functional.relu(norm(convolution(images)))
        return images

    def folds(self) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        return list(zip((self.first, self.second), self.norms, strict=True))


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    models("small")(Small)
    yield
    models.remove("small")


@dataclass
class Pair:
    fast: FastEngine
    slow: ReferenceEngine

    def states(self):
        fast, slow = self.fast.model.state_dict(), self.slow.model.state_dict()
        assert fast.keys() == slow.keys()
        return ((name, fast[name], slow[name]) for name in fast)


def make_pair(device: torch.device, dtype: torch.dtype, **changes: object) -> Pair:
    fields = {
        "data.name": "folder",
        "data.image_size": 12,
        "model.width": 4,
        "model.feature_dim": 8,
        "attack.steps": 3,
        "attack.epsilon": 0.05,
        "attack.step_size": 0.02,
        "optim.epochs": EPOCHS,
        "optim.defer_epoch": 1,
        "optim.milestones": "1",
        "optim.warmup_epochs": 1,
        "optim.decay": 0.5,
        "optim.lr": 0.01,
        "run.precision": "fp32",
    }
    recipe = build_recipe("paper", fields | changes).resolve()
    model = build_model(recipe, classes=4, channels=3, moments=None).to(device, dtype)
    return Pair(
        FastEngine(recipe, model, COUNTS, UNDER), ReferenceEngine(recipe, copy.deepcopy(model), COUNTS, UNDER)
    )


def batches(device: torch.device, dtype: torch.dtype, epoch: int):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (40, 12, 12, 3), generator=generator, dtype=torch.uint8)
    labels = torch.multinomial(torch.tensor(COUNTS, dtype=torch.float), 40, True, generator=generator)
    loader = MemoryLoader(
        ImageSet(pixels.numpy(), labels.numpy()), batch_size=16, device=device, shuffle=True, crop_padding=1
    )
    for images, targets in loader.epoch(epoch):  # 16, 16 and a partial batch of 8
        yield images.to(dtype), targets


VARIANTS = [{"method": row.name} for row in rows() if row.family == PAPER] + [
    {"method": "srat-ldam", "attack.bn": "running"},
    {"method": "srat-focal", "attack.loss": "objective"},
    {"method": "srat-ldam", "attack.loss": "objective", "loss.weighting": "balanced"},
    {"method": "srat-ldam", "attack.loss": "kl"},
    {"method": "ce", "attack.loss": "kl", "attack.bn": "running"},
    {"method": "srat-ce", "attack.loss": "margin"},
    *(
        {
            "method": name,
            "attack.bn": bn,
            "attack.threat": "l2",
            "attack.epsilon": 0.8,
            "attack.step_size": 0.3,
        }
        for name in ("srat-ldam", "ce")
        for bn in ("batch", "running")
    ),
    {"method": "srat-ce", "loss.separation_features": "penultimate", "loss.empty_anchors": "zero"},
    {"method": "srat-ldam", "optim.clip_norm": 1.0},
    {"method": "drcb-ce", "loss.reduction": "batch", "attack.random_start": False},
    {"method": "srat-focal", "loss.focal_weighting": "outside", "loss.focal_gamma": 2.0},
    {"method": "cb-reweight", "loss.weight_rule": "ratio", "loss.weight_ratio": 20.0},
    {"method": "cb-reweight", "loss.weight_rule": "inverse", "attack.examples": "clean"},
]

COSINE = {"model.head": "cosine", "model.head_gamma": 1 / 32, "model.head_scale": 5.0}
FIELD = [{"method": row.name} for row in rows() if row.family != PAPER] + [
    {
        "method": "mart",
        "attack.loss": "objective",
        "loss.weighting": "balanced",
        "loss.kl_target": "detached",
    },
    {"method": "trades", "loss.kl_factors": (1.0, 2.0, 0.5, 4.0), "attack.bn": "frozen"},
    {"method": "trades", "protocol": "own"},
    {"method": "harl", "loss.branch": "clean", "attack.loss": "objective"},
    {"method": "cdt", "attack.loss": "objective", "loss.adjusted_prior": 0.5, "loss.adjusted_margin": 1.0},
    {"method": "reat", "loss.tail_sign": "reversed", "loss.tail_weight": 300.0},
    {"method": "ce", "loss.branch": "clean"},
    {"method": "srat:at-bsl"},
    {"method": "srat:robal-n"},
    {"method": "srat:trades", "attack.threat": "l2", "attack.start": "gaussian"},
    {"method": "srat-ldam", **COSINE},
    {"method": "srat-focal"},
    {"method": "robal-r", "protocol": "own"},
    {"method": "robustlt:trades"},
    {"method": "robustlt:trades", "attack.threat": "l2"},
    {"method": "robustlt:at-bsl", "protocol": "own"},
    {"method": "ce", "attack.radius": "vector", "attack.radius_factors": (1.0, 0.5, 2.0, 0.0)},
    {"method": "awp", "optim.clip_norm": 0.5, "attack.loss": "objective", "optim.awp_epoch": 2},
    {"method": "trades-awp", "protocol": "own", "optim.awp_gamma": 0.1},
    {"method": "srat:crt", "stages.lengths": (2, 1), "optim.epochs": 3},
    {"method": "lws", "stages.lengths": (2, 1), "optim.epochs": 3, "stages.schedule": "run,half"},
    {
        "method": "trades-awp",
        "stages.lengths": (1, 1, 1),
        "stages.train": "all,head,all",
        "optim.epochs": 3,
        "stages.method": "ce,method,srat-ldam",
        "model.normalize": "none",
    },
    {"method": "bat", "protocol": "own"},
    {"method": "bat", "attack.threat": "l2", "attack.start": "gaussian", "loss.branch": "adversarial"},
    {"method": "robustlt:bat", "attack.radius_ramp": 0.2, "attack.bn": "frozen"},
    {"method": "ce", "attack.stop": "first-wrong", "attack.step_size": 0.005},
]


def name_of(variant: dict[str, object]) -> str:
    return " ".join(str(value) for value in variant.values())


@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_trajectories_agree_in_float64(variant: dict[str, object], device: torch.device) -> None:
    assert_equal_trajectories(make_pair(device, torch.float64, **variant), device)


@pytest.mark.parametrize("variant", FIELD, ids=name_of)
def test_trajectories_of_the_field_agree_in_float64(variant: dict[str, object], device: torch.device) -> None:
    assert_equal_trajectories(
        make_pair(device, torch.float64, **{"model.name": "small", "optim.epochs": 7} | variant), device
    )


def assert_equal_trajectories(pair: Pair, device: torch.device) -> None:
    # an L2 step carries rounding on where the sign forgets it: 1e-15 has become 1e-10 after 21 steps
    grown = 1e3 if pair.fast.recipe.attack.threat == "l2" else 1.0
    for epoch in range(
        pair.fast.recipe.optim.epochs
    ):  # weights are deferred to epoch 1, where the rate drops too
        pair.fast.start_epoch(epoch)
        pair.slow.start_epoch(epoch)
        for images, labels in batches(device, torch.float64, epoch):
            fast, slow = pair.fast.step(images, labels), pair.slow.step(images, labels)
            assert torch.allclose(fast.images, slow.images, rtol=0, atol=grown * 1e-12)
            assert fast.losses.keys() == slow.losses.keys()
            for name, ours in fast.losses.items():
                assert torch.allclose(ours, slow.losses[name], rtol=1e-9, atol=1e-12), name
            assert int(fast.correct) == int(slow.correct)
            for name, ours, theirs in pair.states():  # weights and BatchNorm statistics
                assert torch.allclose(ours, theirs, rtol=1e-8, atol=grown * 1e-10), name
    assert int(pair.fast.zero) == int(pair.slow.zero)
    assert int(pair.fast.nonfinite) == int(pair.slow.nonfinite) == 0


@pytest.mark.parametrize(
    ("method", "network"),
    [
        *((row.name, "resnet18") for row in rows() if row.family == PAPER),
        # between them all pieces of the other rows
        *((name, "small") for name in ("mart", "robal-r", "cdt", "srat:reat", "harl", "robustlt:trades-awp")),
    ],
)
def test_each_half_of_a_step_agrees_in_float32(method: str, network: str, device: torch.device) -> None:
    pair = make_pair(device, torch.float32, method=method, **{"attack.steps": 1, "model.name": network})
    for epoch in range(2):
        pair.fast.start_epoch(epoch)
        pair.slow.start_epoch(epoch)
        for images, labels in batches(device, torch.float32, epoch):
            common = images
            if pair.fast.row.adversarial:
                ours, common = pair.fast.attack(images, labels), pair.slow.attack(images, labels)
                # one step: later ones make rounding into whole steps (float64 compares those)
                assert float(((ours - common).abs() > 1e-6).double().mean()) < 0.01
                assert (
                    float((ours - images).abs().max()) <= 0.05 * float(pair.slow.radii(labels).max()) + 1e-6
                )
                torch.testing.assert_close(
                    pair.fast.noise.get_state(), pair.slow.noise.get_state(), rtol=0, atol=0
                )
                pair.fast.model.load_state_dict(pair.slow.model.state_dict())
            fast = pair.fast.update(common, labels, *pair.fast.clean(images))
            slow = pair.slow.update(common, labels, images)
            for name, value in fast.losses.items():
                assert torch.allclose(value, slow.losses[name], rtol=1e-5, atol=1e-6), name
            for name, mine, theirs in pair.states():
                assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-5), name
            pair.fast.model.load_state_dict(pair.slow.model.state_dict())
            momentum = copy.deepcopy(pair.slow.optimizer.state_dict()["state"])
            groups = pair.fast.optimizer.state_dict()["param_groups"]
            pair.fast.optimizer.load_state_dict({"state": momentum, "param_groups": groups})


def test_a_base_loss_without_a_formula_is_no_cross_entropy(device: torch.device) -> None:
    """A name that nobody handles would train cross-entropy in both engines, and they would agree."""
    pair = make_pair(device, torch.float32, method="ce")
    rows = [replace(pair.fast.row, base="new"), replace(pair.fast.row, terms={"new": 1.0})]
    for row in rows:
        recipe = SimpleNamespace(
            **{
                name: getattr(pair.fast.recipe, name)
                for name in ("loss", "attack", "optim", "feedback", "stages", "reduction", "seed")
            },
            row=row,
        )
        with pytest.raises(UserError, match=r"term = 'new': one of ce, focal, ldam, .*separation"):
            Objective(recipe, COUNTS, UNDER, device)
        with pytest.raises(
            UserError, match=r"run\.engine = 'reference': the reference has no formula of the term new"
        ):
            ReferenceEngine(recipe, pair.slow.model, COUNTS, UNDER)


def test_an_inner_loss_or_threat_model_that_the_reference_lacks(device: torch.device) -> None:
    """Registered by a plug-in: the fast engine takes it, the reference takes nothing else in its place."""
    inner("unlikely")(lambda batch: -batch.logits.mean())
    threat("half")(type("Half", (threat["linf"],), {"title": "half"}))
    try:
        for field, name, what in (
            ("attack.loss", "unlikely", "inner loss"),
            ("attack.threat", "half", "threat model"),
        ):
            with pytest.raises(UserError, match=f"the reference has no formula of the {what} {name}"):
                make_pair(device, torch.float32, **{"method": "ce", field: name})
    finally:
        inner.remove("unlikely")
        threat.remove("half")
    for field, name, meant in (("attack.loss", "klo", "kl"), ("attack.threat", "linff", "linf")):
        with pytest.raises(UserError, match=rf"{field} = '{name}': one of .*{meant}"):
            make_pair(device, torch.float32, **{field: name})


@pytest.mark.parametrize(
    ("field", "changes"),
    [("loss.kl_factors", {"method": "trades"}), ("attack.radius_factors", {"attack.radius": "vector"})],
)
def test_both_engines_want_a_factor_for_each_class(
    field: str, changes: dict[str, object], device: torch.device
) -> None:
    pair = make_pair(device, torch.float32, **changes | {field: (1.0, 1.0, 1.0, 1.0)})
    recipe = pair.fast.recipe.replace({field: (1.0, 2.0)})
    for engine in (FastEngine, ReferenceEngine):
        with pytest.raises(UserError, match=rf"{field} = '2 numbers': 4 numbers are needed, one a class"):
            engine(recipe, pair.slow.model, COUNTS, UNDER)


def test_bf16_attacks_are_as_strong_as_fp32_ones(device: torch.device) -> None:
    """numerics.md "The ladder of equivalence": bf16-crafted examples reach >= 99 % of the loss of fp32-crafted ones."""
    fields = {"data.name": "digits", "method": "natural", "model.width": 8, "optim.lr": 0.05}
    recipe = build_recipe("digits", fields).resolve()
    split = load_split(recipe)
    loader = MemoryLoader(split.train, batch_size=64, device=device, shuffle=True)

    def engine(precision: str) -> FastEngine:
        model = build_model(recipe, classes=10, channels=1, moments=None).to(device)
        chosen = recipe.replace({"run.precision": precision, "attack.bn": "running"})
        return FastEngine(chosen, model, split.counts, split.under)

    full, half = engine("fp32"), engine("bf16")
    for epoch in range(4):
        for images, labels in loader.epoch(epoch):
            full.step(images, labels)
    half.model.load_state_dict(full.model.state_dict())
    judge = copy.deepcopy(full.model).eval()
    crafted = {"full": 0.0, "half": 0.0, "clean": 0.0}
    for images, labels in loader.epoch(9):
        examples = {"full": full.attack(images, labels), "half": half.attack(images, labels), "clean": images}
        for kind, batch in examples.items():
            crafted[kind] += torch.nn.functional.cross_entropy(judge(batch), labels).item()
    assert crafted["full"] > 2 * crafted["clean"]  # otherwise the comparison says nothing
    assert crafted["half"] >= 0.99 * crafted["full"]
    assert int(half.nonfinite) == int(full.nonfinite) == 0
