"""Adversarial weight perturbation: the published step by hand, when it begins, and what it leaves."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.nn import functional

from srat_fast.training.step import FastEngine
from tests.training import tape
from tests.training.test_capture import engine_of, loader_of, recipe_of

AWP = {"method": "trades-awp", "loss__kl_weight": 2.0, "optim__awp_gamma": 0.02, "run__capture": "off"}


def engine_in_double(**changes: object) -> FastEngine:
    engine = engine_of(recipe_of(**(AWP | changes)))
    model = engine.model.double()
    return FastEngine(engine.recipe, model, [8, 6, 4, 2], [2, 3])


def trades(model: torch.nn.Module, clean: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """CE(x) + 2 KL(p(x) || p(x')), x first."""
    before, after = model(clean), model(images)
    divergence = functional.kl_div(
        after.log_softmax(dim=1), before.log_softmax(dim=1), reduction="batchmean", log_target=True
    )
    return functional.cross_entropy(before, labels) + 2.0 * divergence


def test_the_update_is_the_published_one() -> None:
    """Gradient and weight decay at w + v, then v is subtracted; BatchNorm sees x and x' once, at w + v."""
    engine = engine_in_double(optim__clip_norm=0.5, optim__nesterov=True)
    engine.start_epoch(0)
    plain, proxy = copy.deepcopy(engine.model), copy.deepcopy(engine.model)
    optim = engine.recipe.optim
    sgd = torch.optim.SGD(plain.parameters(), lr=optim.lr / 5 if optim.warmup_epochs == 5 else optim.lr,
                          momentum=0.9, weight_decay=optim.weight_decay, nesterov=True)  # fmt: skip
    sgd.param_groups[0]["lr"] = engine.optimizer.param_groups[0]["lr"]
    for images, labels in loader_of().epoch(0):
        clean = images.double().contiguous(memory_format=torch.channels_last)
        images = (clean + 0.05 * torch.randn(clean.shape, dtype=torch.float64).sign()).clamp(0, 1)
        proxy.load_state_dict(plain.state_dict())
        proxy.zero_grad()
        trades(proxy, clean, images, labels).backward()
        moves = {}
        for (name, w), g in zip(plain.named_parameters(), proxy.parameters(), strict=True):
            if w.dim() > 1:
                assert "weight" in name
                moves[name] = 0.02 * w.detach().norm() * g.grad / g.grad.norm()
        with torch.no_grad():
            for name, v in moves.items():
                plain.get_parameter(name).add_(v)
        sgd.zero_grad()
        total = trades(plain, clean, images, labels)
        total.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        sgd.step()
        with torch.no_grad():
            for name, v in moves.items():
                plain.get_parameter(name).sub_(v)
        found = engine.update(images, labels, clean)
        torch.testing.assert_close(found.losses["total"], total.detach(), rtol=1e-12, atol=0)
        for (name, ours), theirs in zip(
            engine.model.state_dict().items(), plain.state_dict().values(), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13, msg=name)


def test_nothing_is_perturbed_before_its_epoch() -> None:
    plain, late = (
        engine_of(recipe_of(**(AWP | changes)))
        for changes in ({"optim__awp_gamma": 0.0}, {"optim__awp_epoch": 1})
    )
    for epoch in range(2):
        for engine in (plain, late):
            engine.start_epoch(epoch)
        for images, labels in loader_of().epoch(epoch):
            for engine in (plain, late):
                engine.step(images, labels)
        same = [torch.equal(a, b) for a, b in zip(plain.state(), late.state(), strict=True)]
        assert all(same) == (epoch == 0)


def test_captured_it_is_recorded_anew_where_it_begins(monkeypatch) -> None:
    tape.install(monkeypatch)
    changes = AWP | {"method": "robustlt:trades-awp", "optim__awp_epoch": 1, "optim__clip_norm": 1.0}
    eager, captured = (
        engine_of(recipe_of(**(changes | {"run__capture": choice}))) for choice in ("off", "on")
    )
    made = []
    for epoch in range(3):  # the radius grows from 0 meanwhile
        eager.start_epoch(epoch)
        captured.start_epoch(epoch)
        for images, labels in loader_of().epoch(epoch):
            theirs, ours = eager.step(images, labels), captured.step(images, labels)
            torch.testing.assert_close(ours.losses["total"], theirs.losses["total"])
        made.append(tape.Graph.made)
    assert made == [4, 8, 8]  # attack and update for each of two shapes
    for mine, other in zip(captured.state(), eager.state(), strict=True):
        torch.testing.assert_close(mine, other)
