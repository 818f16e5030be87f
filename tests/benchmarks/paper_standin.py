"""In place of `python -m srat_fast.sweep.child`: sweeps are real, their trials and the judging take no time.

$STANDIN is a JSON file: {"seconds": of a trial, "fails": [commands that exit with 1]}. Every command is a line of
"journal" beside it. Accuracies follow the method, so that tables have something to show.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from srat_fast.sweep.child import end_with, load_data

ACCURACY = {"ce": 0.27, "drcb-ldam": 0.32, "srat-ldam": 0.34}
end_with(int(sys.argv[1]))
command, arguments = sys.argv[2], sys.argv[3:]
setting_file = Path(os.environ["STANDIN"])
setting = json.loads(setting_file.read_text())
with setting_file.with_name("journal").open("a") as file:
    file.write(" ".join(sys.argv[2:]) + "\n")


def value(option: str) -> str:
    return arguments[arguments.index(option) + 1]


def part(share: float) -> dict:
    return {"overall": share, "well": share, "under": share / 2, "per_class": [share, share / 2]}


if command in ("sweep", "load-data"):
    from srat_fast.cli import main
    from srat_fast.sweep import process

    process.CHILD = [sys.executable, __file__]
    if command == "sweep":
        main(sys.argv[2:])
    else:
        load_data(Path(arguments[0]))
    sys.exit(0)
if command in setting["fails"]:
    print("error: this one is to fail", file=sys.stderr)
    sys.exit(1)
if command == "train":
    from srat_fast.recipe import build_recipe

    out = Path(value("--out"))
    out.mkdir(parents=True, exist_ok=True)
    asked: list[int] = []  # looked at between epochs: no file is left half-written
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    recipe = build_recipe(value("--recipe")).resolve().to_dict()
    (out / "recipe.json").write_text(json.dumps(recipe))
    begun = float((out / "checkpoint.txt").read_text()) if (out / "checkpoint.txt").exists() else 0.0
    for tenths in range(int(10 * begun), int(10 * setting["seconds"])):
        time.sleep(0.1)
        if asked:
            sys.exit(143)
        (out / "metrics.jsonl").write_text(json.dumps({"epoch": tenths, "images_per_second": 1234.4}) + "\n")
        (out / "checkpoint.txt").write_text(str((tenths + 1) / 10))
    share = ACCURACY[recipe["method"]]
    (out / "metrics.jsonl").write_text(json.dumps({"epoch": 0, "images_per_second": 9.0}) + "\n")
    record = {
        "status": "finished", "recipe": recipe, "classes": ["a", "b"], "counts": [100, 1], "well": [0], "under": [1],
        "test_images": 100, "standard": part(2 * share), "robust": part(share), "collapsed": None,
        "images_per_second": 1000.0, "seconds": {"total": 9.0, "evaluation": 1.0, "compile": 0.0}, "mfu": None,
        "peak_memory_bytes": 2**30, "device": "none", "versions": {"torch": "9.9"}, "git_commit": "none",
    }  # fmt: skip
    (out / "record.json").write_text(json.dumps(record))
    (out / "model.safetensors").write_bytes(b"\0" * 1000)
elif command in ("evaluate", "audit"):
    path = Path(arguments[0]) / "record.json"
    record = json.loads(path.read_text())
    share = record["robust"]["overall"]
    if command == "audit":
        record["audit"] = {"verdict": "suspicious"}
    else:
        images = int(value("--subset"))
        names = [*value("--attack").split(","), "worst-case"]
        row = part(share - 0.05) | {"intervals": {"overall": [share - 0.1, share]}, "images": images}
        record.setdefault("evaluations", []).append({"weights": "last", "attacks": dict.fromkeys(names, row)})
    path.write_text(json.dumps(record))
    sys.exit(3 if command == "audit" else 0)
elif command == "analyse":
    runs = arguments[: arguments.index("--subset")]
    view = {"silhouette": 0.1, "silhouette_cosine": 0.2, "scatter_ratio": 0.3, "under_taken_by_well": None}
    for run in runs:
        (Path(run) / "analysis.json").write_text(json.dumps({"images": 60, "clean": view, "attacked": view}))
    Path(value("--together")).write_bytes(b"a picture")
