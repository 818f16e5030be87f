"""Recipes: everything that decides what a run computes, as checked data."""

from srat_fast.recipe.files import (
    DEFAULT_RECIPE,
    NAMED_RECIPES,
    build_recipe,
    load_fields,
    nested_to_dotted,
    recipe_from_dict,
    to_toml,
)
from srat_fast.recipe.recipe import (
    FIELDS,
    SECTIONS,
    Recipe,
    ResolvedRecipe,
    flatten,
    require_field,
    require_together,
    starting_weights,
)
from srat_fast.recipe.sections import radius_title
from srat_fast.recipe.stages import Stage, stage_at, stages_of

__all__ = [
    "DEFAULT_RECIPE",
    "FIELDS",
    "NAMED_RECIPES",
    "SECTIONS",
    "Recipe",
    "ResolvedRecipe",
    "Stage",
    "build_recipe",
    "flatten",
    "load_fields",
    "nested_to_dotted",
    "radius_title",
    "recipe_from_dict",
    "require_field",
    "require_together",
    "stage_at",
    "stages_of",
    "starting_weights",
    "to_toml",
]
