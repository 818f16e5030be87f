"""The paper's tables and figures, and comparisons of the field, as sweeps at full scale or on digits; shared runs."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from srat_fast.errors import UserError, require_one_of
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.sweep.process import finished_fields
from srat_fast.sweep.spec import Spec, spec_from_tree

SCALES = ("smoke", "paper")
#: Sets that may be given as class folders: a folder has their attack and augmentation, and not those of svhn.
_IN_FOLDERS = ("cifar10", "cifar100")
#: What smoke scale changes everywhere: that everything runs, in minutes on a CPU; its numbers mean nothing.
_SMOKE = {
    "dataset": "digits",
    "epochs": 4,
    "model.width": 4,
    "attack.steps": 2,
    "eval_attack.steps": 5,
    "data.test_limit": 100,
    "run.tensorboard": False,
}


@dataclass(frozen=True)
class Item:
    """A table or figure of the paper, or a comparison of the field's methods.

    Attributes:
        name: such as "table4".
        title: what it shows.
        note: what the paper does not say about it and is our choice; "" where it says all.
        per_class: whether it shows each class.
        trains: whether it needs runs; without, it shows class counts.
        attacks: further attacks after training -> test images, 0 for all.
        tree: the spec's TOML document at paper scale, with what smoke scale changes under "smoke".
    """

    name: str
    title: str
    note: str
    per_class: bool
    trains: bool
    attacks: dict[str, int]
    tree: dict[str, Any]


def item_names() -> list[str]:
    """The tables, then the figures that can be reproduced, each by number."""
    found = []
    for entry in files("srat_fast.sweep.paper").iterdir():
        match = re.fullmatch(r"(table|fig)(\d+)\.toml", entry.name)
        if match:
            found.append((match[1] == "fig", int(match[2]), entry.name.removesuffix(".toml")))
    return [name for _, _, name in sorted(found)]


def field_names() -> list[str]:
    """The comparisons of the field's methods."""
    places = files("srat_fast.sweep.paper").iterdir()
    return sorted(e.name.removesuffix(".toml") for e in places if e.name.startswith("field-"))


def load_item(name: str) -> Item:
    """An item by its name, one of `item_names` or `field_names`."""
    require_one_of("ITEM", name, [*item_names(), *field_names()])
    tree = tomllib.loads((files("srat_fast.sweep.paper") / f"{name}.toml").read_text(encoding="utf-8"))
    note, per_class, trains = tree.pop("note", ""), tree.pop("per_class", False), tree.pop("trains", True)
    return Item(name, tree["title"], note, per_class, trains, tree.pop("attacks", {}), tree)


def item_spec(item: Item, scale: str, seeds: int, folder: Path | None = None) -> Spec:
    """The sweep of an item, at one of `SCALES`; `folder` holds the same images as class folders."""
    require_one_of("--scale", scale, SCALES)
    if seeds < 1:
        raise UserError("--seeds", "an integer >= 1", seeds)
    tree = {key: value for key, value in item.tree.items() if key != "smoke"}
    tree["seeds"] = seeds
    if folder is not None:
        dataset = tree["base"]["dataset"]
        if scale == "smoke":
            raise UserError(
                "--folder", "has no effect: smoke scale runs on scikit-learn's digits", str(folder)
            )
        if dataset not in _IN_FOLDERS:
            known = ", ".join(_IN_FOLDERS)
            raise UserError("--folder", f"for items of {known}; {item.name} is of {dataset}", str(folder))
        tree["base"] = tree["base"] | {"dataset": "folder", "data_root": str(folder)}
        tree["published"] = dataset
        tree["title"] = f"{item.title} (from class folders)"
    if scale == "smoke":
        smoke = item.tree.get("smoke", {})
        tree["title"] = f"{item.title} (smoke scale on digits: shows that it runs)"
        tree["recipe"] = "digits"
        base = {key: value for key, value in tree["base"].items() if key != "dataset"}
        base = {**base, **smoke.get("base", {})}
        if isinstance(base.get("data"), dict):  # data.classes of the real set, unless smoke names its own
            base["data"] = {k: v for k, v in base["data"].items() if f"data.{k}" not in base}
        tree["base"] = {**base, **_SMOKE}
        tree["axes"] = smoke.get("axes", tree["axes"])
    return spec_from_tree(tree, Path("."), item.name)


def share_runs(sweep: SweepDirectory, others: Sequence[SweepDirectory]) -> int:
    """Link other sweeps' finished runs in place of equal ones that have not begun; how many runs are links now."""
    for trial in sweep.plan.trials:
        run = sweep.run(trial)
        if run.is_symlink() and not run.exists():  # what it points to was removed
            run.unlink()
        if run.exists():
            continue
        for other in others:
            same = other.by_id.get(trial.id)
            record = other.record(same) if same is not None else None
            if same is None or record is None or record.get("status") != "finished":
                continue
            place = other.run(same).resolve()  # of a link: where the run itself is
            run.symlink_to(os.path.relpath(place, run.parent.resolve()), target_is_directory=True)
            reason = f"a run of {place.parents[1].name}"
            sweep.write_state(
                trial, {"status": "done", "attempts": [], "reason": reason} | finished_fields(record)
            )
            break
    return sum(sweep.run(trial).is_symlink() for trial in sweep.plan.trials)
