"""How long a whole run takes by the clock on the wall: `python benchmarks/run.py [--data-root DIR] [--bn running]`.

The run is `srat-fast train` with its defaults: SRAT-LDAM, exp-100, 200 epochs, clean and PGD-20 accuracy of 10,000
images at the end; on a folder of CIFAR-10 images, or random images of the same number and size. Reading and decoding
them for the first time is done before the clock starts, and told apart: later runs find them prepared.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Unmeasured, own_cache, parsed, parser, record
from benchmarks.rows import ROOT, Row
from srat_fast.data.split import load_split
from srat_fast.recipe import build_recipe
from srat_fast.record import METRICS, RECORD

#: A run of seconds on a CPU: the same path, smaller everywhere.
SMALL = {"model.width": 8, "attack.steps": 2, "eval_attack.steps": 2, "optim.batch_size": 32, "data.ratio": 5}
SMALL_EPOCHS = 2
CLASSES, SIZE = 10, 32


class TrainingProcess:
    """`srat-fast train` as a process of its own."""

    def __init__(self, out: Path, options: list[str]) -> None:
        self.out, self._log = out, out.with_suffix(".log")
        command = [sys.executable, "-m", "srat_fast", "train", "--out", str(out), *options]
        paths = [str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")]
        variables = {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | variables,
                start_new_session=True,  # compiler workers included in what `end` ends
            )  # fmt: skip

    def epochs(self) -> int:
        """Epochs done."""
        try:
            return (self.out / METRICS).read_bytes().count(b"\n")
        except OSError:
            return 0

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of the epochs that are done."""
        lines = (self.out / METRICS).read_text(encoding="utf-8").split("\n")[: self.epochs()]
        return [json.loads(line) for line in lines]

    def record(self) -> dict[str, Any] | None:
        """The record of a finished run, else None."""
        try:
            record = json.loads((self.out / RECORD).read_text(encoding="utf-8"))
        except OSError:
            return None
        return record if record["status"] == "finished" else None

    def output(self, lines: int = 15) -> str:
        """The end of what it printed."""
        return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def end(self) -> None:
        """End it and everything that it started, at once; nothing where it has ended."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def write_images(path: Path, train: int, test: int, seed: int = 0) -> Path:
    """Ten classes, each a smooth random picture under strong noise: a loss on them stays finite and can fall.

    `train` and `test` are images a class (5,000 and 1,000 in CIFAR-10).
    """
    generator = np.random.default_rng(seed)
    coarse = generator.integers(64, 192, (CLASSES, 4, 4, 3), dtype=np.uint8)
    pictures = coarse.repeat(SIZE // 4, axis=1).repeat(SIZE // 4, axis=2)  # [classes, 32, 32, 3]
    arrays = {}
    for part, count in (("train", train), ("test", test)):
        labels = np.repeat(np.arange(CLASSES), count)
        noise = generator.integers(0, 128, (len(labels), SIZE, SIZE, 3), dtype=np.uint8)
        arrays[f"{part}_images"] = pictures[labels] // 2 + noise
        arrays[f"{part}_labels"] = labels
    np.savez(path, allow_pickle=False, **arrays)
    return path


def timed(directory: Path, options: list[str], seconds: float) -> Row:
    """A run's seconds by what they were spent on, or how far it came; Unmeasured with its last words if it fails."""
    started = time.perf_counter()
    run = TrainingProcess(directory / "run", options)
    try:
        code = run.process.wait(timeout=seconds)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        code = None  # too slow, for us or for who asked us to end: how far it came is a result
    finally:
        run.end()
    wall = time.perf_counter() - started
    record = run.record()
    if code == 0 and record is not None:
        return whole(record, wall)
    if code is not None:
        raise Unmeasured(f"the run ended with code {code}:\n{run.output()}")
    return partial(run.metrics() if run.epochs() else [], wall)


def prepared(name: str, root: str) -> float:
    """Have the images decoded and kept where the run will look for them; seconds."""
    started = time.perf_counter()
    fields = {"data.name": name, "data.root": root, "data.imbalance": "none", "data.image_size": 32}
    load_split(build_recipe(None, fields).resolve())
    return round(time.perf_counter() - started, 2)


def whole(record: dict[str, Any], wall: float) -> Row:
    """The row of a finished run whose process took `wall` seconds from its start to its end."""
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


def partial(lines: list[dict[str, Any]], wall: float) -> Row:
    """The row of a run that was ended: how far it came and how fast it was, no total."""
    speeds = [line["images_per_second"] for line in lines]
    return {
        "complete": False,
        "epochs_done": len(lines),
        "wall_seconds": round(wall, 2),
        "images_per_second": round(sorted(speeds)[len(speeds) // 2], 2) if speeds else None,
    }


def about(recipe: dict[str, Any]) -> Row:
    """What a row says of a recipe, as record.json has it."""
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


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    made = parser(__doc__)
    made.add_argument("--data-root", type=Path, help="folder data set of CIFAR-10; random images without")
    made.add_argument("--epochs", type=int, default=200)
    made.add_argument("--bn", choices=("batch", "running"), default="batch", help="attack.bn")
    made.add_argument("--batch", type=int, default=128)
    made.add_argument("--seconds", type=float, default=540.0, help="the run is ended then")
    return parsed(made, arguments)


def measured(found: argparse.Namespace) -> Iterator[Row]:
    """One row."""
    fields = {
        "data.imbalance": "exp", "data.ratio": 100, "data.image_size": SIZE, "optim.epochs": found.epochs,
        "optim.batch_size": found.batch, "attack.bn": found.bn,
    }  # fmt: skip
    if found.small:
        fields |= SMALL | {"optim.epochs": SMALL_EPOCHS}
    with tempfile.TemporaryDirectory() as name, own_cache(Path(name)):
        directory = Path(name)
        if found.data_root is None:
            per_class = (40, 10) if found.small else (5000, 1000)
            data = ("npz", str(write_images(directory / "images.npz", *per_class)))
        else:
            data = ("folder", str(found.data_root.resolve()))
        chosen = ["--dataset", data[0], "--data-root", data[1]]
        chosen += [text for name, value in fields.items() for text in ("--set", f"{name}={value}")]
        ready = prepared(*data)
        row = timed(directory, chosen, found.seconds)
    about = {"epochs": fields["optim.epochs"], "batch": fields["optim.batch_size"], "bn": found.bn}
    pixels = "random" if found.data_root is None else "photographs"
    yield {"op": "run", "pixels": pixels, **about, **row, "prepare_seconds": ready}
    if not row["complete"]:
        raise Unmeasured(
            f"the run was ended after {row['wall_seconds']:.0f} s, in epoch {row['epochs_done'] + 1}"
        )


if __name__ == "__main__":
    chosen = options()
    record(measured(chosen), chosen.out)
