"""The canvas: figures in the house's style, saved by their suffix. Imports matplotlib.

Other files take `Figure` and `Axes` from here, draw inside `with style():`, and never touch pyplot, so nothing global
is changed and no window system is needed. Equal drawings give equal bytes: no dates, no random identifiers.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from srat_fast.errors import UserError
from srat_fast.record import write_atomically
from srat_fast.tables import visible

__all__ = [
    "SERIES",
    "SUFFIXES",
    "UNDER",
    "WELL",
    "Axes",
    "Figure",
    "class_ticks",
    "figure",
    "logarithmic",
    "named",
    "render",
    "save",
    "spectrum",
    "style",
    "suffix_of",
]

#: Colours of the well- and under-represented classes, told apart by colour-blind readers and in grey print too.
WELL, UNDER = "#1f5a93", "#e0862c"
#: Colours of several curves, in order (Okabe and Ito's set, which colour-blind readers can tell apart).
SERIES = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#000000", "#b8a800")

#: Suffix -> metadata that keeps dates and versions out of the file.
SUFFIXES: dict[str, dict[str, Any]] = {
    ".svg": {"Date": None, "Creator": None},
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}

_STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine draws the same
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": matplotlib.cycler(color=SERIES),  # type: ignore[attr-defined]
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.dpi": 100.0,
    "savefig.dpi": 150.0,
    "svg.fonttype": "none",  # text stays text: it can be searched and read aloud
    "svg.hashsalt": "srat-fast",  # else identifiers differ from run to run
    "pdf.fonttype": 42,
    # a class may be called "a$b"; a formula asks for it: axes.set_xlabel(r"$\rho$", parse_math=True)
    "text.parse_math": False,
}


@contextmanager
def style() -> Iterator[None]:
    """The house's style, for as long as the block runs; drawing happens inside."""
    with matplotlib.rc_context(_STYLE):
        yield


def figure(
    rows: int = 1, columns: int = 1, *, width: float = 6.4, height: float = 3.6, **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure of a size in inches and its axes [rows, columns]; `options` are those of `Figure.subplots`."""
    with style():
        made = Figure(figsize=(width, height), layout="constrained")
        return made, made.subplots(rows, columns, squeeze=False, **options)


def spectrum(count: int) -> list[tuple[float, float, float, float]]:
    """Colours in an order that is seen, also in grey print: dark to light, short of what is lost on white."""
    return [matplotlib.colormaps["viridis"](share) for share in np.linspace(0.0, 0.92, count)]


def named(name: str) -> str:
    """A class's name in a figure: one line of at most 24 characters (a longer one would leave no room for the axes)."""
    text = visible(name)
    text = text if len(text) <= 24 else text[:23] + "…"
    return f" {text}" if text.startswith("_") else text  # matplotlib keeps a leading "_" out of legends


def class_ticks(axes: Axes, names: Sequence[str]) -> None:
    """Classes below their bars, turned only where a name is too long to stand beside the next one."""
    texts = [named(name) for name in names]
    too_long = (
        len(texts) * (max(map(len, texts)) + 1) > 36
    )  # characters that a panel three inches wide has room for
    turned: Any = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if too_long else {}
    axes.set_xticks(range(len(texts)), texts, **turned)


def logarithmic(axes: Axes, which: str) -> None:
    """Make axis "x" or "y" logarithmic, with plain numbers: the usual formulas are not parsed within `style`."""
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def suffix_of(path: str | Path, option: str = "--figure") -> str:
    """The kind of picture that a path asks for; to be asked before the work whose result it will hold."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(option, f"a file name that ends in {', '.join(SUFFIXES)} is needed", str(path))
    return suffix


def render(drawn: Figure, suffix: str = ".svg") -> bytes:
    """A figure as the bytes of a picture; equal figures give equal bytes."""
    buffer = io.BytesIO()
    with style(), warnings.catch_warnings():
        # what the font lacks is text in .svg all the same, drawn by the reader's fonts, and a box in .png
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from font", UserWarning)
        drawn.savefig(buffer, format=suffix[1:], metadata=SUFFIXES[suffix])
        drawn.set_layout_engine(
            "none"
        )  # the layout stays as it is: a second format takes a third of the time
    return buffer.getvalue()


def save(drawn: Figure, path: str | Path, option: str = "--figure") -> Path:
    """Write a figure, whole or not at all; `option` is named in errors."""
    target = Path(path)
    content = render(drawn, suffix_of(target, option))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, content)
    except OSError as error:
        raise UserError(option, f"cannot be written: {error.strerror}", str(path)) from None
    return target
