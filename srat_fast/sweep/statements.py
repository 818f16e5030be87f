"""What the paper's text says of its figures and tables, held against a sweep's records: kept or not, with figures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from srat_fast.datasets import imbalance_label
from srat_fast.published import COLUMNS, paper_facts, published
from srat_fast.recipe import Recipe, flatten
from srat_fast.record import has_accuracies
from srat_fast.sweep.directory import SweepDirectory

#: A class of which fewer test images are right, in percent, counts as one at 0 % (the text reads it off a figure).
_ZERO = 1.0
#: A fall that is no fall, in percent points: of the mean over seeds, between neighbouring weights.
_FLAT = 0.5
#: The paper's own lambda, which the others are held against.
_LAMBDA = 2.0
#: What words about size are taken to mean, in percent points: "stays" and "not sensitive", "falls a little", and how
#: far from the best sum of both accuracies a good compromise lies.
_STAYS, _LITTLE, _NEAR = 2.0, 5.0, 1.0
_KINDS = ("standard", "robust")


@dataclass(frozen=True)
class Statement:
    """A sentence of the paper with the rule by which it is judged, what runs show, and whether they keep it (None: they
    cannot tell)."""

    text: str
    figures: str
    kept: bool | None

    def line(self) -> str:
        """Such as "kept: standard accuracy rises with the weight (srat-ce): 10: 51.20, 25: 53.10"."""
        verdict = {True: "kept", False: "not kept", None: "not judged"}[self.kept]
        return f"{verdict}: {self.text}: {self.figures}"


@dataclass(frozen=True)
class _Cell:
    """One cell of a sweep with the records of its finished runs."""

    recipe: Recipe
    records: list[dict[str, Any]]

    def mean(self, kind: str, part: str) -> float:
        """Percent over seeds; NaN without a value."""
        values = [v for r in self.records if (v := r[kind].get(part)) is not None]
        return 100 * statistics.fmean(values) if values else math.nan

    def classes(self, kind: str) -> list[float]:
        """Percent over seeds of each under-represented class."""
        record = self.records[0]
        columns = [[r[kind]["per_class"][label] for r in self.records] for label in record["under"]]
        columns = [[v for v in column if v is not None] for column in columns]
        return [100 * statistics.fmean(column) if column else math.nan for column in columns]


def statements(item: str, sweep: SweepDirectory) -> list[Statement]:
    """The text's sentences about an item, held against a sweep's finished runs; [] where no figures could tell."""
    records: dict[int, list[dict[str, Any]]] = {}
    recipes = sweep.plan.cell_recipes()
    for trial in sweep.plan.trials:
        record = sweep.record(trial)
        if record is not None and record.get("status") == "finished" and has_accuracies(record):
            records.setdefault(trial.cell, []).append(record)
    cells = [_Cell(recipes[cell], found) for cell, found in records.items()]
    judge = _table if item.startswith("table") else _JUDGES.get(item)
    return [] if judge is None else judge(cells)


def _find(cells: Iterable[_Cell], method: str, **fields: Any) -> _Cell | None:
    """The cell of a method with these fields; "__" stands for the dot."""
    for cell in cells:
        flat = flatten(cell.recipe)
        if cell.recipe.method == method and all(flat[n.replace("__", ".")] == v for n, v in fields.items()):
            return cell
    return None


def _along(cells: Iterable[_Cell], method: str, field: str) -> list[tuple[float, _Cell]]:
    """A method's cells by the value of a field, ascending."""
    found = [(flatten(c.recipe)[field], c) for c in cells if c.recipe.method == method]
    return sorted(((value, c) for value, c in found if value is not None), key=lambda pair: pair[0])


def _missing(text: str, needs: str) -> Statement:
    return Statement(text, f"needs finished runs of {needs}", None)


def _class_bars(cells: list[_Cell]) -> list[Statement]:
    """Section 2.1 on Fig. 1."""
    said = paper_facts()["statements"]
    ratios, zeros = (
        said["fig1_ratio_of_well_to_under_standard"],
        said["fig1_under_classes_with_zero_accuracy"],
    )
    first = (
        f"well- to under-represented standard accuracy is about {ratios['natural']}:1 with natural and "
        f"{ratios['adversarial']}:1 with adversarial training (at most twice the one, at least half the other)"
    )
    second = (
        f"adversarial training leaves {zeros} or more under-represented classes at 0 % (below {_ZERO:g} %)"
    )
    natural, adversarial = _find(cells, "natural"), _find(cells, "ce")
    if natural is None or adversarial is None:
        return [_missing(text, "natural and ce") for text in (first, second)]
    shown = [(c.mean("standard", "well"), c.mean("standard", "under")) for c in (natural, adversarial)]
    mine = [well / under if under > 0 else math.inf for well, under in shown]
    figures = ", ".join(
        f"{name} {well:.2f} to {under:.2f}, {ratio:.1f}:1"
        for name, (well, under), ratio in zip(("natural", "adversarial"), shown, mine, strict=True)
    )
    kept = mine[0] <= 2 * ratios["natural"] and mine[1] >= ratios["adversarial"] / 2
    counts = [sum(value < _ZERO for value in adversarial.classes(kind)) for kind in _KINDS]
    of = len(adversarial.records[0]["under"])
    return [
        Statement(first, figures, kept),
        Statement(second, f"{counts[0]} of {of} standard, {counts[1]} of {of} robust", min(counts) >= zeros),
    ]


def _pair(sizes: bool) -> Callable[[list[_Cell]], list[Statement]]:
    """Section 2.2 on Fig. 2, whose sizes it names, and Figs. 10 to 12, of which it says the same."""

    def judge(cells: list[_Cell]) -> list[Statement]:
        said = paper_facts()["statements"]["fig2_from_weight_1_to_150"]
        light, heavy = (_find(cells, "ce", loss__weight_ratio=weight) for weight in (1, 150))
        found = []
        for name, (before, after) in said.items():
            part, kind = name.split("_")
            rule = f" by half of the paper's {abs(after - before)} points at least" if sizes else ""
            word = "rises" if after > before else "falls"
            text = f"weight 1 to 150: {kind} accuracy of the {part}-represented class {word}{rule} (ce)"
            if light is None or heavy is None:
                found.append(_missing(text, "ce with weights 1 and 150"))
                continue
            ours = light.mean(kind, part), heavy.mean(kind, part)
            change = (ours[1] - ours[0]) * (1 if after > before else -1)
            kept = change >= abs(after - before) / 2 if sizes else change > 0
            paper = f" (paper about {before} to {after})" if sizes else ""
            found.append(Statement(text, f"{ours[0]:.2f} to {ours[1]:.2f}{paper}", kept))
        return found

    return judge


def _shown(points: Iterable[tuple[float, float]], sign: str = "") -> str:
    return ", ".join(f"{x:g}: {y:{sign}.2f}" for x, y in points)


def _weights(cells: list[_Cell]) -> list[Statement]:
    """Fig. 5: standard accuracy rises, robust accuracy stays or falls a little, and what lies between."""
    found = []
    for method in paper_facts()["figures"]["fig5"]["methods"]:
        stays = method == "srat-ldam"
        texts = [
            f"standard accuracy rises with the weight, no step down by more than {_FLAT:g} points ({method})",
            f"robust accuracy stays within {_STAYS:g} points of that at the lowest weight ({method})"
            if stays
            else f"robust accuracy falls a little from the lowest to the highest weight, by at most {_LITTLE:g} points "
            f"({method})",
            f"weight 78 or 100 is a good compromise: standard + robust accuracy there is within {_NEAR:g} point of the "
            f"best sum ({method})",
        ]
        along = _along(cells, method, "loss.weight_ratio")
        if len(along) < 2:
            found += [_missing(text, f"{method} with two weights or more") for text in texts]
            continue
        standard, robust = ([(x, c.mean(kind, "overall")) for x, c in along] for kind in _KINDS)
        rises = standard[-1][1] > standard[0][1] and all(b[1] >= a[1] - _FLAT for a, b in pairwise(standard))
        change = robust[-1][1] - robust[0][1]
        kept = all(abs(y - robust[0][1]) <= _STAYS for _, y in robust) if stays else -_LITTLE <= change < 0
        sums = {x: a + b for (x, a), (_, b) in zip(standard, robust, strict=True)}
        middle = [sums[x] for x in (78.0, 100.0) if x in sums]
        found += [
            Statement(texts[0], _shown(standard), rises),
            Statement(texts[1], _shown(robust), kept),
            Statement(texts[2], _shown(sums.items()), max(middle) >= max(sums.values()) - _NEAR)
            if middle
            else _missing(texts[2], f"{method} with weight 78 or 100"),
        ]
    return found


def _insensitive(cells: list[_Cell]) -> list[Statement]:
    """Fig. 6: lambda matters little, and a large one may hurt."""
    facts = paper_facts()["figures"]["fig6"]
    found, large = [], []
    for panel in facts["panels"]:
        shape = [c for c in cells if imbalance_label(c.recipe.data.imbalance, c.recipe.data.ratio) == panel]
        for method in facts["methods"]:
            text = (
                f"not sensitive to lambda: between 0 and 8, overall accuracy stays within {_STAYS:g} points of that at "
                f"lambda = {_LAMBDA:g} ({method}, {panel})"
            )
            along = dict(_along(shape, method, "loss.separation_weight"))
            usual = along.pop(_LAMBDA, None)
            off = {
                kind: {x: c.mean(kind, "overall") - usual.mean(kind, "overall") for x, c in along.items()}
                for kind in _KINDS
                if usual is not None
            }
            large += [(f"{method}, {panel}, {kind}", line[8.0]) for kind, line in off.items() if 8.0 in line]
            between = {kind: [(x, y) for x, y in line.items() if 0 < x < 8] for kind, line in off.items()}
            if not any(between.values()):
                found.append(_missing(text, f"{method} with lambda = {_LAMBDA:g} and another below 8"))
                continue
            figures = "; ".join(f"{kind} {_shown(line, '+')}" for kind, line in between.items())
            kept = all(abs(y) <= _STAYS for line in between.values() for _, y in line)
            found.append(Statement(text, figures, kept))
    text = f"a large lambda (8) may hurt: somewhere more than {_FLAT:g} points below lambda = {_LAMBDA:g}"
    if not large:
        return [*found, _missing(text, f"one method with lambda = {_LAMBDA:g} and 8")]
    figures = "; ".join(f"{name} {y:+.2f}" for name, y in large)
    return [*found, Statement(text, figures, any(y < -_FLAT for _, y in large))]


def _gain_and_loss(cells: list[_Cell]) -> list[Statement]:
    """Fig. 15."""
    found = []
    for kind in _KINDS:
        text = (
            f"with the weight the under-represented classes gain more than the well-represented lose ({kind})"
        )
        points = _along(cells, "srat-ldam", "loss.weight_ratio")
        if len(points) < 2:
            found.append(_missing(text, "srat-ldam with two weights or more"))
            continue
        (low, first), (high, last) = points[0], points[-1]
        under, well = (last.mean(kind, part) - first.mean(kind, part) for part in ("under", "well"))
        figures = f"weight {low:g} to {high:g}: under {under:+.2f}, well {well:+.2f}"
        found.append(Statement(text, figures, under > max(0.0, -well)))
    return found


def _above_at_every_ratio(cells: list[_Cell]) -> list[Statement]:
    """Fig. 16."""
    found = []
    for kind in _KINDS:
        text = f"srat-focal is above drcb-focal at every K ({kind} overall)"
        srat, drcb = (dict(_along(cells, method, "data.ratio")) for method in ("srat-focal", "drcb-focal"))
        common = sorted(srat.keys() & drcb.keys())
        if not common:
            found.append(_missing(text, "srat-focal and drcb-focal at one K"))
            continue
        pairs = [(srat[k].mean(kind, "overall"), drcb[k].mean(kind, "overall")) for k in common]
        figures = ", ".join(
            f"K = {k:g}: {a:.2f} and {b:.2f}" for k, (a, b) in zip(common, pairs, strict=True)
        )
        found.append(Statement(text, figures, all(a > b for a, b in pairs)))
    return found


def _table(cells: list[_Cell]) -> list[Statement]:
    """SRAT above its baseline, the same loss with deferred weights only; with how often the paper's own figures are."""
    found = []
    for base in ("ce", "focal", "ldam"):
        names = f"srat-{base}", f"drcb-{base}"
        text = f"{names[0]} is above {names[1]} in all four accuracies"
        srat, drcb = (_find(cells, name) for name in names)
        if srat is None or drcb is None:
            found.append(_missing(text, " and ".join(names)))
            continue
        off = [srat.mean(*metric) - drcb.mean(*metric) for metric in COLUMNS]
        figures = ", ".join(f"{' '.join(metric)} {o:+.2f}" for metric, o in zip(COLUMNS, off, strict=True))
        theirs = [published(cell.recipe) for cell in (srat, drcb)]
        if theirs[0] is not None and theirs[1] is not None:
            above = sum(a.mean > b.mean for a, b in zip(*theirs, strict=True))
            figures += f" (above in {above} of 4 in the paper)"
        found.append(Statement(text, figures, all(o > 0 for o in off)))
    return found


_JUDGES: dict[str, Callable[[list[_Cell]], list[Statement]]] = {
    "fig1": _class_bars,
    "fig2": _pair(sizes=True),
    "fig5": _weights,
    "fig6": _insensitive,
    "fig10": _pair(sizes=False),
    "fig11": _pair(sizes=False),
    "fig12": _pair(sizes=False),
    "fig15": _gain_and_loss,
    "fig16": _above_at_every_ratio,
}
