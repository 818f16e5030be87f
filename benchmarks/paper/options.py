"""The command line of `benchmarks/paper/run.py`: words enter, checked arguments leave, or one line and exit code 2."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.paper.children import GRACE, WORTH
from benchmarks.paper.stages import PLANS, planned
from srat_fast.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
#: Where results are kept that the page is made from.
RESULTS = ROOT / "benchmarks" / "results" / "runs" / "paper"
ARCHIVE = "paper-runs.tar.gz"
#: Seconds before the end at which commands are asked to save; packing takes a second or two.
RESERVE = GRACE + 15.0


def options() -> argparse.ArgumentParser:
    """The command line.

    Returns:
        Its parser.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, help="CIFAR-10 as class folders below train/ and test/")
    parser.add_argument("--out", type=Path, default=Path(), help=f"folder that receives {ARCHIVE}")
    parser.add_argument("--work", type=Path, help="where runs and checkpoints are (default: sweeps/paper)")
    parser.add_argument("--minutes", type=float, default=9.0, help="all ends by then")
    parser.add_argument("--plan", default="all", help=f"of {', '.join(PLANS)}, separated by commas, in order")
    parser.add_argument("--slots", type=int, default=1, help="runs at a time on the GPU (1)")
    parser.add_argument("--smoke", action="store_true", help="tiny: shows that everything runs, on a CPU too")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="a recipe field of every run"
    )
    parser.add_argument(
        "--other-code", action="store_true", help="go on with runs that another version of the code began"
    )
    parser.add_argument("--collect", type=Path, metavar="FILE", help="unpack an archive, make the page anew")
    parser.add_argument("--into", type=Path, default=RESULTS, help="with --collect: folder of the results")
    return parser


def bad(problem: str) -> NoReturn:
    """End for bad input, in one line.

    Args:
        problem: the option, its value and what is allowed.
    """
    print(f"error: {problem}", file=sys.stderr)
    sys.exit(2)


def checked(parser: argparse.ArgumentParser, given: list[str] | None) -> argparse.Namespace:
    """Arguments that can be worked with; others end the program with exit code 2.

    Args:
        parser: as `options` gives it.
        given: of the command line.

    Returns:
        The arguments, with `stages` and `changes`.
    """
    from srat_fast.attacks.autoattack import require_pyautoattack
    from srat_fast.data.folder import class_folders
    from srat_fast.recipe import Recipe
    from srat_fast.sweep.local import visible_gpus

    a = parser.parse_args(given)
    if a.data_root is None:
        bad("--data-root: CIFAR-10 as class folders is needed")
    if a.slots < 1:
        bad(f"--slots = {a.slots}: an integer >= 1")
    if 60 * a.minutes <= RESERVE + WORTH:
        least = (RESERVE + WORTH) / 60
        bad(f"--minutes = {a.minutes:g}: more than {least:g}, saving and packing take most of that")
    try:
        a.stages = planned(a.plan)
    except ValueError as error:
        bad(f"--plan = {error}: of {', '.join(PLANS)}")
    a.changes = {}
    for text in a.set:
        name, equals, value = text.partition("=")
        if not equals:
            bad(f"--set = {text}: FIELD=VALUE is needed")
        try:
            a.changes[name] = _value(value)
            Recipe().replace({name: a.changes[name]})
        except UserError as error:
            bad(error.line())
    if not visible_gpus() and not a.smoke:
        bad("no GPU is visible here, where this takes months; --smoke tries everything")
    if a.work is None:
        a.work = ROOT / "sweeps" / ("paper-smoke" if a.smoke else "paper")
    try:
        class_folders(a.data_root)
        if "judge" in a.stages:
            require_pyautoattack("judging")
    except UserError as error:
        bad(error.line())
    return a


def _value(text: str) -> Any:
    """JSON where it is some, else the text as it is: 8, true, running."""
    try:
        return json.loads(text)
    except ValueError:
        return text
