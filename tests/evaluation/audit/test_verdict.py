"""What passes, what is not run, what a broken model gets, and input that is none."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from srat_fast import UserError, audit
from srat_fast.evaluation.audit import summary
from srat_fast.evaluation.audit.checks import allowed, at_most, few, tail
from tests.evaluation.audit.networks import EPSILON, load

QUICK = {"epsilon": EPSILON, "steps": 10, "autoattack": 0, "queries": 50}
#: Where the outcome does not matter, only that it is the same.
TINY = {"epsilon": EPSILON, "steps": 2, "autoattack": 0, "queries": 0}


def failed(report: dict) -> set[str]:
    return {check["name"] for check in report["checks"] if check["verdict"] == "failed"}


def test_an_honest_model_passes_with_autoattack(honest, natural, test_images) -> None:
    pytest.importorskip("pyautoattack")
    images, labels = test_images
    before = torch.get_rng_state()
    names: list[str] = []
    report = audit(
        honest, images, labels, epsilon=EPSILON, surrogate=natural, autoattack=10, queries=300,
        progress=lambda name, done, total: names.append(name),
    )  # fmt: skip
    assert report["verdict"] == "reliable", summary(report)
    assert summary(report) == "reliable"
    assert report["problems"] == report["not_run"] == []
    assert {check["verdict"] for check in report["checks"]} == {"passed"}
    assert len(report["checks"]) == 17
    assert report["subset"] == 100
    assert report["attack"] == {
        "name": "pgd-20",
        "threat": "linf",
        "epsilon": 0.1,
        "step_size": 0.025,
        "steps": 20,
    }
    assert 0.5 < report["accuracy"]["robust"]["overall"] < report["accuracy"]["clean"]["overall"]
    assert {"pgd-100", "pgd-20x5", "cw-20", "square", "autoattack", "noise-5"} <= set(names)
    torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)
    assert all(p.grad is None and p.requires_grad for p in honest.parameters())
    for check in report["checks"]:
        assert check["meaning"]
        assert check["figure"] <= check["threshold"]


def test_what_cannot_be_run_is_named(natural, test_images, monkeypatch) -> None:
    import importlib.util

    images, labels = test_images
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "pyautoattack" else real(name, *rest)
    )
    report = audit(natural, images[:30], labels[:30], **(QUICK | {"autoattack": 5}))
    assert report["not_run"] == ["transfer", "black box", "AutoAttack"]
    assert summary(report) == "reliable (not run: transfer, black box, AutoAttack)"
    reasons = {check["name"]: check["found"] for check in report["checks"]}
    assert reasons["transfer"] == "no surrogate was given"
    assert "pip install 'srat-fast[audit]'" in reasons["AutoAttack"]


def test_a_surrogate_that_learned_nothing_is_no_test(natural, test_images) -> None:
    images, labels = test_images
    blank = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    report = audit(natural, images[:30], labels[:30], surrogate=blank, **QUICK)
    (transfer,) = (check for check in report["checks"] if check["name"] == "transfer")
    assert transfer["verdict"] == "not run"
    assert "is right on" in transfer["found"]


class With(nn.Module):
    """A network with something wrong in how it is run."""

    def __init__(self, inner: nn.Module, how) -> None:
        super().__init__()
        self.inner, self.how = inner, how

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self.inner(x))


def some_nan(logits: Tensor) -> Tensor:
    return torch.where(torch.arange(len(logits))[:, None] == 0, float("nan"), logits)


def test_a_model_in_training_mode_is_caught(natural, test_images) -> None:
    images, labels = test_images
    model = nn.Sequential(natural, nn.BatchNorm1d(10)).train()
    report = audit(model, images[:40], labels[:40], **QUICK)
    assert {"mode", "batch independence"} <= failed(report)
    assert "is in training mode" in report["problems"][0]
    assert model.training, "its mode is left as it was"


def test_half_precision_and_autocast_are_caught(natural, test_images) -> None:
    images, labels = test_images
    report = audit(With(natural, lambda z: z.bfloat16()).eval(), images[:20], labels[:20], **QUICK)
    assert "logits are bfloat16" in report["problems"][0]
    with torch.autocast("cpu", torch.bfloat16):
        report = audit(natural, images[:20], labels[:20], **QUICK)
    assert report["problems"][0] == "mode: autocast is on"


def test_a_compiled_model_is_caught(natural, test_images) -> None:
    images, labels = test_images
    compiled = torch.compile(natural, backend="eager")
    assert "mode" in failed(audit(compiled.eval(), images[:20], labels[:20], **QUICK))


def test_logits_that_are_no_numbers_end_the_audit(natural, test_images) -> None:
    images, labels = test_images
    report = audit(With(natural, some_nan).eval(), images[:20], labels[:20], **QUICK)
    assert {"finite logits", "measurable"} <= failed(report)
    assert "no accuracy is reported" in report["problems"][-1]
    assert report["accuracy"] == {}


def test_a_constant_model_cannot_be_fooled_and_is_not_believed(test_images) -> None:
    images, labels = test_images

    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.one_hot(torch.zeros(len(x), dtype=torch.int64), 10).float()

    report = audit(Constant().eval(), images, labels, **QUICK)
    assert {"zero gradients", "measurable"} <= failed(report)
    assert "no gradient reaches the images" in report["problems"][-1]


def test_a_model_that_hides_its_input_is_not_believed(natural, test_images) -> None:
    images, labels = test_images

    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = natural

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x.detach())

    report = audit(Hidden().eval(), images, labels, **QUICK)
    assert {"gradient against differences", "zero gradients", "measurable"} <= failed(report)


BAD = [
    ({"images": torch.zeros(3, 64)}, r"\[N, C, H, W\] float32 is needed"),
    ({"images": torch.full((4, 1, 8, 8), 1.5)}, r"pixels must lie in \[0, 1\]"),
    ({"images": torch.full((4, 1, 8, 8), float("nan"))}, r"pixels must lie in \[0, 1\]"),
    ({"labels": torch.zeros(3, dtype=torch.int64)}, "one for each image"),
    ({"labels": torch.zeros(4)}, "one for each image"),
    ({"epsilon": 0.0}, "epsilon = 0.0: a number > 0 and <= 1"),
    ({"step_size": 2.0}, "step_size = 2.0"),
    ({"steps": 0}, "steps = 0: an integer >= 1"),
    ({"steps": 2.5}, "steps = 2.5: an integer >= 1"),
    ({"epsilon": "8/255"}, "epsilon = '8/255': a number > 0 and <= 1"),
    ({"epsilon": float("nan")}, "epsilon = nan"),
    ({"step_size": "0.1"}, "step_size = '0.1'"),
    ({"batch_size": 0}, "batch_size = 0: an integer >= 1"),
    ({"autoattack": -1}, "autoattack = -1: an integer >= 0"),
    ({"queries": -1}, "queries = -1: an integer >= 0"),
    ({"queries": "many"}, "queries = 'many': an integer >= 0"),
    ({"seed": None}, "seed = None: an integer >= 0"),
    ({"images": torch.zeros(4, 1, 8, 8, dtype=torch.uint8)}, r"\[N, C, H, W\] float32 is needed"),
    ({"images": torch.zeros(0, 1, 8, 8), "labels": torch.zeros(0, dtype=torch.int64)}, "float32 is needed"),
    ({"images": [torch.zeros(1, 8, 8)] * 4}, "images = 'list': one tensor with all of them is needed"),
    ({"images": iter([(torch.zeros(4, 1, 8, 8), 0)])}, "images = 'list_iterator': one tensor"),
    ({"images": np.zeros((4, 1, 8, 8), np.float32)}, "images = 'ndarray': one tensor"),
    ({"labels": [0, 1, 2, 3]}, "labels = 'list': one tensor"),
    (
        {"images": torch.zeros(4, 3, 8, 8)},
        r"model: fails on images \[2, 3, 8, 8\]: RuntimeError: Given groups=1",
    ),
    ({"labels": torch.arange(7, 11)}, "labels = '7 to 10': 0 to 9: the model gives 10 logits"),
    ({"labels": torch.arange(-1, 3)}, "labels = '-1 to 2': 0 to 9"),
    ({"surrogate": nn.Sequential(nn.Flatten(), nn.Linear(64, 3))}, "surrogate = 3: a model of 10 classes"),
    ({"surrogate": nn.Linear(8, 8).to("meta")}, "surrogate: is on meta and the images are on cpu"),
]


class Odd(nn.Module):
    """A module that computes whatever it is told to."""

    def __init__(self, forward) -> None:
        super().__init__()
        self.forward = forward


ODD = [
    (lambda x: (x.flatten(1), x), "model = 'tuple': must return its logits and nothing else"),
    (lambda x: {"logits": x.flatten(1)}, "model = 'dict': must return its logits"),
    (lambda x: x, r"model = '\[2, 1, 8, 8\] torch.float32': logits \[2, classes\]"),
    (lambda x: x.flatten(1)[:1], r"logits \[2, classes\]"),
    (lambda x: x.flatten(1)[:, :1], "of two or more classes"),
    (lambda x: x.flatten(1).argmax(dim=1, keepdim=True).expand(-1, 10), "torch.int64': logits"),
    (lambda x: x.sub_(0.5).flatten(1), "model: changes the images that it is given"),
]


@pytest.mark.parametrize(("forward", "says"), ODD, ids=[says for _, says in ODD])
def test_a_model_that_cannot_be_audited(forward, says) -> None:
    images = torch.ones(4, 1, 8, 8)
    with pytest.raises(UserError, match=says) as caught:
        audit(Odd(forward).eval(), images, torch.zeros(4, dtype=torch.int64), **QUICK)
    assert "\n" not in str(caught.value)
    assert bool((images == 1).all()), "the caller's images are the caller's"


def test_a_function_or_itself_as_a_model(natural) -> None:
    images, labels = torch.zeros(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(UserError, match=r"model = 'function': a torch.nn.Module is needed"):
        audit(lambda x: x.flatten(1), images, labels, **QUICK)
    with pytest.raises(UserError, match="surrogate: another model than the audited one"):
        audit(natural, images, labels, surrogate=natural, **QUICK)


def outcome(report: dict) -> tuple:
    """What an audit says, without its clock."""
    return report["verdict"], report["checks"], report["accuracy"]


def surrounded(where) -> contextlib.AbstractContextManager:
    """A caller's surroundings."""
    stack = contextlib.ExitStack()
    if where == "float64":
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float64)
    elif where == "medium":
        stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision("medium")
    elif where == "deterministic":
        stack.callback(torch.use_deterministic_algorithms, False)
        torch.use_deterministic_algorithms(True, warn_only=True)
    else:
        stack.enter_context(where())
    return stack


SURROUNDINGS = [
    torch.no_grad,
    torch.inference_mode,
    lambda: torch.device("meta"),
    "float64",
    "medium",
    "deterministic",
]


@pytest.mark.parametrize("where", SURROUNDINGS, ids=["no_grad", "inference", "device", *SURROUNDINGS[3:]])
def test_the_caller_s_state_changes_nothing_and_stays(where, natural, test_images) -> None:
    images, labels = (t[:10] for t in test_images)
    natural[1].train()  # a mode of its own, which the audit is to name and to leave alone
    natural[0].weight.requires_grad_(False)
    plain = audit(natural, images, labels, **TINY)
    assert "mode" in failed(plain)
    with surrounded(where):
        state = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype(),
                 torch.get_default_device(), torch.get_float32_matmul_precision(),
                 torch.is_deterministic_algorithms_warn_only_enabled())  # fmt: skip
        random = torch.get_rng_state() if where is not SURROUNDINGS[2] else None
        given = images.clone() if where is not SURROUNDINGS[2] else images
        report = audit(natural, given, labels, **TINY)
        assert state == (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype(),
                         torch.get_default_device(), torch.get_float32_matmul_precision(),
                         torch.is_deterministic_algorithms_warn_only_enabled())  # fmt: skip
        if random is not None:
            torch.testing.assert_close(torch.get_rng_state(), random, rtol=0, atol=0)
    assert outcome(report) == outcome(plain)
    assert [m.training for m in natural][:3] == [False, True, False]
    assert [p.requires_grad for p in natural.parameters()][:2] == [False, True]


def test_a_model_made_in_inference_mode_has_no_gradients(test_images) -> None:
    with torch.inference_mode(), pytest.raises(UserError, match=r"was made in torch\.inference_mode"):
        audit(load("natural"), *test_images, **TINY)


def test_an_audit_leaves_running_statistics_alone(natural, test_images) -> None:
    images, labels = (t[:10] for t in test_images)
    model = nn.Sequential(natural, nn.BatchNorm1d(10)).train()
    audit(model, images, labels, **TINY)
    assert float(model[1].running_mean.abs().max()) == 0.0
    assert int(model[1].num_batches_tracked) == 0


def test_a_black_box_without_queries_was_not_run(natural, test_images) -> None:
    images, labels = (t[:10] for t in test_images)
    report = audit(natural, images, labels, **TINY)
    assert {"black box", "AutoAttack"} <= set(report["not_run"])
    assert {c["name"]: c["found"] for c in report["checks"]}["black box"] == "left out"


@pytest.mark.parametrize(("change", "says"), BAD, ids=[says for _, says in BAD])
def test_input_that_cannot_be(change, says, natural) -> None:
    arguments = {"images": torch.zeros(4, 1, 8, 8), "labels": torch.zeros(4, dtype=torch.int64), **QUICK}
    with pytest.raises(UserError, match=says):
        audit(natural, **(arguments | change))


def test_the_binomial_tail() -> None:
    import scipy.stats

    for count, total, share in (
        (0, 10, 0.1),
        (1, 200, 0.005),
        (4, 200, 0.005),
        (60, 10000, 0.005),
        (200, 200, 0.03),
    ):
        expected = scipy.stats.binom.sf(count - 1, total, share)
        assert tail(count, total, share) == pytest.approx(expected, abs=1e-9)


def test_how_many_images_a_share_explains() -> None:
    assert allowed(200, 0.005) == 3
    assert allowed(10, 0.005) == 0
    assert tail(4, 200, 0.005) < 0.05 <= tail(3, 200, 0.005)
    assert 50 < allowed(10000, 0.005) < 70
    assert few("x", 3, 200, 0.005, "", "").verdict == "passed"
    assert few("x", 4, 200, 0.005, "", "").verdict == "failed"
    assert at_most("x", math.nan, 1.0, "", "").verdict == "failed"
