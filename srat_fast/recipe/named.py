"""The named recipes: a name enters, the fields in which it differs from `paper` leave."""

from __future__ import annotations

from typing import Any

from srat_fast.errors import UserError

#: name -> (what it is for, fields that differ from the defaults of `srat_fast.recipe.sections`).
NAMED_RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "paper": ("the authors' semantics at full size: 200 epochs, ResNet-18 of width 64", {}),
    "smoke": (
        "minutes on a CPU: narrow network, few epochs and images; shows that everything runs, not the paper's numbers",
        {
            "model.width": 16,
            "optim.epochs": 4,
            "optim.lr": 0.05,
            "optim.decay": 0.1,
            "optim.clip_norm": 1.0,
            "optim.batch_size": 64,
            "data.limit": 12500,
            "data.test_limit": 1000,
            "attack.steps": 5,
            "attack.step_size": 4 / 255,
        },
    ),
    "digits": (
        "scikit-learn's 8x8 digits: four batches an epoch, so a longer warm-up than the paper's and clipped gradients",
        {
            "data.name": "digits",
            "data.ratio": 10,
            "model.width": 16,
            "optim.epochs": 80,
            "optim.decay": 0.1,
            "optim.clip_norm": 1.0,
            "attack.epsilon": 0.1,
            "attack.step_size": 0.025,
            "eval_attack.step_size": 0.025,
        },
    ),
}

#: Recipe that `--dataset NAME` takes where no `--recipe` is given; the others take `paper`.
DEFAULT_RECIPE = {"digits": "digits"}


def named_fields(name: str) -> dict[str, Any]:
    """The dotted fields in which a named recipe differs from the defaults."""
    if name not in NAMED_RECIPES:
        raise UserError("--recipe", f"one of {', '.join(NAMED_RECIPES)}, or a file ending in .toml", name)
    return dict(NAMED_RECIPES[name][1])
