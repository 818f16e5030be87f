"""What every section of a recipe is: a dataclass of settings enters; its fields, checked, leave."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from srat_fast.recipe.fields import Spec, checked


class Section:
    """Base of the sections: checks each field when an instance is made."""

    prefix = ""

    def __post_init__(self) -> None:
        for name, annotation, spec in fields_of(type(self)):
            value = checked(self.prefix + name, getattr(self, name), annotation, spec)
            object.__setattr__(self, name, value)  # the only moment at which a frozen section is written


#: Resolving annotations is slow, and a sweep's plan makes ten thousand recipes.
_KNOWN: dict[type, list[tuple[str, Any, Spec]]] = {}


def fields_of(section: type) -> list[tuple[str, Any, Spec]]:
    """(name, annotation, spec) of each field of `section`, in order."""
    if section not in _KNOWN:
        hints = typing.get_type_hints(section)
        _KNOWN[section] = [
            (field.name, hints[field.name], field.metadata["spec"])
            for field in dataclasses.fields(section)
            if "spec" in field.metadata
        ]
    return _KNOWN[section]
