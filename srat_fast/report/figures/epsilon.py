"""Robust accuracy against the attack's radius, from the evaluations in records."""

from __future__ import annotations

from collections import Counter
from functools import partial

from srat_fast.figures.canvas import SERIES, Figure, figure, style
from srat_fast.report.collect import Run
from srat_fast.report.figures.drawing import Drawing, percent, stem
from srat_fast.report.groups import Group
from srat_fast.tables import length

#: (attack, weights) -> radius -> (overall, under).
Curve = dict[float, tuple[float, float]]


def epsilon_drawings(group: Group) -> list[Drawing]:
    """The attack that was evaluated at the most radii (`srat-fast evaluate RUN --eps A,B,C`), if at three or more."""
    found = {
        row.label: curves_of(row.finished[0]) for row in group.rows if row.finished and row.weights == "last"
    }
    lengths: Counter[str] = Counter()
    for curves in found.values():
        for attack, curve in curves.items():
            lengths[attack] += len(curve)
    attacks = [a for a, _ in lengths.most_common() if any(len(c.get(a, {})) > 2 for c in found.values())]
    if not attacks:
        return []
    attack = attacks[0]
    shown = {
        label: dict(sorted(curves[attack].items())) for label, curves in found.items() if attack in curves
    }
    return [
        Drawing(
            stem("epsilon", group.name),
            f"Robust accuracy ({attack}) against the attack's radius",
            (),
            f"{group.title}. {attack} at several radii, one run a method, weights of the last epoch; dashed: the "
            "under-represented half.",
            "Radius, overall, under in percent. "
            + " ".join(
                f"{label}: "
                + "; ".join(f"{length(e)}: {percent(o):.1f}, {percent(u):.1f}" for e, (o, u) in curve.items())
                + "."
                for label, curve in shown.items()
            ),
            partial(_draw, shown),
        )
    ]


def curves_of(run: Run) -> dict[str, Curve]:
    """Each attack's curve, of the last weights on all test images; a later evaluation replaces an earlier one."""
    curves: dict[str, Curve] = {}
    for entry in run.record.get("evaluations", []):
        if entry.get("weights", "last") != "last":
            continue
        for name, row in entry["attacks"].items():
            if row.get("epsilon") is not None and row.get("images") == run.record["test_images"]:
                attack = name.split(" eps ")[0]
                curves.setdefault(attack, {})[float(row["epsilon"])] = (row["overall"], row["under"])
    return curves


def _draw(shown: dict[str, Curve]) -> Figure:
    drawn, axes = figure(1, 1, width=5.6, height=3.6)
    with style():
        place = axes[0, 0]
        for colour, (label, curve) in zip(SERIES * 3, shown.items(), strict=False):
            place.plot(
                list(curve), [percent(o) for o, _ in curve.values()], marker="o", color=colour, label=label
            )
            place.plot(list(curve), [percent(u) for _, u in curve.values()], "--", marker=".", color=colour)
        place.set_xlabel("radius of the ball, pixel range [0, 1]")
        place.set_ylabel("robust accuracy, %")
        place.set_ylim(bottom=0)
        place.legend()
    return drawn
