"""What the paper reports: a run's recipe enters; the published accuracies for it, where there are any, leave."""

from __future__ import annotations

import functools
import tomllib
from importlib.resources import files

from srat_fast.recipe import FIELDS, Recipe, flatten

#: The four columns of the paper's tables, in its order.
METRICS = (("standard", "overall"), ("standard", "under"), ("robust", "overall"), ("robust", "under"))
#: A figure of ours this far from the paper's, in percent points, wants an explanation before it is reported.
FAR = 2.0
#: Fields that a table's row and column say, and seeds.
_SAID = {"method", "seed", "data.name", "data.imbalance", "data.ratio", "data.subset_seed"}
#: Judged beside the last weights, in which it changes nothing.
_BESIDE = {"optim.ema_decay"}


@functools.cache
def _numbers() -> dict[str, dict[str, list[float]]]:
    return tomllib.loads((files("srat_fast.sweep.paper") / "numbers.toml").read_text(encoding="utf-8"))


def published_sets() -> list[str]:
    """The data sets that some of the paper's numbers are known of.

    Returns:
        Names, as `data.name` has them.
    """
    return sorted({key.split("-")[0] for key in _numbers()})


def published(recipe: Recipe, stands_for: str | None = None) -> list[float] | None:
    """The paper's accuracies for a method on a data set.

    Args:
        recipe: of a run.
        stands_for: data set whose images the run has in another form, such as "cifar10" for its class folders; None
            for the run's own `data.name`.

    Returns:
        Percent, in the order of `METRICS`; None where the paper's number is not known here.
    """
    data = recipe.data
    if data.classes != "all":
        return None
    name = stands_for or data.name
    return _numbers().get(f"{name}-{data.imbalance}-{data.ratio:g}", {}).get(recipe.method)


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
