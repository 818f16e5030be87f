"""SRAT and its baselines on imbalanced data: recipes in, trained and evaluated models out.

`from srat_fast import Recipe, train, evaluate, audit`; torch is imported only when the last three are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from srat_fast.errors import TrainingFailure, UserError
from srat_fast.recipe import Recipe, build_recipe

if TYPE_CHECKING:
    from srat_fast.evaluation.audit import audit, audit_run
    from srat_fast.evaluation.runs import evaluate
    from srat_fast.training.trainer import train

__version__ = "0.1.0"
__all__ = [
    "Recipe",
    "TrainingFailure",
    "UserError",
    "audit",
    "audit_run",
    "build_recipe",
    "evaluate",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "train":
        from srat_fast.training.trainer import train

        return train
    if name in ("audit", "audit_run"):
        from srat_fast.evaluation import audit

        return getattr(audit, name)
    if name == "evaluate":
        from srat_fast.evaluation.runs import evaluate

        return evaluate
    raise AttributeError(f"module 'srat_fast' has no attribute {name!r}")
