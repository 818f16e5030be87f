"""The L2 ball, and a threat model as one class: training, evaluation, audit, records and titles follow it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from srat_fast import audit, build_recipe, evaluate, plugins
from srat_fast.attacks.named import named_attack
from srat_fast.attacks.pgd import pgd
from srat_fast.attacks.threat import count_factors, training_start
from srat_fast.cli import app
from srat_fast.console import Console
from srat_fast.errors import UserError
from srat_fast.recipe import radius_title
from srat_fast.registry import threat
from srat_fast.report.collect import find_runs
from srat_fast.report.groups import group_runs
from srat_fast.sharing.card import model_card
from srat_fast.training.step import FastEngine
from srat_fast.training.trainer import train
from tests.training.test_capture import COUNTS, engine_of, loader_of, recipe_of

FIELDS = {
    "data.name": "digits", "method": "srat-ldam", "model.width": 4, "optim.epochs": 2, "attack.steps": 2,
    "eval_attack.steps": 3, "data.limit": 120, "data.test_limit": 40, "run.device": "cpu", "run.compile": "off",
    "run.tensorboard": False,
}  # fmt: skip


@pytest.fixture
def lonely() -> Iterator[str]:
    """A ball that pyautoattack does not know."""
    threat("lonely")(type("Lonely", (threat["l2"],), {"title": "lonely", "autoattack": None}))
    yield "lonely"
    threat.remove("lonely")


def test_training_evaluation_audit_and_titles_of_another_ball(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = {
        "attack.threat": "l2",
        "attack.epsilon": 1.5,
        "attack.step_size": None,
        "eval_attack.step_size": 0.5,
    }
    for name, fields in (("a", own), ("b", {})):
        train(build_recipe(None, FIELDS | fields), tmp_path / name, console=Console())
    record = json.loads((tmp_path / "a" / "record.json").read_text())
    kept = record["recipe"]
    assert (kept["attack"]["threat"], kept["attack"]["step_size"]) == ("l2", 0.375)
    assert (kept["eval_attack"]["threat"], kept["eval_attack"]["epsilon"]) == ("l2", 1.5)
    assert record["robust"]["overall"] <= record["standard"]["overall"]

    rows = evaluate(tmp_path / "a", "clean,fgsm,pgd-3,cw-3,noise-2", epsilons=[0.5, 3], device="cpu")
    assert rows["pgd-3 eps 3"] | {"threat": "l2", "epsilon": 3.0, "step_size": 1.0} == rows["pgd-3 eps 3"]
    assert rows["pgd-3 eps 3"]["overall"] <= rows["pgd-3 eps 0.5"]["overall"]
    foreign = evaluate(tmp_path / "a", "pgd-3", epsilons=0.1, threat="linf", device="cpu")
    assert foreign["pgd-3 linf"]["threat"] == "linf"
    capsys.readouterr()
    command = ["evaluate", "b", "--attack", "pgd-3,fgsm", "--device", "cpu"]
    for options, code, says in (
        (["--threat", "l2", "--eps", "1.5"], 0, "| worst-case l2 eps 1.5 |"),
        (
            ["--threat", "l2"],
            2,
            "eval_attack.epsilon: a radius in l2 is needed (--eps): the run's own is one in linf",
        ),
        (["--eps", "2"], 2, "a number > 0 and <= 1 with threat = linf"),
        (["--threat", "l3", "--eps", "2"], 2, "--threat: eval_attack.threat = 'l3': one of linf, l2"),
    ):
        with pytest.raises(SystemExit) as ended:
            app.main(command + options)
        said = "".join(capsys.readouterr())
        assert (ended.value.code, says in said) == (code, True), said
    titles = [group.title for group in group_runs(find_runs([tmp_path]))]
    assert [title.partition("robust = ")[2] for title in titles] == [
        "PGD-3 at L2 eps 1.5",
        "PGD-3 at L-inf eps 0.1",
    ]
    (alone,) = group_runs(find_runs([tmp_path / "b"]))
    assert alone.title.endswith("robust = PGD-3 at eps 0.1")
    card = model_card(record, weights="last", files=[], image=(1, 8), normalised=False, checked_on=["clean"])
    assert "| protocol | srat: attack and schedule of the SRAT paper" in card
    assert "PGD-2 examples, L2 eps 1.5, step 0.375" in card
    assert "PGD-3, L2 eps 1.5 |" in card
    assert '| threat model | L2 eps 1.5; RobustBench: `threat_model="L2"` |' in card
    later = json.loads((tmp_path / "b" / "record.json").read_text())
    card = model_card(later, weights="last", files=[], image=(1, 8), normalised=False, checked_on=["clean"])
    assert "PGD-3, eps 0.1 |" in card
    assert '| threat model | L-inf eps 0.1; RobustBench: `threat_model="Linf"` |' in card
    assert "pgd-3 l2, eps 1.5 (evaluated later)" in card


def test_an_audit_in_another_ball(lonely: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(75, 12), nn.ReLU(), nn.Linear(12, 4)).eval()
    images = torch.rand(24, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    labels = model(images).argmax(dim=1)
    report = audit(model, images, labels, threat="l2", epsilon=0.3, steps=3, autoattack=4, queries=10)
    assert report["attack"] == {
        "name": "pgd-3",
        "threat": "l2",
        "epsilon": 0.3,
        "step_size": 0.075,
        "steps": 3,
    }
    checks = {check["name"]: check for check in report["checks"]}
    assert "at eps 8.66" in checks["larger radius"]["found"], "the diagonal of 75 pixels"
    assert checks["threat model"]["verdict"] == "passed"
    assert {"passed", "failed"} >= {checks[name]["verdict"] for name in ("black box", "AutoAttack")}
    report = audit(model, images, labels, threat=lonely, epsilon=0.3, steps=3, autoattack=4, queries=10)
    found = {check["name"]: check["found"] for check in report["checks"]}
    assert found["black box"] == found["AutoAttack"] == "AutoAttack has no lonely"
    with pytest.raises(UserError, match="AutoAttack has no lonely; take fgsm"):
        named_attack("square", threat_model=lonely, epsilon=0.3, step_size=0.1, classes=4)
    with pytest.raises(UserError, match=r"epsilon = 500\.0: a number > 0 and <= 400"):
        audit(model, images, labels, threat="l2", epsilon=500.0)


def test_an_attack_climbs_in_another_ball() -> None:
    weight = torch.randn(12, generator=torch.Generator().manual_seed(0))
    images, ball = torch.full((3, 3, 2, 2), 0.5), threat["l2"](0.2)

    def linear(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x.flatten(1) @ weight, -(x.flatten(1) @ weight)], dim=1)

    found = pgd(linear, images, torch.zeros(3, dtype=torch.int64), ball=ball, steps=10, step_size=0.05)
    worst = images - 0.2 * (weight / weight.norm()).view(3, 2, 2)
    assert torch.allclose(found, worst, atol=1e-6)
    attack = named_attack("noise-1", threat_model="l2", epsilon=0.2, step_size=0.1, classes=2)
    start = attack.rounds[0].start(images, torch.Generator().manual_seed(0))
    assert torch.allclose((start - images).flatten(1).norm(dim=1), torch.tensor(0.2))


IMAGES = torch.rand(6, 3, 5, 4, generator=torch.Generator().manual_seed(2)).round(decimals=1)  # 0 and 1 too


def lengths_of(moved: torch.Tensor) -> torch.Tensor:
    return moved.flatten(1).norm(dim=1)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("last", [False, True])
def test_l2_steps_keep_to_the_ball_the_range_and_the_storage(last: bool) -> None:
    images = IMAGES.contiguous(memory_format=torch.channels_last) if last else IMAGES
    for epsilon, step_size in ((0.01, 0.3), (0.5, 0.125), (3.0, 0.1), (8.0, 5.0)):
        ball = threat["l2"](epsilon)
        state = ball.random_start(images, seeded())
        assert state.stride() == images.stride()
        for k in range(5):
            gradient = torch.randn(images.shape, generator=seeded(k))
            assert ball.step(state, gradient, images, step_size) is state
            assert ball.overshoot(state, images).max() <= 1e-6
            assert float(state.min()) >= 0
            assert float(state.max()) <= 1
        assert lengths_of(state - images).max() > 0.5 * min(epsilon, 1.0), "it went somewhere"


def test_l2_step_of_zero_tiny_and_non_finite_gradients() -> None:
    """One that is zero stays; one of a saturated softmax goes the whole way; NaN moves no pixel, infinity does."""
    clean, ball = torch.full((5, 1, 1, 2), 0.5), threat["l2"](1.0)
    gradient = torch.tensor(
        [[0.0, -0.0], [3e-30, -4e-30], [float("nan"), 2.0], [float("-inf"), 7.0], [3e38, 3e38]]
    ).view(clean.shape)
    bad, zero = (torch.zeros(1, dtype=torch.int64) for _ in range(2))
    kept = gradient.clone()
    moved = ball.step(clean.clone(), gradient, clean, 0.25, bad, zero) - clean
    root = 0.25 / 2**0.5
    expected = torch.tensor([[0.0, 0.0], [0.15, -0.2], [0.0, 0.25], [-0.25, 0.0], [root, root]])
    assert torch.allclose(moved.flatten(1), expected, atol=1e-7)
    assert (int(bad), int(zero)) == (2, 2)
    torch.testing.assert_close(
        gradient.nan_to_num(), kept.nan_to_num(), rtol=0, atol=0, msg="the gradient is the caller's"
    )


def test_l2_starts_are_uniform_in_the_ball_and_noise_is_on_its_sphere() -> None:
    """P(|d| <= r) = (r / eps)^d: of 4 pixels half the points lie within 0.84 of the radius."""
    clean, ball = torch.full((8000, 1, 2, 2), 0.5), threat["l2"](0.4)
    start = ball.random_start(clean, seeded()) - clean
    for share in (0.1, 0.5, 0.9):
        inside = float((lengths_of(start) <= 0.4 * share**0.25).double().mean())
        assert abs(inside - share) < 0.02, share
    assert float((start.mean(dim=0) / 0.4).abs().max()) < 0.02, "no direction is preferred"
    noise = ball.noise(clean, seeded()) - clean
    assert torch.allclose(lengths_of(noise), torch.tensor(0.4), atol=1e-6)
    for name in ("random_start", "noise"):
        draw = getattr(threat["l2"](0.7), name)
        last = draw(IMAGES.contiguous(memory_format=torch.channels_last), seeded())
        assert torch.allclose(draw(IMAGES, seeded()), last, rtol=0, atol=1e-7), "whatever the memory format"


def test_l2_radii_and_steps_of_each_image_are_those_of_runs_of_one_image() -> None:
    radii, steps = torch.tensor([0.1, 0.5, 1.0, 2.0, 4.0, 7.0]), torch.tensor([0.04, 0.1, 0.6, 1.0, 0.2, 9.0])
    together, alone = threat["l2"](radii), [threat["l2"](radius) for radius in radii.tolist()]
    for name in ("random_start", "noise"):
        found = getattr(together, name)(IMAGES, seeded())
        for i, ball in enumerate(alone):
            assert torch.allclose(found[i], getattr(ball, name)(IMAGES, seeded())[i], rtol=0, atol=1e-6)
    start = together.random_start(IMAGES, seeded())
    gradient = torch.randn(IMAGES.shape, generator=seeded(1))
    for step_size in (steps, 0.3):
        moved = together.step(start.clone(), gradient, IMAGES, step_size)
        for i, ball in enumerate(alone):
            one = step_size if isinstance(step_size, float) else step_size[i].item()
            theirs = ball.step(start[[i]].clone(), gradient[[i]], IMAGES[[i]], one)
            assert torch.allclose(moved[[i]], theirs, rtol=0, atol=1e-6)
    far = together.overshoot(IMAGES + 0.5, IMAGES)
    for i, ball in enumerate(alone):
        torch.testing.assert_close(far[[i]], ball.overshoot(IMAGES[[i]] + 0.5, IMAGES[[i]]), rtol=0, atol=0)


def test_l2_overshoot_counts_the_ball_the_range_and_nan_and_rounding_is_within_tolerance() -> None:
    ball, clean = threat["l2"](0.5), torch.full((5, 1, 2, 2), 0.5)
    moved = clean.clone()
    moved[1] += 0.25  # on the sphere
    moved[2] += 0.3  # 0.6 away
    moved[3, 0, 0, 0] = 1.2  # out of the range by 0.2, and as far out of the ball
    moved[4, 0, 0, 0] = float("nan")
    expected = torch.tensor([0.0, 0.0, 0.1, 0.2, float("inf")])
    assert torch.allclose(ball.overshoot(moved, clean).float(), expected, atol=1e-6)
    large = torch.rand(2, 3, 224, 224, generator=seeded())
    for epsilon in (0.5, 24.0, 100.0, 387.0):
        ball = threat["l2"](epsilon)
        for found in (
            ball.noise(large, seeded()),
            ball.step(large.clone(), torch.ones_like(large), large, 390.0),
        ):
            assert ball.overshoot(found, large).max() < 0.1 * ball.tolerance


def test_radius_and_step_are_checked_in_their_own_ball() -> None:
    paper = build_recipe("paper")
    recipe = build_recipe("paper", {"attack.threat": "l2", "attack.epsilon": "128/255"}).resolve()
    assert recipe.eval_attack.threat == "l2"
    assert recipe.attack.step_size == recipe.eval_attack.step_size == 32 / 255
    assert recipe.fingerprint() != paper.fingerprint()
    assert (
        paper.replace({"attack.threat": "linf", "eval_attack.threat": "linf"}).fingerprint()
        == paper.fingerprint()
    )
    for changes, says in (
        ({"attack.epsilon": 2}, r"attack\.epsilon = 2\.0: a number > 0 and <= 1 with threat = linf"),
        ({"attack.step_size": 2}, r"attack\.step_size = 2\.0: .*<= 1 with threat = linf"),
        ({"attack.threat": "l2", "attack.epsilon": 401}, r"attack\.epsilon = 401: a number > 0 and <= 400"),
        ({"attack.threat": ["l2"]}, r"attack\.threat = \['l2'\]: "),
        ({"eval_attack.threat": "l2"}, r"eval_attack\.epsilon = 'auto': a radius in l2 is needed"),
    ):
        with pytest.raises(UserError, match=says):
            build_recipe(None, changes)
    for changes, says in (
        ({"attack.threat": "l2"}, r"attack\.epsilon = 0\.1: is a length in linf; give one in l2"),
        ({"attack.threat": "l2", "attack.epsilon": 1}, r"attack\.step_size = 0\.025: is a length in linf"),
    ):
        with pytest.raises(UserError, match=says):  # a recipe's own lengths, unlike those of a named one
            build_recipe("digits").replace(changes)


def test_a_named_recipe_in_another_ball_takes_the_usual_radius_of_it(tmp_path) -> None:
    def lengths(recipe: str | None, **changes: object) -> list[float]:
        found = build_recipe(recipe, {name.replace("_", ".", 1): v for name, v in changes.items()}).resolve()
        parts = (found.attack, found.eval_attack)
        return [x for part in parts for x in (part.epsilon, part.step_size)]

    for name in ("paper", "digits", "smoke"):
        assert lengths(name, attack_threat="l2") == [0.5, 0.125, 0.5, 0.125]
        assert lengths(name, attack_threat="l2", attack_epsilon=1) == [1.0, 0.25, 1.0, 0.25]
    assert lengths("digits", attack_threat="linf") == lengths("digits") == [0.1, 0.025, 0.1, 0.025]
    file = tmp_path / "mine.toml"
    file.write_text('base = "digits"\n[attack]\nthreat = "l2"\nstep_size = 0.2\n')
    assert lengths(str(file)) == [0.5, 0.2, 0.5, 0.125]
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from srat_fast.attacks.threat import L2Ball\nfrom srat_fast.registry import threat\n"
        "@threat('wide')\nclass Wide(L2Ball):\n    title, usual = 'wide', 2.0\n"
    )
    try:
        wide = build_recipe("digits", {"plugin": [str(mine)], "attack.threat": "wide"}).resolve()
        assert (wide.attack.epsilon, wide.attack.step_size) == (2.0, 0.5)
    finally:
        plugins.forget()
    threat("vague")(type("Vague", (threat["l2"],), {"usual": None}))
    try:
        with pytest.raises(UserError, match=r"attack\.epsilon = .*: is a length in linf; give one in vague"):
            lengths("digits", attack_threat="vague")
    finally:
        threat.remove("vague")


def test_titles_of_records_of_other_versions_and_of_plug_ins_that_are_not_there() -> None:
    assert radius_title({"epsilon": 0.1}) == "eps 0.1"
    assert radius_title({"epsilon": 8 / 255}) == "eps 8/255"
    assert radius_title({"epsilon": 0.2}) == "eps 0.2"  # which is 51/255, too
    assert radius_title({"epsilon": 0.1}, always=True) == "L-inf eps 0.1"
    assert radius_title({"epsilon": 0.1, "threat": "lost"}) == "lost eps 0.1"


def test_a_loss_that_compares_with_the_clean_images_starts_elsewhere(tmp_path) -> None:
    fields = FIELDS | {"attack.loss": "kl", "attack.random_start": False}
    with pytest.raises(UserError, match=r"attack\.random_start = False: attack\.loss = kl has no gradient"):
        train(build_recipe(None, fields), tmp_path / "run", console=Console())


@pytest.mark.parametrize("name", ["linf", "l2"])
def test_starts_of_training(name: str) -> None:
    """Two of them leave [0, 1], one the ball: the first step brings them back."""
    clean, ball = torch.rand(400, 1, 5, 5, generator=seeded()).round(), threat[name](0.1)
    moved = {
        kind: training_start(kind, ball, clean, seeded(1)) - clean for kind in ("gaussian", "half-uniform")
    }
    assert float(moved["gaussian"].std()) == pytest.approx(0.001, rel=0.05)
    assert float(moved["gaussian"].mean()) == pytest.approx(0.0, abs=5e-5)
    half = moved["half-uniform"]
    assert float(half.min()) >= -1e-7
    assert float(half.max()) <= 0.1 + 1e-7
    assert torch.histc(half, 10, 0, 0.1).min() > 850  # 1000 expected a bin
    assert float((clean + half).max()) > 1.05
    torch.testing.assert_close(
        training_start("uniform", ball, clean, seeded(1)), ball.random_start(clean, seeded(1)), rtol=0, atol=0
    )
    for kind in ("gaussian", "half-uniform", "uniform"):
        last = IMAGES.contiguous(memory_format=torch.channels_last)
        found = training_start(kind, ball, last, seeded(1))
        assert torch.allclose(found, training_start(kind, ball, IMAGES, seeded(1)), rtol=0, atol=1e-7)
        assert found.stride() == last.stride()
        back = ball.step(found, torch.ones_like(found), last, 0.02)
        assert float(ball.overshoot(back, last).max()) < 1e-6


def test_the_radius_of_a_rare_class_is_larger() -> None:
    """RobustLT on CIFAR-10-LT of ratio 50: multipliers at alpha = 0.3, their mean over the images 1."""
    counts = [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100]
    expected = [0.700, 1.003, 1.129, 1.225, 1.307, 1.378, 1.443, 1.503, 1.558, 1.610]
    found = count_factors(counts, 0.3)
    assert found == pytest.approx(expected, abs=6e-4)
    assert sum(n * x for n, x in zip(counts, found, strict=True)) / sum(counts) == pytest.approx(1.0)
    assert count_factors([7, 7, 7], 0.3) == [1.0, 1.0, 1.0]
    assert count_factors(counts, 0.0) == [1.0] * 10


def examples_of(engine: FastEngine) -> tuple[torch.Tensor, torch.Tensor]:
    """How far each image of a batch is moved, in the engine's norm, and its label."""
    images, labels = next(iter(loader_of().epoch(0)))
    images = (0.5 + 0.2 * (images - 0.5)).contiguous(
        memory_format=torch.channels_last
    )  # not cut off at 0 or 1
    moved = (engine.attack(images, labels) - images).flatten(1)
    l2 = engine.recipe.attack.threat == "l2"
    return (moved.norm(dim=1) if l2 else moved.abs().amax(dim=1)), labels


@pytest.mark.parametrize("ball", ["linf", "l2"])
@pytest.mark.parametrize(
    ("fields", "factors"),
    [
        ({"attack__radius": "count", "attack__radius_strength": 0.5}, count_factors(COUNTS, 0.5)),
        ({"attack__radius": "vector", "attack__radius_factors": (2.0, 1.0, 0.0, 0.5)}, [2.0, 1.0, 0.0, 0.5]),
        ({}, [1.0] * 4),
    ],
)
def test_the_attack_of_an_image_has_the_radius_of_its_class_and_epoch(ball, fields, factors) -> None:
    lengths = {"attack__epsilon": 0.06, "attack__step_size": 0.03, "attack__steps": 3, "attack__threat": ball}
    engine = engine_of(recipe_of(method="ce", optim__epochs=4, attack__radius_ramp=0.5, **lengths, **fields))
    assert engine.radii is not None
    place = engine.radii.factors.data_ptr()
    for epoch, share in enumerate((0.0, 0.5, 1.0, 1.0)):
        engine.start_epoch(epoch)
        moved, labels = examples_of(engine)
        expected = 0.06 * share * torch.tensor(factors)[labels]
        assert torch.allclose(moved, expected, rtol=1e-4, atol=1e-7)
    assert engine.radii.factors.data_ptr() == place, "a captured attack reads it there"


def test_one_radius_for_all_takes_the_scalar_step() -> None:
    """factors of 1 change no bit either."""
    fields = {"method": "ce", "attack__radius": "vector", "attack__radius_factors": (1, 1, 1, 1)}
    plain, same = engine_of(recipe_of(method="ce")), engine_of(recipe_of(**fields))
    assert plain.radii is None
    for engine in (plain, same):
        engine.start_epoch(0)
    torch.testing.assert_close(examples_of(plain)[0], examples_of(same)[0], rtol=0, atol=0)


def test_radii_that_cannot_be_are_refused_in_one_line(tmp_path) -> None:
    @threat("single")
    class Single(threat["linf"]):  # type: ignore[misc]  # a class of the registry
        title = "single"

        def __init__(self, epsilon: float) -> None:
            super().__init__(float(epsilon))

    vector = {"attack.radius": "vector", "attack.radius_factors": [1.0] * 10}
    alone = {"attack.threat": "single", "attack.epsilon": 0.1, "attack.step_size": 0.02} | {
        "eval_attack.threat": "single", "eval_attack.epsilon": 0.1, "eval_attack.step_size": 0.02}  # fmt: skip
    try:
        for fields, says in (
            (
                alone | {"method": "robustlt:ce"},
                r"^attack\.radius = 'count': attack\.threat = single takes one radius",
            ),
            (alone | {"attack.radius_ramp": 0.5}, r"^attack\.radius_ramp = .*0\.5.*single takes one radius"),
            (
                vector | {"attack.radius_factors": [1.0] * 9},
                r"^attack\.radius_factors = '9 numbers': 10 numbers",
            ),
            (
                vector | {"attack.radius_factors": [11.0] * 10},
                r"makes a radius of 1\.1; at most 1 is possible in linf",
            ),
            (
                {"method": "robustlt:ce", "attack.examples": "clean"},
                r"attack\.examples = 'clean': a radius by class is one of attacks",
            ),
            (
                {"optim.nesterov": True, "optim.momentum": 0},
                r"optim\.nesterov = True: has an effect with optim\.momentum",
            ),
        ):
            with pytest.raises(UserError, match=says):
                train(build_recipe(None, FIELDS | {"attack.epsilon": 0.1} | fields), tmp_path / "run")
            assert not (tmp_path / "run").exists()
        train(build_recipe(None, FIELDS | alone | {"optim.epochs": 1, "method": "ce"}), tmp_path / "run")
    finally:
        threat.remove("single")
