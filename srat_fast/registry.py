"""What a recipe can name: methods, networks, threat models, terms of the objective, inner losses; a plug-in adds to it.

from srat_fast.registry import term

@term("poly1")
class Poly1: ...
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar, cast

from srat_fast.errors import UserError, one_of

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Name -> entry; an unknown name or one that is taken is refused in one line.

    The entry of a family, such as "timm:<name>", is a function of <name> to the entry of that name.

    Args:
        what: an entry in words.
        field: the recipe field that names one.
        home: module that declares the built-in entries, imported when the registry is first read.
        needs: attributes without which an entry is refused.
    """

    def __init__(self, what: str, field: str, home: str, *needs: str) -> None:
        self.what, self.field, self._home, self._needs = what, field, home, needs
        self._entries: dict[str, T | None] = {}  # None: declared, its module not yet imported
        self._modules: dict[str, str] = {}
        self._ready = False

    def __call__(self, name: str) -> Callable[[T], T]:
        """Decorator that registers an entry.

        Args:
            name: as recipes and `--set` give it.

        Raises:
            UserError: the name is taken, or the entry is not what is needed.
        """

        def register(entry: T) -> T:
            module = getattr(entry, "__module__", "")
            if self._modules.get(name) != module:  # else the module that declared it brings it
                self._read()
                if name in self._entries:
                    raise UserError(
                        self.field, f"the {self.what} {name} exists already; choose another name", name
                    )
            missing = [need for need in self._needs if not hasattr(entry, need)]
            if missing and not _is_family(name):
                raise UserError(self.field, f"the {self.what} {name} has no {', '.join(missing)}", name)
            self._entries[name] = entry
            return entry

        return register

    def declare(self, module: str, *names: str) -> None:
        """Announce entries of a module that is imported only when one of them is used (torch takes seconds)."""
        for name in names:
            self._modules[name] = module
            self._entries.setdefault(name, None)

    def remove(self, name: str) -> None:
        """Take an entry out again: of a plug-in that failed, and of tests."""
        self._entries.pop(name, None)
        self._modules.pop(name, None)

    def __getitem__(self, name: str) -> T:
        """The entry.

        Raises:
            UserError: there is none of that name.
        """
        self._read()
        entry = self._entries.get(name)
        if entry is not None and ":" not in name:  # a sweep's plan asks a million times
            return entry
        family = self._family(name)
        if family is not None:
            return cast(Callable[[str], T], self._loaded(family))(name.partition(":")[2])
        if name not in self._entries or _is_family(name):
            raise UserError(self.field, one_of(self._entries, name), name)
        return self._loaded(name)

    def _loaded(self, name: str) -> T:
        """An entry, its module imported where it was declared only."""
        if self._entries[name] is None:
            importlib.import_module(self._modules[name])
        entry = self._entries[name]
        if entry is None:
            raise NotImplementedError(f"{self._modules[name]} does not register the {self.what} {name}")
        return entry

    def __contains__(self, name: object) -> bool:
        self._read()
        return (name in self._entries and not _is_family(name)) or self._family(name) is not None

    def __iter__(self) -> Iterator[str]:
        self._read()
        return iter(tuple(self._entries))

    def __len__(self) -> int:
        self._read()
        return len(self._entries)

    def _family(self, name: object) -> str | None:
        """The entry that stands for a name with a colon."""
        prefix, colon, rest = str(name).partition(":")
        family = f"{prefix}{colon}<name>"
        taken = name in self._entries or _is_family(name)
        return family if rest and not taken and family in self._entries else None

    def _read(self) -> None:
        if not self._ready:
            self._ready = True  # before the import: the home registers while it is being read
            importlib.import_module(self._home)


def _is_family(name: object) -> bool:
    """Whether it is the placeholder of a family, such as "timm:<name>", and no member."""
    return str(name).endswith(":<name>")


#: rows of the method table (`srat_fast.methods.Method`).
method: Registry[Any] = Registry("method", "method", "srat_fast.methods", "base", "terms", "settings")
#: facts of a data set (`srat_fast.datasets.DatasetFacts`).
dataset: Registry[Any] = Registry("data set", "data.name", "srat_fast.datasets")
#: (channels, width) -> backbone (`srat_fast.models.classifier.Backbone`).
model: Registry[Any] = Registry("network", "model.name", "srat_fast.models")
#: radius -> `srat_fast.attacks.threat.Threat`.
threat: Registry[Any] = Registry(
    "threat model", "attack.threat", "srat_fast.attacks.threat",
    "title", "autoattack", "largest", "tolerance", "diameter", "random_start", "noise", "step", "overshoot",
)  # fmt: skip
#: context -> (batch -> scalar) (`srat_fast.losses.objective.Term`).
term: Registry[Any] = Registry("term", "term", "srat_fast.losses.terms")
#: batch -> scalar that an attack climbs (`srat_fast.attacks.inner`).
inner: Registry[Any] = Registry("inner loss", "attack.loss", "srat_fast.attacks")
