"""The choices that change numbers beside the default: rows enter; differences with intervals and a verdict leave."""

from __future__ import annotations

import math
import statistics
from typing import NamedTuple

from benchmarks.paper.rows import Row, Setting, test_images
from srat_fast.evaluation.intervals import wilson
from srat_fast.published import COLUMNS

#: Methods whose default is compared with their variants.
DEFAULTS = ("srat-ldam", "srat-focal")
RULE = (
    "A `fast` recipe may be proposed where a choice trains faster than the default did beside equally many other runs, "
    "and neither its robust accuracy overall nor that under is below the default's (means over the seeds of both)."
)


class Difference(NamedTuple):
    """A row minus another, in percent points.

    Attributes:
        points: difference of the means over the common seeds.
        low: of the 95 % interval.
        high: likewise.
        paired: over seeds, by Student's distribution; else over test images, by Newcombe's method.
    """

    points: float
    low: float
    high: float
    paired: bool


def newcombe(first: float, second: float, images: int, others: int | None = None) -> tuple[float, float]:
    """The 95 % interval of a difference of two shares (Newcombe 1998, method 10).

    Here both are of the same images, whose outcomes agree more often than chance: the interval is on the wide side.

    Args:
        first: share.
        second: share.
        images: n of the first.
        others: n of the second; None for as many.

    Returns:
        (low, high) of first - second.
    """
    low1, high1 = wilson(round(first * images), images)
    low2, high2 = wilson(round(second * (others or images)), others or images)
    low = math.hypot(first - low1, high2 - second)
    high = math.hypot(high1 - first, second - low2)
    return first - second - low, first - second + high


def difference(row: Row, other: Row, kind: str, part: str) -> Difference | None:
    """A figure of a row against another's, seed by seed.

    Args:
        row: minuend.
        other: subtrahend.
        kind: standard or robust.
        part: overall or under.

    Returns:
        The difference; None without a common seed.
    """
    mine, theirs = row.values(kind, part), other.values(kind, part)
    common = sorted(mine.keys() & theirs.keys())
    if not common:
        return None
    each = [mine[seed] - theirs[seed] for seed in common]
    points = statistics.fmean(each)
    if len(each) > 1:
        from scipy.stats import t

        half = float(t.ppf(0.975, len(each) - 1)) * statistics.stdev(each) / math.sqrt(len(each))
        return Difference(points, points - half, points + half, True)
    seed = common[0]
    low, high = newcombe(mine[seed] / 100, theirs[seed] / 100, test_images(row, part))
    return Difference(points, 100 * low, 100 * high, False)


def speed_ratio(row: Row, other: Row, slots: dict[str, set[int]]) -> float | None:
    """Training speed against another row's, where both were measured beside equally many other runs.

    Args:
        row: numerator.
        other: denominator.
        slots: stage -> how many runs at a time it had.

    Returns:
        The ratio of the mean images/s; None where it would compare different things.
    """
    beside = [slots.get(run.path.parent.name, set()) for run in (*row.runs, *other.runs)]
    if any(len(found) != 1 or found != beside[0] for found in beside):
        return None
    mine, theirs = (statistics.fmean(run.record["images_per_second"] for run in r.runs) for r in (row, other))
    return mine / theirs


def pairs(setting: Setting) -> list[tuple[Row, Row]]:
    """Choices with what they are compared with.

    Args:
        setting: exp-100.

    Returns:
        (row, default) pairs in the table's order.
    """
    found = []
    for row in setting.rows:
        default = setting.row(row.method) if row.method in DEFAULTS else None
        if default is not None and row != default:
            found.append((row, default))
    return found


def choice_lines(setting: Setting, slots: dict[str, set[int]]) -> list[str]:
    """The table of choices, with the rule and its outcome below.

    Args:
        setting: exp-100.
        slots: stage -> how many runs at a time it had.

    Returns:
        Lines of Markdown; none without a choice that can be compared.
    """
    if not pairs(setting):
        return []
    heads = [f"{kind} {part}" for kind, part in COLUMNS]
    lines = [f"| choice | {' | '.join(heads)} | images/s | seconds |", "|---|" + "--:|" * (len(heads) + 2)]
    shown: set[str] = set()
    allowed = []
    for row, default in pairs(setting):
        if default.label not in shown:
            shown.add(default.label)
            cells = [f"{default.mean(*metric):.2f}" for metric in COLUMNS]
            lines.append(f"| {default.label}: the default | {' | '.join(cells)} | {_cost(default)} |")
        found = {metric: difference(row, default, *metric) for metric in COLUMNS}
        cells = [_cell(row.mean(*metric), found[metric]) for metric in COLUMNS]
        ratio = speed_ratio(row, default, slots)
        beside = "" if ratio is None else f" ({ratio:.2f} x)"
        lines.append(f"| {row.label} | {' | '.join(cells)} | {_cost(row, beside)} |")
        robust = [found["robust", part] for part in ("overall", "under")]
        faster = ratio is not None and ratio > 1
        if faster and row.method == "srat-ldam" and all(d is not None and d.points >= 0 for d in robust):
            allowed.append(row.label)
    verdict = f"**Yes: {'; '.join(allowed)}.**" if allowed else "**No choice here is so.**"
    return [*lines, "", _LEGEND, "", f"{RULE} {verdict}"]


_LEGEND = (
    "In brackets the difference from the default of the same method with its 95 % interval: over seeds where there are "
    "several (marked *t*), else over test images (Newcombe's, which takes the two for independent and is on the wide "
    "side; it knows nothing of seeds, which alone move a run by points)."
)


def _cell(mean: float, found: Difference | None) -> str:
    if found is None:
        return f"{mean:.2f}"
    mark = " *t*" if found.paired else ""
    return f"{mean:.2f} ({found.points:+.2f}; {found.low:+.2f} to {found.high:+.2f}{mark})"


def _cost(row: Row, beside: str = "") -> str:
    speed = statistics.fmean(run.record["images_per_second"] for run in row.runs)
    seconds = statistics.fmean(run.record["seconds"]["total"] for run in row.runs)
    return f"{speed:,.0f}{beside} | {seconds:,.0f}"
