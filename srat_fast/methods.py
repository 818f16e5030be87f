"""The methods as rows of data; choices, tests and tables are driven by them."""

from __future__ import annotations

from dataclasses import dataclass

from srat_fast.registry import method as METHODS

BASE_LOSSES = ("ce", "focal", "ldam")
WEIGHTINGS = ("none", "balanced", "deferred")


@dataclass(frozen=True)
class Method:
    """One row: base loss x weighting x separation x adversarial.

    Attributes:
        name: as given on the command line.
        base: "ce", "focal" or "ldam" (method.md "Losses").
        weighting: "none", "balanced" (class weights from the first epoch) or "deferred" (from `optim.defer_epoch`).
        separation: whether L_sep (Eq. 6) is added.
        adversarial: whether training images are PGD examples.
        title: the name in the paper's tables.
    """

    name: str
    base: str
    weighting: str
    separation: bool
    adversarial: bool
    title: str


for _row in (
    Method("natural", "ce", "none", False, False, "Natural training"),
    Method("ce", "ce", "none", False, True, "CE"),
    Method("focal", "focal", "none", False, True, "Focal"),
    Method("ldam", "ldam", "none", False, True, "LDAM"),
    Method("cb-reweight", "ce", "balanced", False, True, "CB-Reweight"),
    Method("cb-focal", "focal", "balanced", False, True, "CB-Focal"),
    Method("drcb-ce", "ce", "deferred", False, True, "DRCB-CE"),
    Method("drcb-focal", "focal", "deferred", False, True, "DRCB-Focal"),
    Method("drcb-ldam", "ldam", "deferred", False, True, "DRCB-LDAM"),
    Method("srat-ce", "ce", "deferred", True, True, "SRAT-CE"),
    Method("srat-focal", "focal", "deferred", True, True, "SRAT-Focal"),
    Method("srat-ldam", "ldam", "deferred", True, True, "SRAT-LDAM"),
):
    METHODS(_row.name)(_row)
