"""The methods as rows of data; choices, tests and tables are driven by them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from srat_fast.registry import method as METHODS

WEIGHTINGS = ("none", "balanced", "deferred")
#: base losses whose published code takes the plain mean over the batch, not the weighted one
PLAIN_MEAN = ("focal",)
#: L_sep with the coefficient lambda
SEPARATION = {"separation": "loss.separation_weight"}


@dataclass(frozen=True)
class Method:
    """One row.

    Attributes:
        name: as given on the command line.
        base: the term that is L_cls: "ce", "focal", "ldam" or another of `srat_fast.registry.term`.
        weighting: "none", "balanced" (class weights from the first epoch) or "deferred" (from `optim.defer_epoch`).
        terms: further terms -> coefficient: a number, or the recipe field that holds it.
        inner: what the attack climbs unless `attack.loss` says another: an entry of `srat_fast.registry.inner`.
        adversarial: whether training images are PGD examples.
        title: the name in the paper's tables.
    """

    name: str
    base: str
    weighting: str = "none"
    terms: Mapping[str, Any] = field(default_factory=dict, hash=False)
    adversarial: bool = True
    title: str = ""
    inner: str = "ce"

    @property
    def separation(self) -> bool:
        """Whether L_sep is among the terms."""
        return "separation" in self.terms


class _Bases:
    """The terms that some row has as its L_cls, rows of plug-ins included."""

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(row.base for row in METHODS.values()))


BASES = _Bases()

for _row in (
    Method("natural", "ce", "none", {}, False, "Natural training"),
    Method("ce", "ce", "none", {}, True, "CE"),
    Method("focal", "focal", "none", {}, True, "Focal"),
    Method("ldam", "ldam", "none", {}, True, "LDAM"),
    Method("cb-reweight", "ce", "balanced", {}, True, "CB-Reweight"),
    Method("cb-focal", "focal", "balanced", {}, True, "CB-Focal"),
    Method("drcb-ce", "ce", "deferred", {}, True, "DRCB-CE"),
    Method("drcb-focal", "focal", "deferred", {}, True, "DRCB-Focal"),
    Method("drcb-ldam", "ldam", "deferred", {}, True, "DRCB-LDAM"),
    Method("srat-ce", "ce", "deferred", SEPARATION, True, "SRAT-CE"),
    Method("srat-focal", "focal", "deferred", SEPARATION, True, "SRAT-Focal"),
    Method("srat-ldam", "ldam", "deferred", SEPARATION, True, "SRAT-LDAM"),
):
    METHODS(_row.name)(_row)
