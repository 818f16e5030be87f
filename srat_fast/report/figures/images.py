"""Clean images, adversarial ones and the difference between them, from samples.npz."""

from __future__ import annotations

import zipfile
import zlib
from functools import partial

import numpy as np

from srat_fast.figures.canvas import Figure, figure, named, style
from srat_fast.record import SAMPLES
from srat_fast.report.collect import Run
from srat_fast.report.figures.drawing import Drawing, stem
from srat_fast.report.groups import Group
from srat_fast.tables import length

#: Grids a group: they are for looking, not for counting.
_RUNS = 3


def image_drawings(group: Group) -> list[Drawing]:
    """One grid for the first run of each of a few rows that kept samples."""
    drawings = []
    for row in group.rows:
        if row.weights != "last":
            continue
        run = next((run for run in row.finished if (run.path / SAMPLES).is_file()), None)
        samples = read_samples(run) if run is not None else None
        if samples is None:
            continue
        epsilon, steps = float(samples["epsilon"]), int(samples["steps"])
        drawings.append(
            Drawing(
                stem("images", row.label, group.name),
                f"Clean and adversarial images, {row.label}",
                (),
                f"{group.title}. Test images with the true class and what the network says, PGD-{steps} examples "
                f"within {length(epsilon)} of them with what it says then, and the difference, magnified "
                f"{0.5 / epsilon:.3g} times around grey.",
                _words(samples, group),
                partial(_draw, samples, group),
            )
        )
        if len(drawings) == _RUNS:
            break
    return drawings


def read_samples(run: Run) -> dict[str, np.ndarray] | None:
    """What `srat_fast.evaluation.samples` kept of a run; None where the file is damaged."""
    try:
        with np.load(run.path / SAMPLES, allow_pickle=False) as stored:
            samples = {name: stored[name] for name in stored.files}
        return samples if len(samples["clean"]) == len(samples["adversarial"]) else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def _draw(samples: dict[str, np.ndarray], group: Group) -> Figure:
    count = len(samples["clean"])
    drawn, axes = figure(3, count, width=0.95 * count + 0.6, height=3.6)
    clean, adversarial = (samples[name].astype(np.float64) / 255 for name in ("clean", "adversarial"))
    difference = np.clip(0.5 + (adversarial - clean) * 0.5 / float(samples["epsilon"]), 0, 1)
    with style():
        for k in range(count):
            truth = group.classes[samples["labels"][k]]
            for line, pixels in enumerate((clean[k], adversarial[k], difference[k])):
                place = axes[line, k]
                picture = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
                place.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                place.set_xticks([])
                place.set_yticks([])
                for spine in place.spines.values():
                    spine.set_visible(False)
            for line, name in enumerate(("clean_predictions", "adversarial_predictions")):
                said = group.classes[samples[name][k]]
                text = f"{named(truth)}\n{named(said)}" if line == 0 else named(said)
                axes[line, k].set_title(text, fontsize=7, color="#1a6b2e" if said == truth else "#a61c00")
        for line, name in enumerate(("clean", "adversarial", "difference")):
            axes[line, 0].set_ylabel(name)
    return drawn


def _words(samples: dict[str, np.ndarray], group: Group) -> str:
    named = [
        f"{group.classes[label]}: {group.classes[clean]}, then {group.classes[attacked]}"
        for label, clean, attacked in zip(
            samples["labels"], samples["clean_predictions"], samples["adversarial_predictions"], strict=True
        )
    ]
    return "True class: prediction, prediction under attack. " + "; ".join(named) + "."
