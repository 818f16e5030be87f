"""Committed runs as rows: records enter; repetitions of one recipe, told apart from the paper's recipe, leave."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srat_fast.methods import METHODS
from srat_fast.published import Published, published
from srat_fast.recipe import Recipe, flatten
from srat_fast.record import WEIGHTS
from srat_fast.report.collect import Run, find_runs
from srat_fast.report.groups import judged

#: Fields that a table's title and row say, seeds, how images are served, and what is judged beside the last weights.
_PASSED_OVER = {
    "method", "seed", "data.name", "data.imbalance", "data.ratio", "data.subset_seed", "data.root", "data.loader",
    "optim.ema_decay",
}  # fmt: skip
#: The set whose images these are, in another form.
STANDS_FOR = "cifar10"


@dataclass(frozen=True)
class Row:
    """Repetitions of one recipe, judged with one kind of weights.

    Attributes:
        method: a row of the method table.
        variant: fields that differ from the paper's recipe, but for those in which all runs of the setting do.
        weights: last, best or ema.
        runs: one a seed, finished.
    """

    method: str
    variant: tuple[str, ...]
    weights: str
    runs: tuple[Run, ...]

    @property
    def label(self) -> str:
        """How the row is called."""
        beside = () if self.weights == "last" else (f"{self.weights} weights",)
        return ", ".join([f"`{self.method}`", *self.variant, *beside])

    def values(self, kind: str, part: str) -> dict[int, float]:
        """Seed -> percent."""
        return {run.seed: 100 * judged(run.record, self.weights)[kind][part] for run in self.runs}

    def mean(self, kind: str, part: str) -> float:
        """Of the seeds, percent."""
        return statistics.fmean(self.values(kind, part).values())

    def paper(self) -> list[Published] | None:
        """The paper's four numbers, where it has some for this method: of the last epoch of its recipe."""
        if self.weights != "last" or self.variant:
            return None
        data = self.runs[0].recipe["data"]
        recipe = Recipe().replace(
            {"method": self.method, "data.imbalance": data["imbalance"], "data.ratio": data["ratio"]}
        )
        return published(recipe, STANDS_FOR)


@dataclass(frozen=True)
class Setting:
    """The runs of one imbalance.

    Attributes:
        imbalance: exp or step.
        departures: in which all of its runs differ from the paper's recipe: without any, its numbers are the target.
        rows: methods in the paper's order, the paper's recipe first.
    """

    imbalance: str
    departures: tuple[str, ...]
    rows: tuple[Row, ...]

    def row(self, method: str, weights: str = "last") -> Row | None:
        """The row of a method under the paper's recipe, as far as the setting has it."""
        for row in self.rows:
            if (row.method, row.variant, row.weights) == (method, (), weights):
                return row
        return None


def settings(results: Path) -> list[Setting]:
    """What has been measured.

    Args:
        results: folder of runs.

    Returns:
        exp, then step; those that have a finished run.
    """
    if not any(results.glob("*/*/record.json")):
        return []
    runs = [run for run in find_runs([results]) if run.finished]
    found = []
    for imbalance in ("exp", "step"):
        mine = [run for run in runs if run.recipe["data"]["imbalance"] == imbalance]
        if mine:
            found.append(_setting(imbalance, mine))
    return found


def _setting(imbalance: str, runs: list[Run]) -> Setting:
    differing = [_departures(run) for run in runs]
    common = tuple(text for text in differing[0] if all(text in other for other in differing))
    gathered: dict[tuple[str, tuple[str, ...]], list[Run]] = {}
    for run, texts in zip(runs, differing, strict=True):
        variant = tuple(text for text in texts if text not in common)
        gathered.setdefault((run.method, variant), []).append(run)
    order = {name: k for k, name in enumerate(METHODS)}
    rows = []
    for (method, variant), members in sorted(gathered.items(), key=lambda i: (order[i[0][0]], i[0][1])):
        for weights in WEIGHTS:
            having = tuple(run for run in members if weights == "last" or run.record.get(weights))
            if having:
                rows.append(Row(method, variant, weights, having))
    return Setting(imbalance, common, tuple(rows))


def _departures(run: Run) -> list[str]:
    """Fields that decide numbers and are not the paper's, both resolved."""
    base = {f"data.{name}": run.recipe["data"][name] for name in ("name", "imbalance", "ratio")}
    paper = flatten(Recipe().replace(base | {"seed": run.seed}).resolve())
    return [
        f"{name} = {_short(value)}"
        for name, value in run.fields.items()
        if name not in _PASSED_OVER and not name.startswith("run.") and value != paper[name]
    ]


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "none" if value == () else str(value)


def test_images(row: Row, part: str) -> int:
    """How many test images an accuracy is of; the test set has equally many of each class.

    Args:
        row: any.
        part: overall, well or under.

    Returns:
        The number, of one run.
    """
    record = row.runs[0].record
    share = 1.0 if part == "overall" else len(record[part]) / len(record["classes"])
    return round(record["test_images"] * share)
