"""Tables of runs: a group has runs that may be compared, a row the seeds of one recipe."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from srat_fast.datasets import imbalance_label, imbalance_title
from srat_fast.methods import order, settings
from srat_fast.published import Published, departures, published
from srat_fast.recipe import FIELDS, radius_title
from srat_fast.record import WEIGHTS, weights_title, worst_class
from srat_fast.report.collect import CLIP, Run

#: What tells repetitions of one recipe apart; not part of it.
_REPETITION = {"seed", "data.subset_seed"}
_NETWORK = "model.name"
_PROTOCOL = "protocol"
#: What a method does that says nothing of a field.
_NEUTRAL = {name: spec.neutral for name, (_, spec) in FIELDS.items() if spec.neutral is not None}
#: How the images reach the network is not what they are.
_SERVED = {"data.loader", "data.root"}


@dataclass(frozen=True)
class Row:
    """Repetitions of one recipe, judged with one kind of weights.

    Attributes:
        method: a row of the method table.
        variant: fields in which it differs from the usual recipe of its group, such as "loss.temperature=0.1"; or "".
        weights: "last", "best" or "ema".
        runs: one a seed, finished or not.
    """

    method: str
    variant: str
    weights: str
    runs: tuple[Run, ...]

    @property
    def label(self) -> str:
        """How the row is called in a figure."""
        titles = dict.fromkeys(weights_title(run.record, self.weights) for run in self.finished)
        extra = [part for part in (self.variant, *titles) if part]
        return self.method + (f" ({', '.join(extra)})" if extra else "")

    @property
    def finished(self) -> list[Run]:
        """Runs that have accuracies."""
        return [run for run in self.runs if run.finished]

    @property
    def paper(self) -> list[Published] | None:
        """What the paper prints for it, in the order of its `COLUMNS`; None unless its runs have the paper's recipe."""
        fields = self.runs[0].fields
        numbers = published(fields) if self.weights == "last" else None
        return None if numbers is None or departures(fields) else numbers

    def values(self, kind: str, part: str) -> list[float]:
        """An accuracy of each finished run that has it, as a fraction."""
        accuracies = (judged(run.record, self.weights)[kind] for run in self.finished)
        found = (worst_class(accuracy) if part == "worst" else accuracy.get(part) for accuracy in accuracies)
        return [value for value in found if value is not None]

    def per_class(self, kind: str) -> list[float]:
        """Mean accuracy of each class in label order; NaN without test images, [] where no run has finished."""
        lists = [judged(run.record, self.weights)[kind]["per_class"] for run in self.finished]
        columns = [[v for v in column if v is not None] for column in zip(*lists, strict=True)]
        return [statistics.fmean(column) if column else math.nan for column in columns]


@dataclass(frozen=True)
class Group:
    """Runs on the same images, judged by the same attack after the same number of epochs.

    Attributes:
        title: these conditions in words.
        name: the same for a file name, short; not always unique.
        runs: all of them.
        rows: in the paper's order of methods.
        classes: names in label order.
        counts: training images a class.
        under: labels of the under-represented half.
    """

    title: str
    name: str
    runs: tuple[Run, ...]
    rows: tuple[Row, ...]
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    under: tuple[int, ...]


def judged(record: dict[str, Any], weights: str) -> dict[str, Any]:
    """The part of a record that judges one kind of weights."""
    return record if weights == "last" else record[weights]


def mean_and_deviation(values: list[float]) -> tuple[float, float | None] | None:
    """Mean and sample standard deviation, which one value has not."""
    if not values:
        return None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def chosen_classes(value: str | None) -> str:
    """The classes that a run was limited to, as `data.classes` names them; "" for all."""
    return "" if value in (None, "all") else str(value)


def brought(run: Run) -> dict[str, Any]:
    """Fields that a run's method brings, with what it brings."""
    return _NEUTRAL | settings(run.method, str(run.fields["data.name"]), run.fields[_PROTOCOL] == "own")


def is_condition(field: str) -> bool:
    """Whether runs must agree in a field to stand in one table: images, evaluation attack, number of epochs."""
    if field in _REPETITION | _SERVED | {"data.policy"}:  # which some methods bring
        return False
    return field.startswith(("data.", "eval_attack.")) or field == "optim.epochs"


def group_runs(runs: Iterable[Run]) -> list[Group]:
    """Runs sorted into groups and rows; groups in the order of their first runs."""
    gathered: dict[tuple[Any, ...], list[Run]] = {}
    norms, networks = set(), set()
    for run in runs:
        norms.add(run.fields["eval_attack.threat"])
        networks.add(run.fields[_NETWORK])
        key = tuple(value for name, value in run.fields.items() if is_condition(name))
        gathered.setdefault((key, tuple(run.record.get("counts", ()))), []).append(run)
    _adopt_running(gathered)
    return [_group(tuple(members), len(norms) > 1, len(networks) > 1) for members in gathered.values()]


def _adopt_running(gathered: dict[tuple[Any, ...], list[Run]]) -> None:
    """A run under way has not written its counts yet: it joins the first group of its conditions."""
    for key in [k for k in gathered if not k[1]]:
        others = [k for k in gathered if k[0] == key[0] and k[1]]
        if others:
            gathered[others[0]].extend(gathered.pop(key))


def _group(runs: tuple[Run, ...], several_norms: bool, several_networks: bool) -> Group:
    compared = [
        n for n in runs[0].fields if not is_condition(n) and n not in _REPETITION | _SERVED | {"method"}
    ]
    usual = {name: _usual([run.fields[name] for run in runs]) for name in compared}
    networks = {run.fields[_NETWORK] for run in runs}
    protocols = {run.fields[_PROTOCOL] for run in runs}
    for name in (_NETWORK, "attack.threat", _PROTOCOL):
        if len({run.fields[name] for run in runs}) > 1:
            usual[name] = None  # so that each row names its own
    rows: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        of_row = brought(run)
        different = [
            f"{n}={_short(run.fields[n])}"
            for n in compared
            if (run.fields[n],) != usual[n]
            and (n not in of_row or run.fields[n] != of_row[n])
            and not (n == CLIP and run.clips_itself)
        ]
        rows.setdefault((run.method, ", ".join(different)), []).append(run)
    described = next((run.record for run in runs if run.record.get("counts")), None)
    ordered = sorted(rows.items(), key=lambda item: (order(item[0][0]), item[0]))
    return Group(
        _title(
            runs[0], described, several_norms, several_networks and len(networks) == 1, len(protocols) == 1
        ),
        _name(runs[0]),
        runs,
        tuple(row for (method, variant), members in ordered for row in _rows(method, variant, members)),
        tuple(described["classes"]) if described else (),
        tuple(described["counts"]) if described else (),
        tuple(described["under"]) if described else (),
    )


def _usual(values: list[Any]) -> tuple[Any] | None:
    """The value that most runs have; None where no value is ahead of the others, so that each row names its own."""
    ranked = Counter(values).most_common(2)
    ahead = len(ranked) == 1 or ranked[0][1] > ranked[1][1]
    return (ranked[0][0],) if ahead else None


def _rows(method: str, variant: str, runs: list[Run]) -> list[Row]:
    members = tuple(sorted(runs, key=lambda run: (run.seed, str(run.path))))
    rows = [Row(method, variant, "last", members)]
    for weights in WEIGHTS:
        having = tuple(run for run in members if run.finished and run.record.get(weights))
        if weights != "last" and having:
            rows.append(Row(method, variant, weights, having))
    return rows


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_short, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _title(
    run: Run, record: dict[str, Any] | None, several_norms: bool, named: bool, one_protocol: bool
) -> str:
    data, attack = run.recipe["data"], run.recipe["eval_attack"]
    shape = imbalance_title(data["imbalance"], data["ratio"], data.get("imbalance_base"))
    classes = f"; classes {chosen}" if (chosen := chosen_classes(data.get("classes"))) else ""
    images = f"; {sum(record['counts'])} training, {record['test_images']} test images" if record else ""
    network = f"{run.fields[_NETWORK]}, " if named else ""
    protocol = f"protocol {run.fields[_PROTOCOL]}, " if one_protocol else ""
    return (
        f"{data['name']} ({shape}{classes}{images}), {network}{run.recipe['optim']['epochs']} epochs, {protocol}"
        f"robust = PGD-{attack['steps']} at {radius_title(attack, always=several_norms)}"
    )


def _name(run: Run) -> str:
    data = run.recipe["data"]
    shape = imbalance_label(data["imbalance"], data["ratio"])
    if data.get("imbalance_base") == "own" and data["imbalance"] != "none":
        shape += "-own"
    return f"{data['name']}-{shape}-{run.recipe['optim']['epochs']}-epochs"
