"""The performance goals beside what was measured: result rows enter, lines of (goal, measured, met?) leave."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from benchmarks.rows import Row, latest


class Goal(NamedTuple):
    """One line of the table.

    Attributes:
        text: what is to be reached, with its bound.
        bound: the number.
        match: fields that a row must have.
        value: what of the row is compared.
        least: the bound is the least, not the most.
        unit: of the number.
        best: the best of all matching rows counts, not the last one.
    """

    text: str
    bound: float
    match: dict[str, Any]
    value: Callable[[Row], float | None]
    least: bool = True
    unit: str = ""
    best: bool = False


def _ratio(row: Row) -> float:
    return float(row["ratio"]["median"])


def _rate(row: Row) -> float:
    return float(row["images_per_second"])


_STEP = {
    "op": "step",
    "method": "srat-ldam",
    "implementation": "captured",
    "precision": "bf16",
    "width": 64,
    "steps": 10,
}
_LOSS = {
    "op": "srat_loss",
    "mode": "forward+backward",
    "implementation": "triton",
    "reference": "compiled",
    "launch": "graph",
}
_RUN = {
    "op": "run", "complete": True, "method": "srat-ldam", "epochs": 200, "batch": 128, "bn": "batch", "width": 64,
    "steps": 10, "implementation": "captured",
}  # fmt: skip
_SQUARE = 4096 * 4096 * 4  # one B x B matrix of float32
_CPU = {"op": "step", "implementation": "shadow", "bn": "batch", "reference": "reference"}

#: The strict reading of "over the eager fp32 reference" is against the rung "eager": the reference engine's losses are
#: Python loops, which flatter whatever is compared with it on a GPU.
GOALS = (
    Goal("batch 128, attack_bn batch: 10,000 images/s", 1e4, _STEP | {"batch": 128, "bn": "batch"}, _rate),
    Goal(
        "batch 128, attack_bn running: 13,000 images/s", 1.3e4, _STEP | {"batch": 128, "bn": "running"}, _rate
    ),
    Goal(
        "batch 512, attack_bn running: 15,400 images/s",
        1.54e4,
        _STEP | {"batch": 512, "bn": "running"},
        _rate,
    ),
    Goal(
        "batch 128: 12 x the eager fp32 step",
        12,
        _STEP | {"batch": 128, "bn": "batch", "reference": "eager"},
        _ratio,
        unit=" x",
    ),
    Goal(
        "batch 128: 12 x the reference engine (its losses are Python loops)",
        12,
        _STEP | {"batch": 128, "bn": "batch", "reference": "reference"},
        _ratio,
        unit=" x",
    ),
    Goal(
        "loss, B=128 D=128: 2 x compiled",
        2,
        _LOSS | {"batch": 128, "dims": 128, "classes": 10},
        _ratio,
        unit=" x",
    ),
    Goal(
        "loss, B=4096 D=512: 2 x compiled",
        2,
        _LOSS | {"batch": 4096, "dims": 512, "classes": 10},
        _ratio,
        unit=" x",
    ),
    Goal(
        "loss, B=4096 D=512: memory below one B x B matrix",
        _SQUARE,
        _LOSS | {"batch": 4096, "dims": 512, "classes": 10},
        lambda row: row["peak_bytes"],
        least=False,
        unit=" bytes",
    ),
    Goal(
        "host-bound share below 5 %",
        5,
        {"op": "profile", "implementation": "captured", "batch": 128, "bn": "batch"},
        lambda row: 100 * row["host_share"],
        least=False,
        unit=" %",
    ),
    Goal("CPU step: 6 x the reference engine", 6, _CPU, _ratio, unit=" x"),
    Goal(
        "whole run of 200 epochs and its evaluation, compilation apart: below 300 s",
        300,
        _RUN,
        lambda row: row["wall_without_compile"],
        least=False,
        unit=" s",
    ),
    *(
        Goal(
            f"several trials on one GPU{text}: 1.3 x one after another",
            1.3,
            {"op": "packing", "implementation": "captured", "width": 64, "mps": mps},
            _ratio,
            unit=" x",
            best=True,
        )
        for mps, text in ((False, ""), (True, ", with MPS"))
    ),
)


def judged(rows: Iterable[Row]) -> list[tuple[str, str, str]]:
    """Goal, measured, met.

    Args:
        rows: any number of result rows; the last of a kind counts.

    Returns:
        One line a goal: "yes", "no", or "not measured" where no row speaks of it.
    """
    kinds = latest(rows)
    lines = []
    for goal in GOALS:
        matching = [row for row in kinds if all(row.get(k) == v for k, v in goal.match.items())]
        values = [value for value in map(goal.value, matching) if value is not None]
        value = (max(values) if goal.best else values[-1]) if values else None
        if value is None:
            lines.append((goal.text, "-", "not measured"))
            continue
        met = value >= goal.bound if goal.least else value < goal.bound
        unit = goal.unit or " images/s"
        lines.append((goal.text, f"{value:,.{0 if value >= 1000 else 2}f}{unit}", "yes" if met else "no"))
    return lines
