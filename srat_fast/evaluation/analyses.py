"""The paper's analyses of a run: features, separability, confusion, figures."""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from srat_fast.data.arrays import ImageSet, in_memory
from srat_fast.data.memory import MemoryLoader
from srat_fast.errors import UserError, require_one_of
from srat_fast.evaluation import separability
from srat_fast.evaluation.accuracy import PgdSettings, accuracies, predict
from srat_fast.evaluation.judge import eval_settings
from srat_fast.evaluation.subject import open_subject
from srat_fast.figures.analysis import IMAGES, draw, suffix_of
from srat_fast.figures.canvas import save
from srat_fast.hardware import neutral, numerics
from srat_fast.models.classifier import Classifier
from srat_fast.plugins import Plugins, load_all
from srat_fast.record import RunDirectory, versions, write_atomically
from srat_fast.seeds import seed_for

#: Fewest points that t-SNE makes sense of.
_FEWEST = 8


def files_of(weights: str, images: str = "test") -> tuple[str, str, str]:
    """Where an analysis goes within its run: (analysis, features, directory of figures)."""
    suffix = suffix_of(weights, images)
    return f"analysis{suffix}.json", f"features{suffix}.npz", f"figures{suffix}"


class _Recorder(nn.Module):
    """The model, keeping the penultimate features of its verdicts: of what it sees without gradients, so not of PGD."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model
        self.kept: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        features = self.model.features(images)
        if not torch.is_grad_enabled():
            self.kept.append(features.float().cpu())
        return self.model.classify(features)


def observe(
    model: Classifier,
    loader: MemoryLoader,
    attack: PgdSettings | None,
    *,
    seed: int = 0,
    progress: Callable[[int], None] = lambda images: None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Penultimate features and predictions, on clean images or PGD examples: those that the reported accuracy is of."""
    recorder = _Recorder(model)
    predictions, labels = predict(recorder, loader, attack, seed=seed, progress=progress)
    features = torch.cat(recorder.kept)
    assert len(features) == len(labels), "one verdict an image"
    return features.numpy(), predictions.numpy(), labels.numpy()


def describe(
    features: np.ndarray,
    predictions: np.ndarray,
    labels: np.ndarray,
    *,
    counts: list[int],
    well: list[int],
    under: list[int],
    seed: int,
) -> dict[str, Any]:
    """The numbers of one view, clean or attacked."""
    matrix = separability.confusion(predictions, labels, len(counts))
    accuracy = accuracies(torch.from_numpy(predictions), torch.from_numpy(labels), well, under)
    return {
        "accuracy": accuracy,
        "confusion": matrix.tolist(),
        "under_taken_by_well": separability.taken_by(matrix, under, well),
        "count_correlation": separability.rank_correlation(counts, accuracy["per_class"]),
        "scatter_ratio": separability.scatter_ratio(features, labels),
        **separability.silhouettes(features, labels, seed=seed),
    }


def leak(
    model: Classifier,
    images: ImageSet,
    attack: PgdSettings,
    *,
    batch_size: int,
    device: torch.device,
    seed: int,
    progress: Callable[[int], None] = lambda images: None,
) -> dict[str, Any]:
    """How separable features are by labels that say nothing of the images, after an attack that climbs their loss.

    The labels are dealt out anew, as many of each class. What can be told of them the attack has written into the
    images, and features that are near for that reason bring the separation loss down without knowing a class.
    """
    generator = np.random.default_rng(seed_for(seed, "drawn labels"))
    dealt = dataclasses.replace(images, labels=generator.permutation(images.labels))
    loader = MemoryLoader(dealt, batch_size=batch_size, device=device)
    features, _, labels = observe(model, loader, attack, seed=seed, progress=progress)
    found = {"scatter_ratio": separability.scatter_ratio(features, labels)}
    return found | separability.silhouettes(features, labels, seed=seed)


@neutral()
def analyse(
    run: str | Path,
    *,
    weights: str = "last",
    images: str = "test",
    changes: dict[str, Any] | None = None,
    device: str = "auto",
    points: int = 1000,
    data: Any = None,
    plugin: Plugins = (),
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> dict[str, Any]:
    """Features, separability, confusion and accuracy against class count, clean and under the run's evaluation attack.

    Writes analysis.json (the result), features.npz (`clean_features` and `attacked_features` [N, D] float32, `labels`,
    `clean_predictions`, `attacked_predictions` [N], `index` [M] of the points of `clean_embedding` and
    `attacked_embedding` [M, 2]) and figures as SVG and PNG into the run; with other weights than the last epoch's,
    analysis-best.json and so on; of the training images, analysis-train.json.

    Args:
        run: a run directory.
        weights: "last", "best" or "ema".
        images: "test", or "train" for the imbalanced training images without augmentation (the paper's Fig. 3).
        changes: recipe fields to change, such as {"data.test_limit": 1000}.
        device: "auto", "cpu", "cuda" or "cuda:N".
        points: of t-SNE at most, evenly over the classes, or of training images in their own proportions; 0 leaves
            t-SNE out.
        data: the images of a run that was trained on images in memory, as `srat_fast.train` took them.
        plugin: file or files of plug-ins that the run was made with; others are refused, and none is run unless given.
        progress: told (what is done, images done, images in all).

    Returns:
        The content of analysis.json: what was analysed, "clean" and "attacked" as `describe` gives them, and "leak":
        silhouettes and scatter ratio by labels that were drawn at random, of images attacked by them. Features that are
        separable by those tell of the attack and not of the image.

    Raises:
        UserError: not a run, images missing, weights that it did not keep, or the run cannot be written to.
    """
    if points != 0 and points < _FEWEST:
        raise UserError("--points", f"0 or an integer >= {_FEWEST}", points)
    require_one_of("--images", images, IMAGES)
    started = time.perf_counter()
    load_all(plugin)
    subject = open_subject(run, changes or {}, weights=weights, device=device, data=data)
    recipe, model, split = subject.recipe, subject.model, subject.split
    chosen = split.test if images == "test" else in_memory(split.train)
    loader = MemoryLoader(chosen, batch_size=recipe.run.eval_batch_size, device=subject.device)
    attack = eval_settings(recipe)
    views, arrays = {}, {}

    def counted(name: str) -> Callable[[int], None]:
        done = 0

        def report(count: int) -> None:
            nonlocal done
            done += count
            progress(name, done, len(chosen))

        return report

    for name, settings in (("clean", None), ("attacked", attack)):
        with numerics(recipe.run.deterministic):
            seen = observe(model, loader, settings, seed=recipe.seed, progress=counted(name))
        arrays[f"{name}_features"], arrays[f"{name}_predictions"], arrays["labels"] = seen
        views[name] = describe(
            *seen, counts=split.counts, well=split.well, under=split.under, seed=recipe.seed
        )
    with numerics(recipe.run.deterministic):
        leaked = leak(
            model, chosen, attack, batch_size=recipe.run.eval_batch_size, device=subject.device,
            seed=recipe.seed, progress=counted("attacked by drawn labels"),
        )  # fmt: skip
    if points and len(chosen) >= _FEWEST:
        sample = separability.spread_sample if images == "test" else separability.proportional_sample
        arrays["index"] = sample(arrays["labels"], points, recipe.seed)
        for name in views:
            progress(f"t-SNE, {name}", 0, len(arrays["index"]))
            features = arrays[f"{name}_features"][arrays["index"]]
            arrays[f"{name}_embedding"] = separability.embed(features, seed=recipe.seed)
    result = {
        "method": recipe.method,
        "data": recipe.data.name,
        "imbalance": recipe.data.imbalance,
        "ratio": recipe.data.ratio,
        "seed": recipe.seed,
        "weights": weights,
        "weights_checksum": subject.weights_checksum,
        "part": images,
        "images": len(chosen),
        "classes": list(split.classes),
        "counts": split.counts,
        "well": split.well,
        "under": split.under,
        "attack": dataclasses.asdict(attack),
        "data_checksum": split.checksum,
        "same_data": subject.same_data,
        "versions": versions(),
        "seconds": time.perf_counter() - started,
        **views,
        "leak": leaked,
    }
    _write(subject.directory, files_of(weights, images), result, arrays)
    return result


def _write(
    directory: RunDirectory,
    files: tuple[str, str, str],
    result: dict[str, Any],
    arrays: dict[str, np.ndarray],
) -> None:
    """The numbers, the arrays and the figures, each whole or not at all."""
    analysis, features, figures = files
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    try:
        write_atomically(directory.path / features, buffer.getvalue())
        directory.write_json(analysis, result)
    except OSError as error:
        raise UserError("RUN", f"cannot be written: {error.strerror}", str(directory.path)) from None
    for stem, drawn in draw(result, arrays).items():
        for suffix in (".svg", ".png"):
            save(drawn, directory.path / figures / f"{stem}{suffix}", "RUN")
