"""What is to be tried, and what came of it: rows enter; what is left, a verdict, and a table for the terminal leave."""

from __future__ import annotations

from typing import Any

from benchmarks.attempts.ideas import ATTEMPTS, Attempt

#: A gain that is worth its code: median, and the quartile that most turns beat.
WORTH, SURE = 1.01, 1.0


def keep(row: dict[str, Any]) -> str:
    """Whether a row speaks for the attempt: "yes", "no", or "noise" between."""
    ratio = row["ratio"]
    if ratio["median"] >= WORTH and ratio["quartiles"][0] > SURE:
        return "yes"
    return "no" if ratio["median"] < WORTH and ratio["quartiles"][1] < WORTH else "noise"


def tasks(only: list[str], first_size: bool = False) -> list[tuple[Attempt, int, str]]:
    """(attempt, batch, bn), every attempt's first size before any second one.

    Args:
        only: names; all without.
        first_size: no others.
    """
    chosen = [attempt for attempt in ATTEMPTS if not only or attempt.name in only]
    most = max(len(attempt.sizes) for attempt in chosen)
    return [
        (attempt, *attempt.sizes[place])
        for place in range(1 if first_size else most)
        for attempt in chosen
        if place < len(attempt.sizes)
    ]


def done(rows: list[dict[str, Any]], about: dict[str, Any]) -> set[tuple[str, int, str]]:
    """What has a row of the same code with the same torch.

    Args:
        rows: of the device.
        about: as `machine()` gives it.
    """
    same = [
        row for row in rows if all(row.get(key) == about.get(key) for key in ("source", "commit", "torch"))
    ]
    return {(row["implementation"], row["batch"], row["bn"]) for row in same if row["op"] == "attempt"}


def table(rows: list[dict[str, Any]]) -> str:
    """Attempt, predicted, measured, keep?"""
    lines = [
        f"{'attempt':20}{'batch':>6} {'bn':8}{'predicted':>10}{'measured':>10}  {'quartiles':18}{'start s':>8}  keep?"
    ]
    latest = {(row["implementation"], row["batch"], row["bn"]): row for row in rows if row["op"] == "attempt"}
    for attempt in ATTEMPTS:
        for place, (batch, bn) in enumerate(attempt.sizes):
            predicted = f"{attempt.gain:.2f}" if place == 0 else "-"
            row = latest.get((attempt.name, batch, bn))
            text = f"{attempt.name:20}{batch:6} {bn:8}{predicted:>10}"
            if row is None:
                lines.append(f"{text}{'-':>10}  {'to be measured':18}")
                continue
            ratio, start = row["ratio"], row["start_seconds"]
            quartiles = " to ".join(f"{q:.3f}" for q in ratio["quartiles"])
            lines.append(f"{text}{ratio['median']:10.3f}  {quartiles:18}{start:8.0f}  {keep(row)}")
    return "\n".join(lines)
