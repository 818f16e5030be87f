"""The small run of the tests: two epochs of a ResNet-18 of width 4 on 120 handwritten digits, half a second."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from srat_fast import Recipe, build_recipe

TINY: dict[str, Any] = {
    "data.name": "digits",
    "data.limit": 120,
    "data.test_limit": 50,
    "model.width": 4,
    "optim.epochs": 2,
    "attack.steps": 2,
    "eval_attack.steps": 2,
    "run.device": "cpu",
    "run.precision": "fp32",
    "run.tensorboard": False,
}


def tiny_recipe(fields: Mapping[str, Any] | None = None, **changes: Any) -> Recipe:
    """The small recipe with fields changed: by their names, or as keywords with "__" for the dot."""
    named = {name.replace("__", "."): value for name, value in changes.items()}
    return build_recipe(None, TINY | dict(fields or {}) | named)
