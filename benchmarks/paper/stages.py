"""What is measured, in order of importance: names of a plan enter; stages with their specs at a scale leave."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
#: Stages that train, by the name of their spec beside this file.
TRAINING = ("exp", "step", "choices", "others", "seeds")
#: The runs whose robust accuracy is judged further and whose features are drawn (the paper's Fig. 4).
JUDGED = ("exp", "step")
#: What --plan takes -> stages. `judge` is of what has finished by then. Judging exp-100 takes minutes and completes the
#: claim there, training step-100 twice as long as exp-100: so judging comes between the two.
PLANS = {
    "all": ("exp", "judge", "step", "judge", "choices", "others", "seeds"),
    "methods": ("exp", "step"),
    **{name: (name,) for name in (*TRAINING, "judge")},
}
#: Fields of every run: saved often enough that a machine that disappears costs little, no curves that nobody looks at.
_ALWAYS = {"run.checkpoint_minutes": 4.0, "run.tensorboard": False}
#: What --smoke changes: everything runs, in minutes on a CPU; the numbers mean nothing.
_SMOKE = {
    "model.width": 8,
    "optim.epochs": 2,
    "optim.lr": 0.05,
    "optim.clip_norm": 1.0,
    "optim.batch_size": 64,
    "data.limit": 1000,
    "data.test_limit": 100,
    "attack.steps": 2,
    "eval_attack.steps": 3,
}


@dataclass(frozen=True)
class Judging:
    """How far the judged runs are judged.

    Attributes:
        attacks: of `srat-fast evaluate`; the worst case over them is taken image by image.
        images: of the test images, evenly over the classes, for these attacks.
        audit: arguments of `srat-fast audit`.
        features: arguments of `srat-fast analyse`.
    """

    attacks: str
    images: int
    audit: tuple[str, ...]
    features: tuple[str, ...]


#: AutoAttack on all 10,000 images would take hours in fp32.
FULL = Judging("pgd-20,cw-20,autoattack", 500, ("--subset", "200"), ("--subset", "2000", "--points", "1000"))
SMOKE = Judging(
    "pgd-3,cw-3,apgd-ce",
    20,
    ("--subset", "20", "--autoattack", "0", "--queries", "5"),
    (
        "--subset",
        "60",
    ),
)


def planned(text: str) -> list[str]:
    """The stages of --plan.

    Args:
        text: names of `PLANS`, separated by commas.

    Returns:
        Stages in the order of the text.

    Raises:
        ValueError: an unknown name.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in PLANS:
            raise ValueError(name)
    return [stage for name in names for stage in PLANS[name]]


def spec_text(stage: str, data_root: Path, smoke: bool, changes: dict[str, Any]) -> str:
    """The spec of a training stage, as `srat-fast sweep` reads it.

    Args:
        stage: one of `TRAINING`.
        data_root: holds train/ and test/.
        smoke: at the scale of `_SMOKE`.
        changes: recipe fields of every run, the last word.

    Returns:
        A TOML document.
    """
    tree = tomllib.loads((HERE / f"{stage}.toml").read_text(encoding="utf-8"))
    tree["base"] |= {"data_root": str(data_root)} | _ALWAYS | (_SMOKE if smoke else {}) | changes
    if smoke:
        tree["title"] += " (smoke scale: shows that it runs)"
    single = {key: value for key, value in tree.items() if not isinstance(value, dict) and not _tables(value)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in single.items()]
    for key, value in tree.items():
        for table in [value] if isinstance(value, dict) else value if _tables(value) else []:
            lines += ["", f"[[{key}]]" if _tables(value) else f"[{key}]"]
            # a JSON text, number, truth value or list of them is a TOML one
            lines += [f"{json.dumps(name)} = {json.dumps(content)}" for name, content in _flat(table).items()]
    return "\n".join(lines) + "\n"


def _tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names; [base] may hold tables."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found
