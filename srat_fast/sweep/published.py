"""What the paper reports: a run's recipe enters; the published accuracies for it, where there are any, leave."""

from __future__ import annotations

import functools
import math
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from srat_fast.recipe import FIELDS, Recipe, flatten

#: The four columns of the paper's tables, in its order.
METRICS = (("standard", "overall"), ("standard", "under"), ("robust", "overall"), ("robust", "under"))
#: A figure of ours this far from the paper's, in percent points, wants an explanation before it is reported.
FAR = 2.0
#: Fields that a table's row and column say, and seeds. The paper's text has each class's own count as imbalance_base,
#: and its code for uneven sets is not public: neither choice departs from what is known.
_SAID = {
    "method", "seed", "data.name", "data.imbalance", "data.ratio", "data.imbalance_base", "data.subset_seed",
}  # fmt: skip
#: Judged beside the last weights, in which it changes nothing.
_BESIDE = {"optim.ema_decay"}


@dataclass(frozen=True)
class Published:
    """What the paper prints for one accuracy, in percent.

    Attributes:
        mean: of its runs.
        std: deviation beside it; None where it is not legible, or where the paper has one run.
    """

    mean: float
    std: float | None


@functools.cache
def paper_facts() -> dict[str, Any]:
    """What the paper prints, as data: "settings", "figures", "statements" and "table1" to "table10"."""
    return tomllib.loads((files("srat_fast.sweep.paper") / "numbers.toml").read_text(encoding="utf-8"))


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


def published_sets() -> list[str]:
    """The data sets that some of the paper's numbers are known of.

    Returns:
        Names, as `data.name` has them.
    """
    return sorted({name for name, _, _ in _tables()})


def published(recipe: Recipe, stands_for: str | None = None) -> list[Published] | None:
    """The paper's accuracies for a method on a data set.

    Args:
        recipe: of a run.
        stands_for: data set whose images the run has in another form, such as "cifar10" for its class folders; None
            for the run's own `data.name`.

    Returns:
        In the order of `METRICS`; None where the paper has no number.
    """
    data = recipe.data
    if data.classes != "all":
        return None
    key = (stands_for or data.name, data.imbalance, float(data.ratio))
    return _tables().get(key, {}).get(recipe.method)


def departures(recipe: Recipe) -> list[str]:
    """What a run does otherwise than the paper's: without these its numbers cannot be expected to agree.

    Args:
        recipe: of a run.

    Returns:
        Such as ["optim.epochs = 4"].
    """
    paper, mine = flatten(Recipe()), flatten(recipe)
    return [
        f"{name} = {value}"
        for name, value in mine.items()
        if FIELDS[name][1].identity
        and name not in _SAID | _BESIDE
        and not name.startswith("run.")
        and value != paper[name]
    ]
