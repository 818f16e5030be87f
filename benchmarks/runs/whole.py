"""A whole run by the clock on the wall: `python benchmarks/runs/whole.py [--data-root DIR] [--attack-bn running]`.

Enters a folder of CIFAR-10 images, or nothing (random images of the same number and size); leaves one line in
benchmarks/results/<device>.jsonl (--out DIR elsewhere). The run is `srat-fast train` with its defaults: SRAT-LDAM,
exp-100, 200 epochs, clean and PGD-20 accuracy of 10,000 images at the end. Reading and decoding the images for the
first time is done before the clock starts, and told apart: later runs find them prepared.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]  # a script's own folder is on the path, the repository's root is not

from benchmarks.measure import machine, wished_mode  # noqa: E402
from benchmarks.rows import RESULTS, append, path_for  # noqa: E402
from benchmarks.runs.images import write_images  # noqa: E402
from benchmarks.runs.process import TrainingProcess, end_in_order  # noqa: E402
from srat_fast.data.split import load_split  # noqa: E402
from srat_fast.errors import UserError  # noqa: E402
from srat_fast.recipe import build_recipe  # noqa: E402

#: A run of seconds on a CPU: the same path, smaller everywhere.
SMALL = (
    "model.width=8", "attack.steps=2", "eval_attack.steps=2", "optim.batch_size=32", "data.ratio=5",
)  # fmt: skip
SMALL_EPOCHS = 2


def measured(directory: Path, options: list[str], seconds: float) -> dict[str, Any]:
    """Run it.

    Args:
        directory: receives the run.
        options: as for `srat-fast train`.
        seconds: it may take; then it is ended, and the row says how far it came.

    Returns:
        Seconds by what they were spent on, speed, accuracies.

    Raises:
        RuntimeError: it failed; with the end of its output.
    """
    started = time.perf_counter()
    run = TrainingProcess(directory / "run", options)
    try:
        code = run.process.wait(timeout=seconds)
    except (subprocess.TimeoutExpired, SystemExit):
        code = None  # too slow, for us or for who asked us to end: how far it came is a result
    finally:
        run.end()
    wall = time.perf_counter() - started
    record = run.record()
    if code == 0 and record is not None:
        return whole(record, wall)
    if code is not None:
        raise RuntimeError(f"the run ended with code {code}:\n{run.output()}")
    return partial(run.metrics() if run.epochs() else [], wall)


def prepared(name: str, root: str) -> float:
    """Have the images decoded and kept where the run will look for them.

    Args:
        name: of the data set.
        root: of the data set.

    Returns:
        Seconds.

    Raises:
        UserError: the images are missing or damaged.
    """
    started = time.perf_counter()
    fields = {"data.name": name, "data.root": root, "data.imbalance": "none", "data.image_size": 32}
    load_split(build_recipe(None, fields).resolve())
    return round(time.perf_counter() - started, 2)


def whole(record: dict[str, Any], wall: float) -> dict[str, Any]:
    """The row of a finished run.

    Args:
        record: its record.json.
        wall: seconds of the process, from its start to its end.
    """
    spent, recipe = record["seconds"], record["recipe"]
    images = sum(record["counts"]) * recipe["optim"]["epochs"]
    training = images / record["images_per_second"]
    parts = {"compile": spent["compile"], "training": training, "evaluation": spent["evaluation"]}
    return {
        **about(recipe),
        "complete": True,
        "epochs_done": recipe["optim"]["epochs"],
        "wall_seconds": round(wall, 2),
        **{f"{name}_seconds": round(seconds, 2) for name, seconds in parts.items()},
        # the interpreter, images, weights, the start of CUDA, files
        "other_seconds": round(wall - sum(parts.values()), 2),
        "wall_without_compile": round(wall - parts["compile"], 2),
        "saving_seconds": round(record["checkpoints"]["seconds"], 2),
        **{f"{name}_seconds": round(spent[name], 2) for name in ("attack", "step", "data")},
        "images_per_second": round(record["images_per_second"], 2),
        "mfu": record["mfu"],
        "peak_bytes": record["peak_memory_bytes"],
        "test_images": record["test_images"],
        **{
            kind: {name: round(record[kind][name], 4) for name in ("overall", "well", "under")}
            for kind in ("standard", "robust")
        },
    }


def partial(lines: list[dict[str, Any]], wall: float) -> dict[str, Any]:
    """The row of a run that was ended: how far it came and how fast it was, no total.

    Args:
        lines: of its epochs.
        wall: seconds until it was ended.
    """
    speeds = [line["images_per_second"] for line in lines]
    return {
        "complete": False,
        "epochs_done": len(lines),
        "wall_seconds": round(wall, 2),
        "images_per_second": round(sorted(speeds)[len(speeds) // 2], 2) if speeds else None,
    }


def about(recipe: dict[str, Any]) -> dict[str, Any]:
    """What a row says of a recipe.

    Args:
        recipe: as in record.json.
    """
    run = recipe["run"]
    named = "captured" if run["capture"] == "on" else "compiled" if run["compile"] == "on" else "shadow"
    return {
        "method": recipe["method"],
        "batch": recipe["optim"]["batch_size"],
        "width": recipe["model"]["width"],
        "steps": recipe["attack"]["steps"],
        "bn": recipe["attack"]["bn"],
        "precision": run["precision"],
        "compile_mode": run["compile_mode"],
        "epochs": recipe["optim"]["epochs"],
        "implementation": named,
    }


def line(row: dict[str, Any]) -> str:
    """A row for the eye."""
    if not row["complete"]:
        speed = row["images_per_second"]
        return f"ended after {row['wall_seconds']} s in epoch {row['epochs_done'] + 1}: {speed} images/s"
    parts = ", ".join(
        f"{name} {row[f'{name}_seconds']}" for name in ("compile", "training", "evaluation", "other")
    )
    return f"{row['epochs']} epochs in {row['wall_seconds']} s ({parts}); {row['images_per_second']:,.0f} images/s"


def main() -> int:
    """Parse, run, append.

    Returns:
        0; 1 where the run failed or did not end in time.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, help="folder data set of CIFAR-10; random images without")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--attack-bn", choices=("batch", "running"), default="batch")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--compile-mode", choices=("default", "max-autotune"), default=wished_mode())
    parser.add_argument("--seconds", type=float, default=540.0, help="the run is ended then")
    parser.add_argument("--small", action="store_true", help="seconds on a CPU, to see that it works")
    arguments = parser.parse_args()
    end_in_order()
    row_about = machine()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        os.environ["SRAT_FAST_CACHE"] = str(directory / "cache")  # the run's too
        if arguments.data_root is None:
            per_class = (40, 10) if arguments.small else (5000, 1000)
            data = [
                "--dataset",
                "npz",
                "--data-root",
                str(write_images(directory / "images.npz", *per_class)),
            ]
        else:
            data = ["--dataset", "folder", "--data-root", str(arguments.data_root.resolve())]
        fields = {
            "optim.epochs": SMALL_EPOCHS if arguments.small else arguments.epochs,
            "optim.batch_size": arguments.batch_size,
            "attack.bn": arguments.attack_bn,
            "run.compile_mode": arguments.compile_mode,
            "data.image_size": 32,
        }
        settings = [f"{name}={value}" for name, value in fields.items()]
        options = [*data, "--imbalance", "exp", "--ratio", "100"]
        for setting in (*settings, *(SMALL if arguments.small else ())):
            options += ["--set", setting]
        try:
            ready = prepared(data[1], data[3])
            row = measured(directory, options, arguments.seconds) | {"prepare_seconds": ready}
        except (RuntimeError, UserError) as error:
            print(error, file=sys.stderr)
            return 1
    pixels = "random" if arguments.data_root is None else "photographs"
    wished = {"bn": arguments.attack_bn, "epochs": fields["optim.epochs"], "batch": arguments.batch_size}
    row = {"op": "run", "pixels": pixels, **wished, **row, **row_about}
    append(path_for(arguments.out, row_about["device"]), row)
    print(line(row), flush=True)
    return 0 if row["complete"] else 1


if __name__ == "__main__":
    sys.exit(main())
