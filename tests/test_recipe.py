"""Recipes: validation, round trips, resolution, identity."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srat_fast.errors import UserError
from srat_fast.methods import rows
from srat_fast.recipe import (
    FIELDS,
    NAMED_RECIPES,
    Recipe,
    ResolvedRecipe,
    build_recipe,
    flatten,
    recipe_from_dict,
    to_toml,
)


def test_paper_recipe_is_the_authors_semantics() -> None:
    recipe = build_recipe("paper").resolve()
    assert (recipe.optim.epochs, recipe.optim.batch_size, recipe.optim.lr) == (200, 128, 0.1)
    assert recipe.optim.milestones == (160, 180)
    assert (recipe.optim.warmup_epochs, recipe.optim.defer_epoch, recipe.optim.decay) == (5, 160, 0.01)
    assert (recipe.attack.steps, recipe.eval_attack.steps) == (10, 20)
    assert recipe.attack.epsilon == recipe.eval_attack.epsilon == 8 / 255
    assert recipe.attack.step_size == recipe.eval_attack.step_size == 2 / 255
    assert (recipe.attack.bn, recipe.attack.loss, recipe.attack.random_start) == ("batch", "ce", True)
    assert (recipe.loss.separation_weight, recipe.loss.temperature, recipe.model.feature_dim) == (
        2.0,
        0.07,
        128,
    )
    assert recipe.loss.focal_weighting == "inside"
    assert (recipe.loss.ldam_scale, recipe.loss.ldam_max_margin, recipe.loss.beta) == (30.0, 0.5, 0.9999)
    assert (recipe.data.crop_padding, recipe.data.flip, recipe.model.normalize) == (4, "on", "none")


def test_svhn_takes_smaller_steps_and_no_flip() -> None:
    recipe = build_recipe(None, {"data.name": "svhn"}).resolve()
    assert recipe.attack.step_size == recipe.eval_attack.step_size == 1 / 255
    assert recipe.data.flip == "off"
    assert build_recipe(None, {"data.name": "svhn", "data.flip": "on"}).resolve().data.flip == "on"
    assert build_recipe(None, {"data.name": "cifar100"}).resolve().attack.step_size == 2 / 255


@pytest.mark.parametrize("name", NAMED_RECIPES)
def test_toml_and_json_round_trip(name: str, tmp_path) -> None:
    for recipe in (build_recipe(name), build_recipe(name).resolve()):
        file = tmp_path / "r.toml"
        file.write_text(to_toml(recipe))
        assert flatten(build_recipe(str(file))) == flatten(recipe)
        assert flatten(recipe_from_dict(json.loads(json.dumps(recipe.to_dict())))) == flatten(recipe)
        assert build_recipe(str(file)).resolve() == recipe.resolve() == recipe.resolve().resolve()


@pytest.mark.parametrize("name", ["r.toml", "r.json"])
def test_a_byte_order_mark_is_read(name: str, tmp_path) -> None:
    recipe = build_recipe("digits", {"optim.epochs": 3})
    text = to_toml(recipe) if name == "r.toml" else json.dumps(recipe.to_dict())
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert build_recipe(str(tmp_path / name)) == recipe


def test_every_field_is_documented_and_survives_toml() -> None:
    for name, (_, spec) in FIELDS.items():
        assert spec.doc, name
    parsed = tomllib.loads(to_toml(Recipe().resolve()))
    assert {"data", "model", "attack", "eval_attack", "loss", "optim", "run"} < set(parsed)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("optim.epochs", 0, "integer >= 1"),
        ("optim.epochs", "1.5", "integer >= 1"),
        ("optim.epochs", True, "integer >= 1"),
        ("optim.batch_size", 0, "integer >= 1"),
        ("optim.lr", "nan", "number > 0"),
        ("optim.lr", "inf", "number > 0"),
        ("optim.momentum", 1, "< 1"),
        ("optim.milestones", [10, 5], "increasing"),
        ("optim.milestones", "a", "list of integers"),
        ("attack.epsilon", 0, "> 0 and <= 400"),
        ("attack.epsilon", "256/255", "> 0 and <= 1 with threat = linf"),
        ("attack.epsilon", "8/0", "> 0 and <= 400"),
        ("data.ratio", 0.99, ">= 1"),
        ("data.name", "mnist", "one of cifar10"),
        ("data.name", "CIFAR-10", "arrays; did you mean cifar10?"),
        ("method", "strat-ldam", "; did you mean srat-ldam?"),
        ("data.imbalance", "stepp", "one of none, exp, step; did you mean step?"),
        ("data.nmae", "x", "did you mean data.name"),
        ("dta", "x", "is not a recipe field"),
        ("method", "srat", "one of natural"),
        ("seed", -1, ">= 0"),
        ("run.device", "tpu", "cuda:N"),
        ("run.deterministic", "maybe", "true or false"),
        ("loss.weight_ratio", 3, "weight_rule = ratio"),
        ("data.image_size", 64, "only folder, npz and arrays are resized"),
        ("optim.warmup_epochs", 201, "at most optim.epochs"),
    ],
)
def test_bad_values_name_field_value_and_what_is_allowed(field: str, value: object, says: str) -> None:
    with pytest.raises(UserError) as error:
        build_recipe(None, {field: value})
    assert says in str(error.value)
    assert str(error.value).startswith(field)
    assert "\n" not in str(error.value)


def test_fields_that_contradict_each_other() -> None:
    with pytest.raises(UserError, match="number > 0 is needed"):
        build_recipe(None, {"loss.weight_rule": "ratio"})
    with pytest.raises(UserError, match="has no effect"):
        build_recipe(None, {"loss.weight_rule": "ratio", "loss.weight_ratio": 150, "method": "ce"})
    with pytest.raises(UserError, match="fp32 only"):
        build_recipe(None, {"run.engine": "reference", "run.precision": "bf16"})


def test_any_combination_outside_the_table_is_reachable() -> None:
    row = build_recipe(None, {"method": "natural", "loss.weighting": "balanced", "loss.base": "ldam"}).row
    assert (row.base, row.weighting, row.adversarial) == ("ldam", "balanced", False)
    row = build_recipe(
        None, {"method": "srat-ce", "attack.examples": "clean", "loss.separation_weight": 0}
    ).row
    assert (row.adversarial, row.separation) == (False, False)
    recipe = build_recipe(
        None,
        {"method": "ce", "loss.weighting": "balanced", "loss.weight_rule": "ratio", "loss.weight_ratio": 150},
    )
    assert recipe.row.weighting == "balanced"


def test_reduction_follows_the_authors_by_default() -> None:
    for row in rows():
        plain = row.base == "focal" or row.name in ("cfa", "wat", "dafa", "cgr", "faal", "faal-tuned")
        expected = "batch" if plain else "weighted_mean"
        assert build_recipe(None, {"method": row.name}).reduction == expected
    assert build_recipe(None, {"method": "ce", "loss.reduction": "batch"}).reduction == "batch"


def test_schedule_scales_with_the_epochs() -> None:
    assert build_recipe(None, {"optim.epochs": 10}).resolve().optim.milestones == (8, 9)
    short = build_recipe(None, {"optim.epochs": 1}).resolve().optim
    assert (short.milestones, short.defer_epoch, short.warmup_epochs) == ((), 1, 1)
    fixed = build_recipe(None, {"optim.epochs": 10, "optim.milestones": "4,6"}).resolve().optim
    assert (fixed.milestones, fixed.defer_epoch) == ((4, 6), 4)


def test_fingerprint_is_of_what_is_computed() -> None:
    recipe = Recipe()
    assert recipe.fingerprint() == recipe.resolve().fingerprint()
    for same in ({"data.root": "/elsewhere"}, {"run.device": "cpu"}, {"run.tensorboard": False}):
        assert recipe.replace(same).fingerprint() == recipe.fingerprint()
    for other in (
        {"seed": 1},
        {"attack.epsilon": "4/255"},
        {"run.deterministic": True},
        {"optim.epochs": 199},
    ):
        assert recipe.replace(other).fingerprint() != recipe.fingerprint()


def test_files_that_are_no_recipe(tmp_path) -> None:
    with pytest.raises(UserError, match=r"one of paper.*; did you mean paper\?"):
        build_recipe("papr")
    with pytest.raises(UserError, match="cannot be read"):
        build_recipe(str(tmp_path / "none.toml"))
    broken = tmp_path / "broken.toml"
    broken.write_text("epochs = = 3")
    with pytest.raises(UserError, match="not valid toml"):
        build_recipe(str(broken))
    broken.write_text("[optim]\nepohcs = 3\n")
    with pytest.raises(UserError, match=r"did you mean optim\.epochs"):
        build_recipe(str(broken))


def test_a_file_may_name_its_base_and_options_win(tmp_path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('base = "smoke"\nmethod = "ce"\n[attack]\nepsilon = "4/255"\n')
    recipe = build_recipe(str(file), {"method": "ldam"})
    assert (recipe.model.width, recipe.method, recipe.attack.epsilon) == (16, "ldam", 4 / 255)


def test_digits_take_their_own_recipe_unless_asked_otherwise() -> None:
    assert build_recipe(None, {"data.name": "digits"}).attack.epsilon == 0.1
    assert build_recipe("paper", {"data.name": "digits"}).attack.epsilon == 8 / 255


@given(epochs=st.integers(1, 500))
def test_resolved_schedules_are_valid_for_any_length(epochs: int) -> None:
    optim = build_recipe(None, {"optim.epochs": epochs}).resolve().optim
    assert 1 <= optim.warmup_epochs <= epochs
    assert all(0 < m < epochs for m in optim.milestones)


#: Digests of what the version before resolved recipes had a type gave (its fields alone: later ones join).
FINGERPRINTS = {
    "cifar10": "0b6197719c8a",
    "cifar100": "aa5d08b9e61f",
    "svhn": "4c845912a17f",
    "digits": "c39a9e3961a7",
    "folder": "28d875592154",
    "npz": "2219e3b37da3",
    "arrays": "7818f88ff225",
}
STORED = {
    "paper": ("3ecf0a586ccb", "daa173621da0", "c48573337628", "695e1ba645f4"),
    "smoke": ("6bc51bbf2633", "69b547193752", "e4133290c4bf", "d6533dbb18a8"),
    "digits": ("d7706df3434e", "890a965f7798", "5e946938470b", "ee0cbc84c0be"),
}
#: Their `optim.clip_norm`, of a data set's or named recipe: it became "auto", which clips LDAM.
UNCLIPPED = {name: {"optim.clip_norm": 0.0} for name in ("paper", *FINGERPRINTS) if name != "digits"}
TWELVE = (
    "natural ce focal ldam cb-reweight cb-focal drcb-ce drcb-focal drcb-ldam srat-ce srat-focal srat-ldam"
)


def _earlier(tree: dict[str, Any]) -> str:
    """A recipe on disk without the fields that joined later, and with the inner loss, which had no "auto"."""
    attack = {}
    for name, value in tree["attack"].items():
        if name != "loss":
            attack[name] = value
        if name == "bn":  # after it stands the loss
            attack["loss"] = tree["attack"].get("loss") or "ce"
    tree = tree | {"attack": attack}
    later = {name for name, (_, spec) in FIELDS.items() if spec.before is not None}
    kept = {
        key: {k: v for k, v in part.items() if f"{key}.{k}" not in later} if isinstance(part, dict) else part
        for key, part in tree.items()
        if key not in later
    }
    return json.dumps({key: part for key, part in kept.items() if part != {}})  # a section may have joined


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


@pytest.mark.parametrize("dataset", FINGERPRINTS)
def test_fingerprints_are_those_of_the_version_before(dataset: str) -> None:
    recipes = [
        build_recipe(None, {"data.name": dataset, "method": method} | UNCLIPPED.get(dataset, {}))
        for method in TWELVE.split()
    ]
    assert _digest(*(recipe.fingerprint() for recipe in recipes)) == FINGERPRINTS[dataset]


@pytest.mark.parametrize("name", STORED)
def test_recipes_on_disk_are_those_of_the_version_before(name: str) -> None:
    recipe = build_recipe(name, UNCLIPPED.get(name))
    assert STORED[name] == (
        recipe.fingerprint(),
        _digest(_earlier(recipe.to_dict())),
        _digest(_earlier(recipe.resolve().to_dict())),
        _digest(_earlier(tomllib.loads(to_toml(recipe))), _earlier(tomllib.loads(to_toml(recipe.resolve())))),
    )


@pytest.mark.parametrize(
    ("fields", "clipped"),
    [
        ({"method": "srat-ldam"}, 1.0),
        ({"method": "drcb-ldam", "optim.clip_norm": 0.0}, 0.0),
        ({"method": "ce"}, 0.0),
        ({"method": "ce", "loss.base": "ldam"}, 1.0),
        ({"method": "srat-ldam", "loss.base": "focal"}, 0.0),
        ({"method": "srat-ldam", "loss.ldam_scale": 1.0}, 0.0),
        ({"method": "srat-ldam", "model.head": "cosine"}, 0.0),
        ({"method": "ldam-drw"}, 0.0),
    ],
)
def test_gradients_are_clipped_where_ldam_scales_an_unbounded_logit(
    fields: dict[str, Any], clipped: float
) -> None:
    assert build_recipe("paper", fields).resolve().optim.clip_norm == clipped


def test_what_is_resolved_stays_resolved() -> None:
    recipe = build_recipe("digits").resolve()
    assert isinstance(recipe, ResolvedRecipe)
    changed = recipe.replace(
        {"attack.epsilon": "8/255", "eval_attack.epsilon": "auto", "optim.milestones": "auto"}
    )
    assert isinstance(changed, ResolvedRecipe)
    assert changed.eval_attack.epsilon == 8 / 255
    assert changed.optim.milestones == (64, 72)
    with pytest.raises(
        UserError, match=r"eval_attack\.step_size"
    ):  # whoever builds one by hand is checked too
        dataclasses.replace(recipe.eval_attack, step_size=None)


def test_a_size_that_only_the_images_tell_is_asked_for() -> None:
    recipe = build_recipe(None, {"data.name": "npz"})
    assert recipe.filled().data.image_size is None
    with pytest.raises(UserError, match=r"data\.image_size = 'auto': only the images of npz tell it"):
        recipe.resolve()
    assert recipe.replace({"data.image_size": 28}).resolve().data.crop_padding == 3


def test_flatten_lists_every_field() -> None:
    assert list(flatten(Recipe())) == list(FIELDS)
