"""`srat-fast check-plugin FILE.py`: checks of what a plug-in registers, as a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from srat_fast.tables import Table


def check_plugin(
    file: Annotated[Path, typer.Argument(help="The plug-in; it is run.", metavar="FILE.py")],
    plugin: Annotated[
        list[Path] | None,
        typer.Option(help="Another one that it needs; not checked; repeatable.", metavar="FILE.py"),
    ] = None,
    no_compile: Annotated[
        bool, typer.Option("--no-compile", help="Leave compiled steps out, which take a minute.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Check that a plug-in is fit for training. Its terms, networks and methods on toy batches; exit code 1: not fit.

    Gradients against finite differences in float64, shapes, the order of the batch, float32 and bf16, compiled and
    captured steps against eager ones. Whether a loss is the one that was meant is compared with nothing, unless its
    term brings a `reference`.
    """
    from srat_fast.console import Console
    from srat_fast.training.plugin_checks import FAILED, check_plugin

    checks = list(check_plugin(file, *(plugin or ()), compiled=not no_compile))
    failed = sum(check.verdict == FAILED for check in checks)
    if as_json:
        print(json.dumps([check._asdict() for check in checks], indent=2))
        return int(failed > 0)
    table = Table("entry", "check", "result", "verdict")
    for check in checks:
        table.add(*check)
    console = Console()
    console.print(table)
    console.say(f"{file}: {failed} of {len(checks)} checks failed" if failed else f"{file}: no check failed")
    return int(failed > 0)
