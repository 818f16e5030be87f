"""How long it will take: what is left and what finished runs took enter; seconds, and where they come from, leave."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from srat_fast.sweep.plan import Trial


@dataclass(frozen=True)
class Estimate:
    """A time and its source.

    Attributes:
        seconds: of wall time with all slots; None where nothing is known.
        trial_seconds: summed over trials, as if one ran after another; None likewise.
        source: what it rests on, in words.
    """

    seconds: float | None
    trial_seconds: float | None
    source: str


def estimate(
    left: Iterable[Trial],
    slots: int,
    finished: Iterable[tuple[Trial, float]] = (),
    images_per_second: float | None = None,
) -> Estimate:
    """The time that trials will take.

    Args:
        left: trials to run.
        slots: at a time.
        finished: trials that ran, with the seconds that each took; they decide where there are any.
        images_per_second: training speed of one trial, as the user states it.

    Returns:
        The estimate: by training work (attack steps, width and image size counted) at the rate of finished runs, else
        by training images at the stated speed; start-up and evaluation are in the first only.
    """
    trials, done = list(left), [(trial, seconds) for trial, seconds in finished if seconds]
    if done:
        rate = sum(trial.work for trial, _ in done) / sum(seconds for _, seconds in done)
        total = sum(trial.work for trial in trials) / rate
        source = f"from {len(done)} finished run(s) of this sweep"
    elif images_per_second:
        total = sum(trial.images for trial in trials) / images_per_second
        source = f"at the given {images_per_second:,g} training images/s a trial, evaluation not counted"
    else:
        return Estimate(
            None,
            None,
            "unknown until a run of this sweep has finished; --images-per-second N gives an estimate",
        )
    at_once = max(1, min(slots, len(trials)))
    longest = (
        max((trial.work for trial in trials), default=0.0) / (sum(t.work for t in trials) or 1.0) * total
    )
    return Estimate(max(total / at_once, longest), total, source)


def duration(seconds: float | None) -> str:
    """Seconds as people say them.

    Args:
        seconds: or None.

    Returns:
        Such as "2 h 05 min", "40 s" or "unknown".
    """
    if seconds is None:
        return "unknown"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours / 24:.1f} days"


def clock(seconds: float | None) -> str:
    """When something that takes `seconds` from now ends.

    Args:
        seconds: or None.

    Returns:
        Such as "Mon 14:05"; "" where it is unknown.
    """
    return "" if seconds is None else time.strftime("%a %H:%M", time.localtime(time.time() + seconds))
