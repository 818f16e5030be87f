"""`srat-fast` whose trials are stand-ins: what a test of the driver starts as a process of its own.

Work and memory of a plan, which `test_plan.py` has, would need torch: three seconds of every process.
"""

from __future__ import annotations

import sys
from pathlib import Path

from srat_fast.recipe import Recipe
from srat_fast.sweep import plan, process

plan.work_of = lambda recipe, counts: float(sum(counts) * recipe.optim.epochs)
plan.memory = lambda made, device: (2**20, next(map(made.recipe, made.trials), Recipe()))
process.CHILD = [sys.executable, str(Path(__file__).with_name("standin.py"))]

if __name__ == "__main__":
    from srat_fast.cli import main

    main(sys.argv[1:])
