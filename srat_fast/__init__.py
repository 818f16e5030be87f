"""SRAT and its baselines on imbalanced data: recipes in, trained and evaluated models out.

`from srat_fast import Recipe, train, evaluate, audit, analyse, load, export`; torch is imported when one of the last
six is first used.
"""

from __future__ import annotations

import importlib
import os

TYPE_CHECKING = False  # as typing has it, whose import takes longer than this file's
if TYPE_CHECKING:
    from srat_fast.errors import TrainingFailure, UserError
    from srat_fast.evaluation.analyses import analyse
    from srat_fast.evaluation.audit import audit, audit_run
    from srat_fast.evaluation.runs import evaluate
    from srat_fast.recipe import Recipe, build_recipe
    from srat_fast.sharing.export import export
    from srat_fast.sharing.load import load
    from srat_fast.training.trainer import train

# torch reads it once, at a process's first matrix product on a GPU, and refuses deterministic ones without it; it is
# what a Hopper GPU gets anyway
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

__version__ = "0.1.0"
__all__ = [
    "Recipe",
    "TrainingFailure",
    "UserError",
    "analyse",
    "audit",
    "audit_run",
    "build_recipe",
    "evaluate",
    "export",
    "load",
    "train",
]

#: What is imported when it is first used, most of it with torch -> where it is.
_LATE = {
    "Recipe": "srat_fast.recipe",
    "TrainingFailure": "srat_fast.errors",
    "UserError": "srat_fast.errors",
    "build_recipe": "srat_fast.recipe",
    "analyse": "srat_fast.evaluation.analyses",
    "audit": "srat_fast.evaluation.audit",
    "audit_run": "srat_fast.evaluation.audit",
    "evaluate": "srat_fast.evaluation.runs",
    "export": "srat_fast.sharing.export",
    "load": "srat_fast.sharing.load",
    "train": "srat_fast.training.trainer",
}


def __getattr__(name: str) -> object:
    if name in _LATE:
        return getattr(importlib.import_module(_LATE[name]), name)
    raise AttributeError(f"module 'srat_fast' has no attribute {name!r}")
