"""The method table against Table 4's rows, and the field's rows against the fields that they set."""

import re

import pytest

from srat_fast.errors import UserError
from srat_fast.methods import METHODS, PAPER, Method, rows, settings
from srat_fast.recipe import FIELDS, Recipe, build_recipe, recipe_from_dict
from srat_fast.recipe.recipe import flatten


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"settings": {"attack.radiuss": "count"}}, "sets attack.radiuss, which is no field; did you mean"),
        ({"by_data": {"digits": {"optim.lr": 0.5}}}, "sets optim.lr, which is the recipe's own"),
        ({"terms": {"separation": "loss.separatoin_weight"}}, "is no field; did you mean loss.separation_weight?"),
    ],
)  # fmt: skip
def test_a_row_that_names_what_there_is_not_is_refused(fields, said) -> None:
    METHODS("mistaken")(Method("mistaken", "ce", **fields))
    try:
        with pytest.raises(UserError, match=re.escape(said)):
            build_recipe(None, {"method": "mistaken"})
    finally:
        METHODS.remove("mistaken")


def test_the_twelve_methods() -> None:
    twelve = [m for m in rows() if m.family == PAPER]
    assert {m.name: (m.base, m.weighting, m.separation, m.adversarial) for m in twelve} == {
        "natural": ("ce", "none", False, False),
        "ce": ("ce", "none", False, True),
        "focal": ("focal", "none", False, True),
        "ldam": ("ldam", "none", False, True),
        "cb-reweight": ("ce", "balanced", False, True),
        "cb-focal": ("focal", "balanced", False, True),
        "drcb-ce": ("ce", "deferred", False, True),
        "drcb-focal": ("focal", "deferred", False, True),
        "drcb-ldam": ("ldam", "deferred", False, True),
        "srat-ce": ("ce", "deferred", True, True),
        "srat-focal": ("focal", "deferred", True, True),
        "srat-ldam": ("ldam", "deferred", True, True),
    }


@pytest.mark.parametrize(
    "name", [*(m.name for m in rows() if m.family != PAPER), "robustlt:ce", "srat:at-bsl"]
)
def test_a_row_of_the_field_says_where_it_is_from_and_sets_fields_that_have_an_effect(name, tmp_path) -> None:
    row = METHODS[name]
    start = tmp_path / "weights.safetensors"
    start.touch()
    assert row.title
    assert row.family
    assert row.source
    for data in ("cifar10", "cifar100"):
        recipe = build_recipe(None, {"method": name, "data.name": data})
        resolved = flatten(recipe.resolve())
        assert recipe.fingerprint() == recipe.resolve().fingerprint() == recipe.filled().fingerprint()
        for field, value in (dict(row.settings) | dict(row.by_data.get(data, {}))).items():
            assert FIELDS[field][1].neutral is not None, "a field that the recipe's default would win over"
            assert resolved[field] == value
        if row.own:
            asked = {"method": name, "data.name": data, "protocol": "own"}
            own = flatten(
                build_recipe(None, asked | ({"model.start": str(start)} if row.fine_tunes else {})).resolve()
            )
            assert all(own[field] == value for field, value in row.own.items())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("srat:srat-ldam", "srat-ldam has the separation loss itself"),
        ("srat:srat:ce", "srat:ce has the separation loss itself"),
        ("robustlt:robustlt:ce", "robustlt:ce has radii by class counts itself"),
        ("robustlt:natural", "natural has no attack, so no radius"),
    ],
)
def test_a_prefix_that_would_change_nothing_is_refused(name, reason) -> None:
    with pytest.raises(UserError) as error:
        build_recipe(None, {"method": name})
    assert error.value.line() == f"method = '{name}': {reason}"
    if "natural" not in name:  # which earlier versions refused, too: their runs have the others
        assert recipe_from_dict(Recipe().replace({"method": name}).to_dict()).method == name


def test_the_recipe_wins_over_the_row_and_over_its_protocol() -> None:
    chosen = {
        "method": "trades",
        "loss.kl_weight": 3.0,
        "protocol": "own",
        "attack.steps": 2,
        "optim.epochs": 38,
    }
    recipe = build_recipe("digits", chosen).resolve()
    assert recipe.row.terms == {"kl": 3.0}
    assert (recipe.attack.steps, recipe.attack.start, recipe.attack.epsilon) == (2, "gaussian", 0.031)
    assert recipe.optim.milestones == (37,), "at the same share of the epochs"
    named = build_recipe("digits", {"method": "trades"}).resolve()
    assert (named.attack.start, named.attack.epsilon) == ("uniform", 0.1), (
        "srat's protocol is the recipe's own"
    )
    assert recipe.fingerprint() != named.fingerprint()


@pytest.mark.parametrize("epochs", ["1e1", 10, " 10 "])
def test_the_authors_schedule_fits_epochs_however_they_are_written(epochs) -> None:
    recipe = build_recipe(None, {"method": "at-bsl", "protocol": "own", "optim.epochs": epochs}).resolve()
    assert recipe.optim.milestones == (7, 8, 9)
    short = build_recipe(None, {"method": "ldam-drw", "protocol": "own", "optim.epochs": 3}).resolve()
    assert short.optim.warmup_epochs == 1, "the authors' five would be longer than the training"


@pytest.mark.parametrize(
    ("method", "milestones"),
    [
        ("trades", (74,)), ("mart", (74, 89, 99)), ("trades-awp", (99, 149)), ("robal-r", (59, 74)),
        ("at-bsl", (74, 89, 99)), ("bat", (74, 89, 99)), ("wat", (74, 89, 99)), ("dafa", (99, 104)), ("cgr", (99, 104)),
    ],
)  # fmt: skip
def test_milestones_of_codes_that_number_epochs_from_1(method, milestones) -> None:
    assert build_recipe(None, {"method": method, "protocol": "own"}).optim.milestones == milestones


def test_what_a_row_has_on_another_data_set_or_with_a_prefix() -> None:
    def value(name: str, data: str, field: str) -> object:
        return build_recipe(None, {"method": name, "data.name": data}).value(field)

    assert [value("dafa", data, "feedback.dafa_strength") for data in ("cifar10", "cifar100")] == [1.0, 1.5]
    for name, ramps in (
        ("robustlt:taet", [1.0, 0.6]),
        ("robustlt:srat:taet", [1.0, 0.6]),
        ("robustlt:ce", [0.8, 0.6]),
    ):
        assert [value(name, data, "attack.radius_ramp") for data in ("cifar10", "cifar100")] == ramps
    own = build_recipe(None, {"method": "dafa", "protocol": "own"}).resolve()
    assert (own.optim.nesterov, own.eval_attack.step_size) == (True, 0.003)
    attack = build_recipe(None, {"method": "mcat", "protocol": "own"}).resolve().attack
    assert (attack.bn, attack.random_start, attack.steps) == ("running", False, 10), (
        "eval mode, from the image itself"
    )


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        ({"method": "cfa", "feedback.rule": "off"}, {"feedback.start": 0.0}),
        (
            {"method": "frl-remargin", "feedback.rule": "off"},
            {"feedback.frl_slack": 0.1, "feedback.frl_radius_rate": 0.0},
        ),
        ({"method": "cgr", "feedback.rule": "off"}, {"loss.graph_weight": 0.0, "feedback.every": 1}),
        ({"method": "cgr", "feedback.rule": "wat"}, {"loss.graph_weight": 0.0, "feedback.every": 10}),
        ({"method": "mart", "loss.kl_weight": 0.0}, {"loss.kl_factor": "one"}),
        (
            {"method": "robal-n", "model.head": "linear"},
            {"model.head_gamma": 0.0, "model.inference_scale": 1.0},
        ),
    ],
    ids=str,
)
def test_a_row_goes_without_what_belongs_to_a_piece_that_is_switched_off(changes, gone) -> None:
    recipe = build_recipe(None, changes)
    resolved = flatten(recipe.resolve())
    assert {name: resolved[name] for name in gone} == gone
    assert recipe.fingerprint() == recipe.resolve().fingerprint()


def test_settings_of_a_row_that_a_missing_plugin_brings_are_unknown() -> None:
    assert settings("robustlt:mine", "cifar10") == {}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"protocol": "own"}, "protocol = 'own': no other one is known of srat-ldam; srat is possible"),
        (
            {"loss.kl_weight": 1.0},
            r"loss\.kl_weight = 1.0: has an effect with a method that has the term kl only",
        ),
        ({"loss.adjusted_prior": 1.0}, "has an effect with base loss adjusted only"),
        ({"model.head_gamma": 0.1}, "has an effect with model.head = cosine only"),
        ({"attack.radius_strength": 0.1}, "has an effect with attack.radius = count only"),
        ({"attack.radius": "vector"}, r"attack\.radius_factors = 'auto': a number for each class is needed"),
        ({"optim.awp_epoch": 1}, r"has an effect with optim.awp_gamma > 0 only"),
        (
            {"attack.start": "half-uniform", "attack.threat": "l2"},
            "uniform or gaussian with attack.threat = l2",
        ),
        (
            {"method": "harl", "loss.weighting": "balanced"},
            "base loss harl has no class weights; none is needed",
        ),
        (
            {"method": "trades", "attack.examples": "clean"},
            "the term kl compares adversarial with clean images",
        ),
        (
            {"method": "robal-n", "model.inference_norm": 1.0},
            "a cosine head's weights have no length; 0 is needed",
        ),
        ({"method": "robustlt:nothing"}, "one of natural"),
        ({"method": "robustlt:<name>"}, "one of natural"),
        ({"attack.radius": "count"}, r"attack\.radius_strength = 0.0: a number > 0 is needed"),
        (
            {"method": "trades", "loss.branch": "last-right"},
            r"loss\.branch = 'last-right': last-right needs attack\.stop = both; adversarial is possible",
        ),
        (
            {"method": "ce", "attack.stop": "both"},
            r"attack\.stop = 'both': has an effect with loss\.branch = last-right",
        ),
        ({"method": "natural", "attack.stop": "first-wrong"}, "has an effect with adversarial training only"),
        ({"method": "ce", "loss.entropy_weight": 1.0}, "with a method that has the term entropy only"),
        ({"method": "bat", "attack.stop": "off"}, "last-right needs attack.stop = both"),
        ({"method": "faal", "loss.kl_factor": "wrongness"}, r"has an effect with loss\.kl_weight > 0 only"),
        (
            {"method": "trades", "loss.kl_weight": 0, "loss.kl_target": "detached"},
            r"with loss\.kl_weight > 0 only",
        ),
        (
            {"method": "ce", "loss.kl_factors": "1, 2"},
            "has an effect with a method that has the term kl only",
        ),
        (
            {"method": "reat", "loss.tail_weight": 0, "loss.tail_sign": "reversed"},
            r"with loss\.tail_weight > 0 only",
        ),
        ({"method": "natural", "attack.radius_ramp": 0.5}, "has an effect with adversarial training only"),
        ({"loss.base": "harl", "method": "ce"}, "are all 0: base loss harl needs one > 0"),
        (
            {"method": "trades", "protocol": "own", "optim.epochs": "many"},
            "optim.epochs = 'many': an integer",
        ),
    ],
)
def test_pieces_that_do_not_go_together(changes, says) -> None:
    with pytest.raises(UserError, match=says):
        build_recipe(None, changes)
