"""Whether the attack's own labels meet the separation loss: `python benchmarks/leak.py [--data-root DIR]`.

The first epochs of the paper's recipe on exp-100, warm-up whole, with an attack on the batch's statistics and on the
running ones; then how separable features are, by the images' labels and by drawn ones. Of random images it says little.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import ON_GPU, Unmeasured, own_cache, parsed, parser, record
from benchmarks.rows import Row
from benchmarks.run import SIZE, SMALL, SMALL_EPOCHS, about, write_images
from srat_fast import analyse, build_recipe, train
from srat_fast.errors import TrainingFailure
from srat_fast.record import METRICS

#: Method and attack.bn, what matters most first.
RUNS = (("srat-ce", "batch"), ("srat-ce", "running"), ("srat-ldam", "batch"))
#: The paper's warm-up of 5 epochs among them; seconds on a GPU.
EPOCHS, WARMUP = 8, 5
IMAGES = 1000  # of the test set


def leak(fields: dict[str, object], directory: Path) -> Row:
    """The last epoch of a run, and the scatter ratios of its features."""
    recipe = build_recipe(None, fields)
    try:
        found = train(recipe, directory)
    except TrainingFailure as error:
        raise Unmeasured(f"{recipe.method}, attack.bn = {recipe.attack.bn}: {error}") from None
    last = json.loads((directory / METRICS).read_text(encoding="utf-8").splitlines()[-1])
    analysis = analyse(directory, points=0)
    return {
        "op": "leak",
        **about(found["recipe"]),
        **{name: last[name] for name in ("separation", "classification", "train_accuracy")},
        "collapsed": found["collapsed"] is not None,
        "scatter_ratio": {name: analysis[name]["scatter_ratio"] for name in ("clean", "attacked", "leak")},
    }


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    made = parser(__doc__)
    made.add_argument("--data-root", type=Path, help="folder data set of CIFAR-10; random images without")
    return parsed(made, arguments)


def measured(found: argparse.Namespace) -> Iterator[Row]:
    """A row a run."""
    with tempfile.TemporaryDirectory() as name, own_cache(Path(name)):
        directory = Path(name)
        data = ("folder", str(found.data_root and found.data_root.resolve()))
        if found.data_root is None:
            per_class = (40, 10) if found.small else (5000, 1000)
            data = ("npz", str(write_images(directory / "images.npz", *per_class)))
        fields = {
            "data.name": data[0], "data.root": data[1], "data.imbalance": "exp", "data.ratio": 100,
            "data.image_size": SIZE, "data.test_limit": IMAGES, "optim.epochs": EPOCHS, "optim.warmup_epochs": WARMUP,
            "run.tensorboard": False, "run.device": "cuda" if ON_GPU else "cpu",
        }  # fmt: skip
        if found.small:
            fields |= SMALL | {"optim.epochs": SMALL_EPOCHS, "optim.warmup_epochs": 1, "data.test_limit": 50}
        pixels = "random" if found.data_root is None else "photographs"
        for method, bn in RUNS[:1] if found.small else RUNS:
            chosen = fields | {"method": method, "attack.bn": bn}
            yield {"pixels": pixels, **leak(chosen, directory / f"{method}-{bn}")}


if __name__ == "__main__":
    chosen = options()
    record(measured(chosen), chosen.out)
