"""The paper's tables and figures as sweeps: a name, a scale and a number of seeds enter; a spec leaves."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from srat_fast.errors import UserError, require_one_of
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
    """A table or figure.

    Attributes:
        name: such as "table4".
        title: what it shows.
        note: what the paper does not say about it and is our choice; "" where it says all.
        per_class: whether it shows each class.
        trains: whether it needs runs; without, it shows class counts.
        tree: the spec's TOML document at paper scale, with what smoke scale changes under "smoke".
    """

    name: str
    title: str
    note: str
    per_class: bool
    trains: bool
    tree: dict[str, Any]


def item_names() -> list[str]:
    """The tables and figures that can be reproduced.

    Returns:
        Names: tables, then figures, each by number.
    """
    found = []
    for entry in files("srat_fast.sweep.paper").iterdir():
        match = re.fullmatch(r"(table|fig)(\d+)\.toml", entry.name)
        if match:
            found.append((match[1] == "fig", int(match[2]), entry.name.removesuffix(".toml")))
    return [name for _, _, name in sorted(found)]


def load_item(name: str) -> Item:
    """A table or figure.

    Args:
        name: one of `item_names`.

    Returns:
        The item.

    Raises:
        UserError: there is none of that name.
    """
    require_one_of("ITEM", name, item_names())
    tree = tomllib.loads((files("srat_fast.sweep.paper") / f"{name}.toml").read_text(encoding="utf-8"))
    note, per_class, trains = tree.pop("note", ""), tree.pop("per_class", False), tree.pop("trains", True)
    return Item(name, tree["title"], note, per_class, trains, tree)


def item_spec(item: Item, scale: str, seeds: int, folder: Path | None = None) -> Spec:
    """The sweep of a table or figure.

    Args:
        item: as loaded.
        scale: "paper" for the real thing, "smoke" for minutes on digits.
        seeds: runs of each cell.
        folder: holds the same images as class folders below train/ and test/, in place of the archive.

    Returns:
        The spec.

    Raises:
        UserError: an unknown scale, no seed, or a folder for an item that has none.
    """
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
