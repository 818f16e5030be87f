"""Data before the first trial: recipes enter; downloaded, checked and cached data sets leave, made once for all."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from srat_fast.errors import UserError
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.sweep.plan import Trial
from srat_fast.sweep.process import spawn, tail


def prepare(arguments: list[str]) -> None:
    """Load the data set of a recipe once: what trials then find prepared.

    Args:
        arguments: the recipe's file.

    Raises:
        SystemExit: 2 the data are not there or damaged.
    """
    from srat_fast.data.split import load_split
    from srat_fast.recipe import build_recipe

    try:
        load_split(build_recipe(str(Path(arguments[0]))).resolve())
    except UserError as error:
        print(f"error: {error.line()}", file=sys.stderr)
        sys.exit(2)


def prepare_data(sweep: SweepDirectory, trials: list[Trial], say: Callable[[str], None]) -> None:
    """Prepare each data set of the trials once, in a process of its own, whose memory goes back.

    Args:
        sweep: the sweep.
        trials: those that will run.
        say: told of each set.

    Raises:
        UserError: a set is not there or damaged; no trial has been started then.
    """
    seen = set()
    for trial in trials:
        data = sweep.plan.recipes[trial.cell]
        key = tuple(str(data.get(f"data.{name}")) for name in ("name", "root", "image_size"))
        if key in seen or key[0] == "digits":  # comes with scikit-learn
            continue
        seen.add(key)
        say(f"preparing {key[0]} ({key[1]})")
        path = sweep.path / "logs" / f"data-{len(seen)}.txt"
        with path.open("wb") as log:
            process = spawn(["prepare", str(sweep.write_recipe(trial))], dict(os.environ), log)
            try:
                code = process.wait()
            except BaseException:
                process.kill()
                raise
        if code != 0:
            lines = [line for line in tail(path, 0).splitlines() if line.strip()]
            problem = lines[-1].removeprefix("error: ") if lines else f"exit code {code}"
            raise UserError("data", f"cannot be prepared: {problem} ({path})", key[0])
