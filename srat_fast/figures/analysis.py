"""The figures of an analysis: t-SNE, confusion, and accuracy against count."""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from srat_fast.errors import UserError
from srat_fast.figures.canvas import UNDER, WELL, Axes, Figure, figure, named, style

#: What may be analysed: test images, or the imbalanced training images.
IMAGES = ("test", "train")
_VIEWS = {"clean": "clean", "attacked": "under attack"}


@dataclass(frozen=True)
class Panel:
    """One t-SNE panel.

    Attributes:
        title: above it.
        embedding: [M, 2].
        labels: [M].
        classes: names.
        under: labels drawn as triangles.
        numbers: the separability, below the title.
    """

    title: str
    embedding: np.ndarray
    labels: np.ndarray
    classes: list[str]
    under: list[int]
    numbers: str


def separability_text(view: dict[str, Any]) -> str:
    """Such as "silhouette 0.312, scatter ratio 1.84"."""
    silhouette, ratio = view["silhouette"], view["scatter_ratio"]

    def text(value: float | None) -> str:
        return "-" if value is None or not math.isfinite(value) else f"{value:.3g}"

    return f"silhouette {text(silhouette)}, scatter ratio {text(ratio)}"


def panel(analysis: dict[str, Any], arrays: dict[str, np.ndarray], view: str, title: str) -> Panel:
    """The t-SNE panel of a view, "clean" or "attacked"."""
    return Panel(
        title,
        arrays[f"{view}_embedding"],
        arrays["labels"][arrays["index"]],
        analysis["classes"],
        analysis["under"],
        separability_text(analysis[view]),
    )


def suffix_of(weights: str, images: str) -> str:
    """What an analysis adds to the names of its files: "" for the last weights on test images."""
    return ("" if weights == "last" else f"-{weights}") + ("" if images == "test" else f"-{images}")


def read_analysis(
    run: Path, weights: str = "last", images: str = "test"
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """analysis.json and the arrays of features.npz that `srat-fast analyse` left in a run."""
    suffix = suffix_of(weights, images)
    try:
        analysis = json.loads((run / f"analysis{suffix}.json").read_text(encoding="utf-8"))
        with np.load(run / f"features{suffix}.npz", allow_pickle=False) as content:
            return analysis, dict(content)
    except FileNotFoundError:
        raise UserError("RUN", "has no analysis; srat-fast analyse makes it", str(run)) from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError("RUN", f"its analysis is damaged: {error}", str(run)) from None


def draw_panels(panels: list[Panel], columns: int = 3) -> Figure:
    """t-SNE embeddings side by side, each with its separability (the paper's Figs. 3 and 4)."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    with style():
        drawn, grid = figure(rows, columns, width=3.4 * columns + 1.0, height=3.5 * rows)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        for axes, item in zip(grid.flat, panels, strict=False):
            _scatter(axes, item)
        handles, names = grid.flat[0].get_legend_handles_labels()
        if len(names) <= 20:
            drawn.legend(handles, names, loc="outside right upper", fontsize=7, markerscale=1.6)
    return drawn


def _scatter(axes: Axes, item: Panel) -> None:
    """One panel: a colour for each class, circles for the frequent half, triangles for the rare one."""
    colours = "tab10" if len(item.classes) <= 10 else "tab20" if len(item.classes) <= 20 else "nipy_spectral"
    top = max(len(item.classes) - 1, 9 if colours == "tab10" else 19 if colours == "tab20" else 1)
    size = 16 if len(item.labels) <= 500 else 9 if len(item.labels) <= 2500 else 5
    rare_last = sorted(range(len(item.classes)), key=lambda label: (label in item.under, label))
    for label in rare_last:  # 50 points among 5000 would be hidden below them
        name = named(item.classes[label])
        at = item.embedding[item.labels == label]
        axes.scatter(
            at[:, 0], at[:, 1], c=np.full(len(at), label), cmap=colours, vmin=0, vmax=top, s=size, linewidths=0,
            marker="^" if label in item.under else "o", label=f"{name} (under)" if label in item.under else name,
        )  # fmt: skip
    axes.set_title(f"{item.title}\n{item.numbers}", fontsize=8)
    axes.set_xticks([])
    axes.set_yticks([])


def _confusion(analysis: dict[str, Any]) -> Figure:
    """Row-normalised confusion, clean and attacked."""
    names, classes = [named(name) for name in analysis["classes"]], len(analysis["classes"])
    size = min(max(0.42 * classes, 3.0), 9.0)
    with style():
        drawn, grid = figure(1, 2, width=2 * size + 1.6, height=size + 0.9)
        for axes, (view, title) in zip(grid[0], _VIEWS.items(), strict=True):
            counts = np.array(analysis[view]["confusion"], dtype=float)
            shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
            image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues", aspect="equal")
            axes.grid(False)
            axes.set_title(title)
            axes.set_xlabel("predicted")
            axes.set_ylabel("true")
            if classes <= 20:
                axes.set_xticks(range(classes), labels=names, rotation=90, fontsize=7)
                axes.set_yticks(range(classes), labels=names, fontsize=7)
                for row, column in np.ndindex(classes, classes):
                    if shares[row, column] >= 0.005:
                        axes.text(
                            column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", fontsize=6,
                            color="white" if shares[row, column] > 0.55 else "black",
                        )  # fmt: skip
        drawn.colorbar(image, ax=list(grid[0]), label="share of the true class", shrink=0.8)
    return drawn


def _counts(analysis: dict[str, Any]) -> Figure:
    """Accuracy of each class against its training images."""
    counts = np.array(analysis["counts"])
    with style():
        drawn, grid = figure(1, 2, width=8.4, height=3.4, sharey=True)
        for axes, (view, title) in zip(grid[0], _VIEWS.items(), strict=True):
            accuracy = np.array(analysis[view]["accuracy"]["per_class"], dtype=float)
            for half, colour in (("well", WELL), ("under", UNDER)):
                index = analysis[half]
                axes.scatter(
                    counts[index], 100 * accuracy[index], color=colour, label=f"{half}-represented", s=22
                )
            if len(counts) <= 20:
                for n, value, name in zip(counts, accuracy, analysis["classes"], strict=True):
                    if math.isfinite(value):
                        axes.annotate(
                            named(name),
                            (n, 100 * value),
                            textcoords="offset points",
                            xytext=(3, 3),
                            fontsize=6,
                        )
            spearman = analysis[view]["count_correlation"]["spearman"]
            known = spearman is not None and math.isfinite(spearman)
            axes.set_title(f"{title}: Spearman {spearman:.2f}" if known else title)
            _plain_log_axis(axes, counts)
            axes.set_xlabel("training images")
        grid[0][0].set_ylim(-2, 104)
        grid[0][0].set_ylabel("accuracy, %")
        grid[0][1].legend(loc="lower right")
    return drawn


def _plain_log_axis(axes: Axes, counts: np.ndarray) -> None:
    """A logarithmic axis with 1, 2, 5 steps as plain numbers: matplotlib's own labels are formulas."""
    axes.set_xscale("log")
    low, high = counts.min() / 1.3, counts.max() * 1.3
    steps = [f * 10**k for k in range(12) for f in (1, 2, 5)]
    inside = [step for step in steps if low <= step <= high]
    shown = inside if len(inside) <= 6 else [step for step in inside if f"{step}"[0] == "1"]
    axes.set_xticks(shown, labels=[f"{step}" for step in shown])
    axes.minorticks_off()
    axes.set_xlim(low, high)


def draw(analysis: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Figure]:
    """File stem -> figure: "confusion", "accuracy-against-count" and, where there is an embedding, "tsne"."""
    figures = {"confusion": _confusion(analysis), "accuracy-against-count": _counts(analysis)}
    if "index" in arrays:
        name = analysis["method"]
        figures["tsne"] = draw_panels(
            [panel(analysis, arrays, view, f"{name}, {title}") for view, title in _VIEWS.items()]
        )
    return figures
