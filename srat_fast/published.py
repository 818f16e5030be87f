"""The accuracies that the paper prints, and Welch's test of ours against them."""

from __future__ import annotations

import functools
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from srat_fast.methods import METHODS
from srat_fast.recipe import FIELDS, Recipe, flatten
from srat_fast.tables import spread

Fields = Mapping[str, Any]

#: The four columns of the paper's tables, in its order: which accuracy of which test images.
COLUMNS = (("standard", "overall"), ("standard", "under"), ("robust", "overall"), ("robust", "under"))
#: A figure of ours this far from the paper's, in percent points, wants an explanation before it is reported, whatever
#: a test over few seeds says.
FAR = 2.0
#: So does one that Welch's test sets apart from the paper's at this level.
LEVEL = 0.05
#: The paper does not say of how many runs its deviations are: the least that has one, which calls the fewest different.
_SEEDS = 2
#: The same in words, for a table's heading.
SEEDS_TAKEN = f"the paper names no number of runs: {_SEEDS} are taken, the least that have a deviation"
#: Fields that a table's row and column say, and seeds. The paper's text has each class's own count as imbalance_base,
#: and its code for uneven sets is not public: neither choice departs from what is known.
_SAID = {
    "method", "seed", "data.name", "data.imbalance", "data.ratio", "data.imbalance_base", "data.subset_seed",
}  # fmt: skip
#: Move along with the number of epochs, which is named then.
_FOLLOW = {"optim.milestones", "optim.defer_epoch", "optim.warmup_epochs"}
#: Judged beside the last weights, in which it changes nothing.
_BESIDE = {"optim.ema_decay", "optim.ema_every", "optim.ema_gate"}
#: The paper's literal value of what our recipe of it chooses by the method.
_LITERAL = {"optim.clip_norm": 0.0}


@dataclass(frozen=True)
class Published:
    """What the paper prints for one accuracy, in percent.

    Attributes:
        mean: of its runs.
        std: deviation beside it; None where it is not legible, or where the paper has one run.
    """

    mean: float
    std: float | None

    @property
    def text(self) -> str:
        """Such as "63.11 ± 1.17"; "63.11 ± -" without a deviation."""
        return f"{self.mean:.2f} ± -" if self.std is None else spread(self.mean, self.std)

    def p(self, mean: float, std: float | None, n: int) -> float | None:
        """Welch's t-test of n runs of ours, in percent, against it; None where either side has no deviation."""
        if std is None or self.std is None or max(std, self.std) < 1e-9:
            return None
        from scipy.stats import ttest_ind_from_stats

        return float(ttest_ind_from_stats(mean, std, n, self.mean, self.std, _SEEDS, equal_var=False).pvalue)


def differs(off: float, p: float | None) -> str | None:
    """What to explain of a difference in percent points and its `Published.p`; None where there is nothing."""
    if p is not None and p < LEVEL:
        return "beyond both deviations"
    return f"more than {FAR:g} points" if abs(off) > FAR else None


def p_text(p: float | None) -> str:
    """Such as "p = 0.034"; "p -" without a test."""
    return "p -" if p is None else f"p = {p:.2g}"


@functools.cache
def paper_facts() -> dict[str, Any]:
    """What the paper prints, as data: "settings", "figures", "statements" and "table1" to "table10"."""
    return tomllib.loads((files("srat_fast") / "published.toml").read_text(encoding="utf-8"))


@functools.cache
def _tables() -> dict[tuple[str, str, float], dict[str, list[Published]]]:
    """(data set, imbalance, ratio) -> method -> its four numbers."""
    found = {}
    for name, table in paper_facts().items():
        if name.startswith("table"):
            rows = {method: _row(**row) for method, row in table.items() if isinstance(row, dict)}
            found[table["data"], table["imbalance"], float(table["ratio"])] = rows
    return found


def _row(mean: list[float], std: list[float]) -> list[Published]:
    one_run = not any(std)  # the paper prints 0.00 throughout for a method that it ran once
    return [Published(m, None if one_run or math.isnan(s) else s) for m, s in zip(mean, std, strict=True)]


def field_reports(item: str) -> list[dict[str, Any]]:
    """What other publications report of an item of the field: "method", "network", "selected", "numbers", "source"."""
    return [entry for entry in paper_facts()["field"] if entry["item"] == item]


def published_sets() -> list[str]:
    """The data sets of which the paper has numbers."""
    return sorted({name for name, _, _ in _tables()})


def published(recipe: Recipe | Fields, stands_for: str | None = None) -> list[Published] | None:
    """The paper's accuracies in `COLUMNS`' order, None where it has none; `stands_for`: the set of the run's images."""
    mine = flatten(recipe) if isinstance(recipe, Recipe) else recipe
    if mine["data.classes"] != "all":
        return None
    key = (stands_for or mine["data.name"], mine["data.imbalance"], float(mine["data.ratio"]))
    return _tables().get(key, {}).get(mine["method"])


def departures(recipe: Recipe | Fields, stands_for: str | None = None) -> list[str]:
    """What a run does otherwise than the paper's, such as ["optim.epochs = 4"]: numbers need not agree then."""
    mine = flatten(recipe.filled()) if isinstance(recipe, Recipe) else recipe
    paper = flatten(Recipe().replace({"data.name": stands_for or mine["data.name"]}).filled())
    if mine["method"] in METHODS and METHODS[mine["method"]].base != METHODS[Recipe.method].base:
        paper |= _LITERAL
    return [
        f"{name} = {value}"
        for name, value in mine.items()
        if FIELDS[name][1].identity
        and name not in _SAID | _BESIDE
        and not name.startswith("run.")
        and value not in (paper[name], _LITERAL.get(name, paper[name]))
        and not (name in _FOLLOW and mine["optim.epochs"] != paper["optim.epochs"])
    ]
