"""Fields of a recipe: meaning, unit, source and bounds, and the sections that check them."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from srat_fast.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Spec:
    """What a field means and what it may hold; the reference documentation is made from it.

    Attributes:
        doc: meaning, in one line.
        unit: of the value, "" where it has none.
        source: where the default comes from (paper, authors' code).
        choices: allowed strings, or what knows them (a registry), or ().
        low: smallest allowed number; `low_open` excludes it.
        high: largest allowed number, or a function that knows it; `high_open` excludes it.
        fraction: whether "8/255" is accepted.
        auto: what None (written "auto") stands for; "" where the field cannot be None.
        identity: whether the field changes what is computed (else it is left out of the fingerprint).
        before: what versions without the field did: with it, fingerprints are theirs.
        neutral: the value where neither the recipe nor the method's row gives one; None where rows have no say.
    """

    doc: str
    unit: str = ""
    source: str = ""
    choices: tuple[str | Iterable[str], ...] = ()
    low: float | None = None
    high: float | Callable[[], float] | None = None
    low_open: bool = False
    high_open: bool = False
    fraction: bool = False
    auto: str = ""
    identity: bool = True
    before: Any = None
    neutral: Any = None

    def options(self) -> tuple[str, ...]:
        """The allowed strings, those of plug-ins included."""
        return tuple(name for part in self.choices for name in ((part,) if isinstance(part, str) else part))

    def allows(self, name: str) -> bool:
        """Whether a string is allowed: a registry may know more names than it can list."""
        return any(name == part if isinstance(part, str) else name in part for part in self.choices)

    def most(self) -> float | None:
        """The largest allowed number, those of plug-ins' entries included."""
        return self.high() if callable(self.high) else self.high


def setting(default: Any, doc: str, **spec: Any) -> Any:
    """A dataclass field with its `Spec`."""
    return dataclasses.field(default=default, metadata={"spec": Spec(doc, **spec)})


def by_method(neutral: Any, doc: str, **spec: Any) -> Any:
    """A field that a method's row may set: the recipe's own value wins, and `neutral` is where neither says."""
    shown = f"{neutral:g}" if isinstance(neutral, float) else str(neutral)
    before = {"before": neutral} | spec
    return setting(None, doc, auto=f"the method's row, else {shown}", neutral=neutral, **before)


class Numbers(tuple[float, ...]):
    """A list of numbers."""


@functools.cache
def kind_of(annotation: Any) -> type:
    """The type behind `int | None` or `tuple[int, ...] | None`; `list` is a tuple of texts, `Numbers` of floats."""
    options = [t for t in typing.get_args(annotation) if t is not type(None)]
    plain = options[0] if options and typing.get_origin(annotation) is not tuple else annotation
    if typing.get_origin(plain) is tuple:
        return {str: list, float: Numbers}.get(typing.get_args(plain)[0], tuple)
    return plain


@functools.cache
def _optional(annotation: Any) -> bool:
    """Whether a field may be None: not in a resolved recipe."""
    return type(None) in typing.get_args(annotation)


def allowed(kind: type, spec: Spec) -> str:
    """What a field may hold, as a phrase for an error message or a reference page."""
    if spec.choices:
        text = ("a list of " if kind is list else "one of ") + ", ".join(spec.options())
    elif kind is bool:
        text = "true or false"
    elif kind is str:
        text = "a text"
    elif kind is list:
        text = "a list of texts"
    else:
        noun = {
            int: "an integer",
            float: "a number",
            tuple: "a list of integers",
            Numbers: "a list of numbers",
        }[kind]
        low = "" if spec.low is None else f"{'>' if spec.low_open else '>='} {spec.low:.10g}"
        most = spec.most()
        high = "" if most is None else f"{'<' if spec.high_open else '<='} {most:.10g}"
        text = " ".join(part for part in (noun, " and ".join(b for b in (low, high) if b)) if part)
        if spec.fraction:
            text += ", fractions such as 8/255 too"
    return text + (f", or auto ({spec.auto})" if spec.auto else "")


def _number(raw: Any, fraction: bool) -> float:
    if isinstance(raw, bool) or not isinstance(raw, (int, float, str)):
        raise ValueError
    if isinstance(raw, str) and "/" in raw and fraction:
        numerator, _, denominator = raw.partition("/")
        return float(numerator) / float(denominator)
    return float(raw)


def _integer(raw: Any) -> int:
    number = _number(raw, fraction=False)
    if number != int(number):  # 1e3 is an integer, 1.5 is not
        raise ValueError
    return int(number)


def _boolean(raw: Any) -> bool:
    known = {
        "true": True,
        "false": False,
        "1": True,
        "0": False,
        "yes": True,
        "no": False,
        "on": True,
        "off": False,
    }
    return known[str(raw).lower()]


def _parse(raw: Any, kind: type, spec: Spec) -> Any:
    if kind is bool:
        return _boolean(raw)
    if kind is int:
        return _integer(raw)
    if kind is float:
        return _number(raw, spec.fraction)
    if kind is tuple:
        items = raw.strip("[]() ").split(",") if isinstance(raw, str) else raw
        return tuple(_integer(item) for item in items if str(item).strip())
    if kind is Numbers:
        items = raw.strip("[]() ").split(",") if isinstance(raw, str) else raw
        return tuple(_number(item, spec.fraction) for item in items if str(item).strip())
    if kind is list and spec.choices:  # names: a text may hold several
        items = raw.strip("[]() ").split(",") if isinstance(raw, str) else raw
        return tuple(item.strip(" \"'") for item in items if item.strip(" \"'"))
    if kind is list:
        return tuple(os.fspath(item) for item in ([raw] if isinstance(raw, (str, os.PathLike)) else raw))
    if not isinstance(raw, str):
        raise TypeError
    return raw


def _within(number: float, spec: Spec) -> bool:
    if not math.isfinite(number):
        return False
    above = spec.low is None or (number > spec.low if spec.low_open else number >= spec.low)
    most = spec.most()
    below = most is None or (number < most if spec.high_open else number <= most)
    return above and below


def checked(name: str, raw: Any, annotation: Any, spec: Spec) -> Any:
    """`raw` as the field's type, or a one-line error."""
    kind = kind_of(annotation)
    if _optional(annotation) and (raw is None or (isinstance(raw, str) and raw.lower() in ("auto", "none"))):
        return None
    try:
        value = _parse(raw, kind, spec)
    except (ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError, OverflowError):
        raise UserError(name, allowed(kind, spec), raw) from None
    numbers = value if kind in (tuple, Numbers) else (value,) if kind in (int, float) else ()
    if numbers and not all(_within(n, spec) for n in numbers):
        raise UserError(name, allowed(kind, spec), raw)
    for text in (value if kind is list else (value,)) if spec.choices else ():
        if not spec.allows(text):
            raise UserError(name, allowed(kind, spec) + did_you_mean(text, spec.options()), raw)
    return value


class Section:
    """Base of the sections: checks each field when an instance is made."""

    prefix = ""

    def __post_init__(self) -> None:
        for name, annotation, spec in fields_of(type(self)):
            given = getattr(self, name)
            if given is None and _optional(annotation):
                continue
            value = checked(self.prefix + name, given, annotation, spec)
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
